"""How soon a new mirror boots official software while a hundred times as much is still to come.

Both jobs run as they do on a host, as processes, over one narrow line; the clock starts with them
and the mirror's 0-db is empty.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from sync.agent.status_writer import read_status
from sync.contract import spec as contract
from sync.contract.spec import FlistsSpec, UsersSpec, ZdbEndpoint
from sync.contract.status import StatusRecord
from tests.bench.hubs import Hub, serving
from tests.bench.servers import ADMIN_PASSWORD, ZdbProcess
from tests.sandbox.host import run
from tests.sandbox.wan import Link, relay_process

BARS: Final = {"users.first_bootable_fraction": ("<=", 0.03)}
_LOCAL: Final = "127.0.0.1"
_LONGEST_SECONDS: Final = 600
_RATIO: Final = 100


def _prepared(root: Path, spec: UsersSpec | FlistsSpec) -> list[str]:
    """Make a job's directories; returns its command line."""
    command = [sys.executable, "-m", "sync.agent", "run", spec.job]
    for name in ("spec", "state", "secrets", "public"):
        folder = root / spec.job / name
        folder.mkdir(parents=True)
        command += [f"--{name}-dir", str(folder)]
    command += ["--users-state-dir", str(root / "users" / "state")]
    (root / spec.job / "secrets" / "zdb-admin").write_text(ADMIN_PASSWORD)
    (root / spec.job / "spec" / "spec.json").write_bytes(contract.canonical(spec))
    return command


@contextmanager
def _running(command: list[str], log: Path) -> Iterator[None]:
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        yield
    finally:
        process.terminate()
        process.wait(20)


def _await(root: Path, moments: dict[str, float], started: float) -> None:
    """Note when the first official flist was served, and when either job was through."""
    deadline = time.monotonic() + _LONGEST_SECONDS
    while len(moments) < 3:
        records = {job: read_status(root / job / "state" / "status.json") for job in _JOBS}
        for name, reached in _reached(records).items():
            if reached and name not in moments:
                moments[name] = time.time() - started
        for record in records.values():
            if record is not None and record.phase == "failed":
                raise RuntimeError(f"{record.job}: {record.reason}")
        if time.monotonic() > deadline:
            raise TimeoutError(f"not synced in {_LONGEST_SECONDS} s: {records}")
        time.sleep(0.01)


_JOBS: Final = ("users", "flists")


def _reached(records: dict[str, StatusRecord | None]) -> dict[str, bool]:
    users, flists = records["users"], records["flists"]
    return {
        "bootable": users is not None and users.bootable_at is not None,
        "users": users is not None and users.first_pass_at is not None,
        "flists": flists is not None and flists.first_pass_at is not None,
    }


def measure(*, small: bool) -> dict[str, float]:
    """Return the figures by name."""
    flists, chunk_bytes = 20, 4096 if not small else 256
    named = flists * 40 + 60
    hub = Hub(
        repositories=1,
        flists=flists,
        families=1,
        files=104,
        chunk_bytes=chunk_bytes,
        bulk_chunks=named * (_RATIO if not small else 10),
    )
    narrow = Link(0.03, 6_000_000 if not small else None)
    moments: dict[str, float] = {}
    with ExitStack() as stack:
        root = Path(stack.enter_context(run.in_memory()))
        ports = stack.enter_context(serving(hub))
        local = stack.enter_context(ZdbProcess(root / "zdb", admin=ADMIN_PASSWORD)).endpoint
        _, hub_port = stack.enter_context(relay_process((_LOCAL, ports.hub), narrow))
        _, zdb_port = stack.enter_context(relay_process((_LOCAL, ports.zdb), narrow))
        source = ZdbEndpoint(host=_LOCAL, port=zdb_port)
        common: dict[str, Any] = {"stack": "bench", "local_zdb": local}
        hub_url = f"http://{_LOCAL}:{hub_port}"
        users = _prepared(root, UsersSpec(sources=[hub_url], sources_zdb=[source], **common))
        bulk = _prepared(root, FlistsSpec(sources=[source], **common))
        started = time.time()
        stack.enter_context(_running(bulk, root / "flists.log"))
        stack.enter_context(_running(users, root / "users.log"))
        _await(root, moments, started)
    whole = max(moments["users"], moments["flists"])
    return {
        "users.first_bootable_seconds": moments["bootable"],
        "users.whole_sync_seconds": whole,
        "users.first_bootable_fraction": moments["bootable"] / whole,
    }


if __name__ == "__main__":
    print(json.dumps(measure(small="--small" in sys.argv), indent=2))
