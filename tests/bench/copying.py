"""One measured run in a process of its own: `python -m tests.bench.copying JSON`, JSON out.

task "copy": the whole flists job until it follows. task "limit": the same listing, MGET and hash
check with the same connections and batches, into nothing. task "store": all of it is fetched into
memory first, and what is measured is how quickly the slave takes it.
"""

import contextlib
import json
import selectors
import subprocess
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from typing_extensions import override

from sync.agent.chunks.copying.channel import connect
from sync.agent.chunks.copying.copy_loop import (
    UNACKNOWLEDGED_BYTES,
    WINDOW_LOOK_SECONDS,
    CopyLoop,
)
from sync.agent.chunks.copying.fetcher import Fetched
from sync.agent.chunks.copying.writer import Writer
from sync.agent.chunks.scan.cut_points import known_keys, plan
from sync.agent.chunks.scan.index_source import IndexSource
from sync.agent.job import Control, Directories
from sync.agent.status_writer import StatusWriter, first_record
from sync.agent.supervisor import EngineLoop, collect_garbage_seldom
from sync.agent.zdb.connection import ZdbConnection
from sync.contract.spec import FlistsSpec, ZdbEndpoint

_LONGEST_SECONDS: Final = 900


@dataclass(frozen=True)
class Run:
    """What a run took: entries and payload bytes copied, seconds, peak memory, CPU seconds."""

    items: int
    payload_bytes: int
    seconds: float
    peak_mib: float
    cpu_seconds: float

    @property
    def items_per_second(self) -> float:
        """Entries per second."""
        return self.items / self.seconds


def measured(task: str, source: tuple[str, int], local: ZdbEndpoint, job_directory: Path) -> Run:
    """Run a task in a new process and return what it took. Raises RuntimeError."""
    request = {
        "task": task,
        "source": {"host": source[0], "port": source[1]},
        "local": local.model_dump(),
        "directory": str(job_directory),
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.copying", json.dumps(request)],
        capture_output=True,
        text=True,
        check=False,
        timeout=_LONGEST_SECONDS,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{task}: {done.stderr[-2000:]}")
    return Run(**json.loads(done.stdout.splitlines()[-1]))


def make_directories(root: Path, password: str) -> Directories:
    """Make the folders of a job below `root`."""
    names = ("state", "secrets", "users_state")
    for name in names:
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "secrets" / "zdb-admin").write_text(password)
    return Directories(**{name: root / name for name in names})


def _spec(request: dict[str, Any]) -> FlistsSpec:
    source = ZdbEndpoint(**request["source"])
    local = ZdbEndpoint(**request["local"])
    return FlistsSpec(stack="bench", sources=[source], local_zdb=local, free_space_floor_bytes=0)


def _copy(spec: FlistsSpec, directories: Directories) -> Run:
    record = first_record("flists", str(spec.source), "bench")
    status = StatusWriter(directories.state / "status.json", record)
    control = Control()
    failures: list[Exception] = []

    def run() -> None:
        try:
            EngineLoop(spec, directories, status, control).run()
        except Exception as error:  # noqa: BLE001 - told below
            failures.append(error)

    thread = threading.Thread(target=run)
    started, cpu_started = time.monotonic(), time.process_time()
    thread.start()
    while status.record.phase != "following" and thread.is_alive():
        time.sleep(0.01)
    seconds, cpu_seconds = time.monotonic() - started, time.process_time() - cpu_started
    control.stop()
    thread.join()
    status.close()
    if failures:
        raise failures[0]
    details = status.record.details
    items, size = int(details["copied_items"]), int(details["copied_bytes"])
    return Run(items, size, seconds, _peak_mib(), cpu_seconds)


def _fetch_all(spec: FlistsSpec, directories: Directories, loop: CopyLoop) -> None:
    """List and fetch what the master has, once."""
    with ZdbConnection.open(spec.source) as master:
        keys = known_keys(directories.users_state, spec.scanners)
        spans = plan(master, spec.scanners, keys, master.nsinfo().entries)
    loop.probing = False
    source = IndexSource(spec, spans)
    loop.watch(source.scanners)
    while not source.following or loop.busy:
        if loop.has_room:
            loop.copy(source.pull(time.monotonic()))
        if loop.step(time.monotonic() + 0.25):
            source.acknowledge()
        loop.check_times()


class _Nowhere(CopyLoop):
    """Stores nothing of what it fetched."""

    @override
    def _store(self, fetched: Fetched) -> None:
        self._on_stored(fetched.batch, len(fetched.keys), fetched.payload_bytes)


def _limit(spec: FlistsSpec, directories: Directories) -> Run:
    started, cpu_started = time.monotonic(), time.process_time()
    loop = _Nowhere(spec, directories.zdb_admin_password())
    with contextlib.closing(loop):
        _fetch_all(spec, directories, loop)
        seconds, cpu_seconds = time.monotonic() - started, time.process_time() - cpu_started
        counters = loop.counters
    return Run(counters.new_items, counters.new_bytes, seconds, _peak_mib(), cpu_seconds)


class _Keeping(_Nowhere):
    """Keeps what was fetched, as the SET requests that would go to the slave."""

    def __init__(self, spec: FlistsSpec, password: str | None) -> None:
        self.fetched: deque[Fetched] = deque()
        super().__init__(spec, password)

    @override
    def _store(self, fetched: Fetched) -> None:
        fetched.pieces = [b"".join(fetched.pieces)]
        self.fetched.append(fetched)
        super()._store(fetched)


def _store(spec: FlistsSpec, directories: Directories) -> Run:
    password = directories.zdb_admin_password()
    with contextlib.closing(_Keeping(spec, password)) as loop:
        _fetch_all(spec, directories, loop)
    stored: list[tuple[int, int]] = []
    slave = connect("slave", spec.local_zdb, password, spec.io_timeout_seconds)
    writer = Writer(slave, lambda _, items, size: stored.append((items, size)))
    started, cpu_started = time.monotonic(), time.process_time()
    with contextlib.closing(writer), selectors.DefaultSelector() as selector:
        selector.register(writer.socket, selectors.EVENT_READ)
        while loop.fetched or writer.awaiting():
            while loop.fetched and writer.unacknowledged_bytes <= UNACKNOWLEDGED_BYTES:
                writer.store(loop.fetched.popleft())
            if selector.select(WINDOW_LOOK_SECONDS):
                writer.on_readable()
            writer.look()
            writer.on_writable()
            writer.check_time(time.monotonic())
    seconds, cpu_seconds = time.monotonic() - started, time.process_time() - cpu_started
    items, size = sum(items for items, _ in stored), sum(size for _, size in stored)
    return Run(items, size, seconds, _peak_mib(), cpu_seconds)


def _peak_mib() -> float:
    # Not ru_maxrss: that begins with what the parent had when it started us.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (peak,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(peak.split()[1]) / 1024


def main(text: str) -> None:
    """Do what the request says and print a Run as JSON."""
    request = json.loads(text)
    # As the agent's own command line does.
    collect_garbage_seldom()
    spec = _spec(request)
    root = Path(request["directory"])
    directories = Directories(
        state=root / "state", secrets=root / "secrets", users_state=root / "users_state"
    )
    task = {"copy": _copy, "limit": _limit, "store": _store}[request["task"]]
    print(json.dumps(vars(task(spec, directories))))


if __name__ == "__main__":
    main(sys.argv[1])
