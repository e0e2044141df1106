"""The users job: first and unchanged pass, against upstream's algorithm and the plain limit."""

import json
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from sync.agent.hub.engine import UsersEngine
from sync.agent.job import Control, Directories
from sync.agent.status_writer import StatusWriter, first_record
from sync.contract.spec import UsersSpec, ZdbEndpoint
from tests.bench import downloads
from tests.bench.hubs import Hub, Ports, serving
from tests.bench.servers import ADMIN_PASSWORD, ZdbProcess
from tests.sandbox.host import run
from tests.sandbox.wan import Link, relay_process

CONNECTIONS: Final = 16
BARS: Final = {
    "users.rtt30.vs_sequential": (">=", 20.0),
    "users.rtt30.vs_limit": ("<=", 1.3),
    "users.unchanged_requests": ("<=", 1.0),
    "users.unchanged_ms": ("<=", 50.0),
}
_LOCAL: Final = "127.0.0.1"


@dataclass(frozen=True)
class Site:
    """A mirror to be measured: the master as it is reached, and the mirror's own 0-db."""

    hub_port: int
    master_zdb: ZdbEndpoint
    local_zdb: ZdbEndpoint
    rewrite: bool = False

    def spec(self) -> UsersSpec:
        """Return the job's spec."""
        return UsersSpec(
            stack="bench",
            sources=[f"http://{_LOCAL}:{self.hub_port}"],
            sources_zdb=[self.master_zdb],
            local_zdb=self.local_zdb,
            publish_backend=ZdbEndpoint(host="mirror.example") if self.rewrite else None,
        )


@contextmanager
def engine(directories: Directories, site: Site) -> Iterator[tuple[UsersEngine, StatusWriter]]:
    """Yield a job as a fresh process has it."""
    spec = site.spec()
    record = first_record("users", spec.source, "bench")
    status = StatusWriter(directories.state / "status.json", record)
    try:
        with UsersEngine(spec, directories, status, Control()) as made:
            yield made, status
    finally:
        status.close()


def make_directories(root: Path) -> Directories:
    """Make a job's directories below `root`."""
    directories = Directories(**{name: root / name for name in ("state", "secrets", "public")})
    for path in (directories.state, directories.secrets, directories.public):
        path.mkdir(parents=True)
    (directories.secrets / "zdb-admin").write_text(ADMIN_PASSWORD)
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


def first_pass(root: Path, site: Site) -> tuple[float, Directories]:
    """Run a first pass; returns its seconds and the mirror."""
    directories = make_directories(root)
    with engine(directories, site) as (made, status):
        started = time.monotonic()
        made.one_pass()
        seconds = time.monotonic() - started
        if status.record.lag.items != 0:
            raise RuntimeError(f"the pass left something undone: {status.record}")
    return seconds, directories


def unchanged(directories: Directories, site: Site) -> tuple[int, float]:
    """Return requests and milliseconds of a pass over an unchanged master, best of five."""
    best, asked = float("inf"), 0
    with engine(directories, site) as (made, _):
        made.one_pass()
        for _ in range(5):
            before, started = made._master.requests_sent, time.monotonic()
            made.one_pass()
            best = min(best, time.monotonic() - started)
            asked = made._master.requests_sent - before
    return asked, best * 1000


@contextmanager
def synced_site(hub: Hub, rtt_seconds: float, folder: Path) -> Iterator[tuple[Site, Ports]]:
    """Yield a master and a mirror whose bulk sync is done: its 0-db has every chunk."""
    with (
        serving(hub) as ports,
        ZdbProcess(folder / "zdb", admin=ADMIN_PASSWORD) as zdb,
        relay_process((_LOCAL, ports.hub), Link(rtt_seconds)) as (_, hub_port),
    ):
        master_zdb = ZdbEndpoint(host=_LOCAL, port=ports.zdb)
        first_pass(folder / "filling", Site(ports.hub, master_zdb, zdb.endpoint))
        yield Site(hub_port, master_zdb, zdb.endpoint), ports


def measure_rtt(hub: Hub, rtt_seconds: float, rounds: int) -> dict[str, float]:
    """Measure one round trip time; ours and the limit are each the best of `rounds`."""
    name = f"users.rtt{rtt_seconds * 1000:.0f}"
    ours, limit = [], []
    with (
        run.in_memory() as temporary,
        synced_site(hub, rtt_seconds, Path(temporary)) as (site, ports),
    ):
        folder = Path(temporary)
        paths = listed_paths(ports.hub)
        for number in range(rounds):
            target = folder / f"limit-{number}"
            target.mkdir()
            limit.append(downloads.parallel(site.hub_port, paths, target, CONNECTIONS))
            ours.append(first_pass(folder / f"ours-{number}", site)[0])
        rewritten, _ = first_pass(folder / "rewritten", replace(site, rewrite=True))
        target = folder / "sequential"
        target.mkdir()
        base = f"http://{_LOCAL}:{site.hub_port}"
        sequential = downloads.sequential(base, paths, target)
    return {
        f"{name}.seconds": min(ours),
        f"{name}.rewriting_seconds": rewritten,
        f"{name}.limit_seconds": min(limit),
        f"{name}.sequential_seconds": sequential,
        f"{name}.vs_sequential": sequential / min(ours),
        f"{name}.vs_limit": min(ours) / min(limit),
        f"{name}.flist_mb": ports.flist_bytes / 1e6,
    }


def measure_unchanged(hub: Hub) -> dict[str, float]:
    """Measure an unchanged pass, without delay: what is left is our own work."""
    with (
        run.in_memory() as temporary,
        synced_site(hub, 0, Path(temporary)) as (site, _),
    ):
        _, directories = first_pass(Path(temporary) / "mirror", site)
        asked, milliseconds = unchanged(directories, site)
    return {"users.unchanged_requests": float(asked), "users.unchanged_ms": milliseconds}


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
