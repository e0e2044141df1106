"""The users job: first and unchanged pass, against upstream's algorithm and the plain limit."""

import json
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from sync.agent.reporter import Reporter, utc_now
from sync.agent.runtime import Directories, RunControl
from sync.agent.users.engine import UsersEngine
from sync.contract.spec import UsersSpec, ZdbEndpoint
from sync.contract.status import MasterIdentity, StatusRecord
from tests.bench import downloads
from tests.bench.hubs import ADMIN, Hub, Ports, serving
from tests.sandbox.wan import Link, relay_process

CONNECTIONS: Final = 16
BARS: Final = {
    "users.rtt30.vs_sequential": (">=", 20.0),
    "users.rtt30.vs_limit": ("<=", 1.3),
    "users.unchanged_requests": ("<=", 1.0),
    "users.unchanged_ms": ("<=", 50.0),
}
_LOCAL: Final = "127.0.0.1"


@contextmanager
def engine(
    directories: Directories, ports: Ports, hub_port: int, *, rewrite: bool = False
) -> Iterator[tuple[UsersEngine, Reporter]]:
    """Yield a job as a fresh process has it, its bulk sync done."""
    spec = UsersSpec(
        stack="bench",
        source=f"http://{_LOCAL}:{hub_port}",
        source_zdb=ZdbEndpoint(host=_LOCAL, port=ports.zdb),
        local_zdb=ZdbEndpoint(host=_LOCAL, port=ports.filled_zdb),
        publish_backend=ZdbEndpoint(host="mirror.example") if rewrite else None,
    )
    now = utc_now()
    record = StatusRecord(
        job="users",
        spec_digest=None,
        agent_version="bench",
        phase="starting",
        started_at=now,
        updated_at=now,
        master=MasterIdentity(source=spec.source),
    )
    reporter = Reporter(directories.state / "status.json", record)
    try:
        with UsersEngine(spec, directories, reporter, RunControl()) as made:
            yield made, reporter
    finally:
        reporter.close()


def make_directories(root: Path) -> Directories:
    """Make a job's directories below `root`."""
    directories = Directories(**{name: root / name for name in ("state", "secrets", "public")})
    for path in (directories.state, directories.secrets, directories.public):
        path.mkdir(parents=True)
    (directories.secrets / "zdb-admin").write_text(ADMIN)
    return directories


def listed_paths(hub_port: int) -> list[str]:
    """Return the paths of all flists, as a hub lists them."""
    with urllib.request.urlopen(f"http://{_LOCAL}:{hub_port}/api/fileslist") as reply:
        listing = json.load(reply)
    return [
        f"/{repository}/{entry['name']}"
        for repository, entries in listing.items()
        for entry in entries
        if entry["type"] == "regular"
    ]


def first_pass(
    root: Path, ports: Ports, hub_port: int, *, rewrite: bool = False
) -> tuple[float, Directories]:
    """Run a first pass; returns its seconds and the mirror."""
    directories = make_directories(root)
    with engine(directories, ports, hub_port, rewrite=rewrite) as (made, reporter):
        started = time.monotonic()
        made.one_pass()
        seconds = time.monotonic() - started
        if reporter.record.lag.items != 0:
            raise RuntimeError(f"the pass left something undone: {reporter.record}")
    return seconds, directories


def unchanged(directories: Directories, ports: Ports, hub_port: int) -> tuple[int, float]:
    """Return requests and milliseconds of a pass over an unchanged master, best of five."""
    best = float("inf")
    with engine(directories, ports, hub_port) as (made, _):
        made.one_pass()
        for _ in range(5):
            asked, started = made.requests_sent, time.monotonic()
            made.one_pass()
            best = min(best, time.monotonic() - started)
            asked = made.requests_sent - asked
    return asked, best * 1000


def measure_rtt(hub: Hub, rtt_seconds: float, rounds: int) -> dict[str, float]:
    """Measure one round trip time; each figure is the best of `rounds`."""
    name = f"users.rtt{rtt_seconds * 1000:.0f}"
    ours, limit = [], []
    with (
        serving(hub) as ports,
        relay_process((_LOCAL, ports.hub), Link(rtt_seconds)) as (_, hub_port),
        tempfile.TemporaryDirectory(dir=_memory()) as folder,
    ):
        paths = listed_paths(hub_port)
        for number in range(rounds):
            target = Path(folder) / f"limit-{number}"
            target.mkdir()
            limit.append(downloads.parallel(hub_port, paths, target, CONNECTIONS))
            seconds, _ = first_pass(Path(folder) / f"ours-{number}", ports, hub_port)
            ours.append(seconds)
        rewritten, _ = first_pass(Path(folder) / "rewritten", ports, hub_port, rewrite=True)
        target = Path(folder) / "sequential"
        target.mkdir()
        sequential = downloads.sequential(f"http://{_LOCAL}:{hub_port}", paths, target)
        flist_bytes = ports.flist_bytes
    return {
        f"{name}.seconds": min(ours),
        f"{name}.rewriting_seconds": rewritten,
        f"{name}.limit_seconds": min(limit),
        f"{name}.sequential_seconds": sequential,
        f"{name}.vs_sequential": sequential / min(ours),
        f"{name}.vs_limit": min(ours) / min(limit),
        f"{name}.flist_mb": flist_bytes / 1e6,
    }


def measure_unchanged(hub: Hub) -> dict[str, float]:
    """Measure an unchanged pass, without delay: what is left is our own work."""
    with serving(hub) as ports, tempfile.TemporaryDirectory(dir=_memory()) as folder:
        _, directories = first_pass(Path(folder) / "mirror", ports, ports.hub)
        asked, milliseconds = unchanged(directories, ports, ports.hub)
    return {"users.unchanged_requests": float(asked), "users.unchanged_ms": milliseconds}


def _memory() -> str | None:
    """Name a place where files cost no disk: the same for all that is compared."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def measure(*, small: bool) -> dict[str, float]:
    """Return every figure of the users job by its name."""
    hub = Hub(flists=40, families=2, files=200) if small else Hub()
    rounds = 1 if small else 3
    figures: dict[str, float] = {}
    for rtt_seconds in (0.0, 0.03):
        figures |= measure_rtt(hub, rtt_seconds, rounds)
    count = 40 if small else 500
    return figures | measure_unchanged(Hub(flists=count, families=2, files=200))


if __name__ == "__main__":
    print(json.dumps(measure(small="--small" in sys.argv), indent=2))
