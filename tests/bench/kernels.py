"""The kernels job: first and unchanged pass, against upstream's algorithm and the plain limit."""

import json
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from sync.agent.job import Control, Directories
from sync.agent.kernels.engine import KernelsEngine
from sync.agent.status_writer import StatusWriter, first_record
from sync.contract.spec import KernelsSpec
from tests.bench import downloads
from tests.bench.hubs import Hub, serving
from tests.sandbox.host import run
from tests.sandbox.wan import Link, relay_process

BARS: Final = {"kernels.rtt30.vs_sequential": (">=", 6.0)}
_LOCAL: Final = "127.0.0.1"
_WINDOW_BYTES: Final = 512 << 10
_PIECE_BYTES: Final = 4 << 20


@contextmanager
def engine(root: Path, port: int) -> Iterator[KernelsEngine]:
    """Yield a job as a fresh process has it, with the defaults of the spec."""
    spec = KernelsSpec(stack="bench", sources=[f"http://{_LOCAL}:{port}"])
    directories = Directories(state=root / "state", kernels=root / "kernels")
    for path in (directories.state, directories.kernels):
        path.mkdir(parents=True, exist_ok=True)
    record = first_record("kernels", spec.source, "bench")
    status = StatusWriter(directories.state / "status.json", record)
    try:
        with KernelsEngine(spec, directories, status, Control()) as made:
            yield made
    finally:
        status.close()


def first_and_unchanged(root: Path, port: int) -> tuple[float, float, int]:
    """Return the seconds of a first pass, those of a second one, and the second's requests."""
    with engine(root, port) as made:
        started = time.monotonic()
        made.one_pass()
        first = time.monotonic() - started
        before, started = made._master.requests_sent, time.monotonic()
        made.one_pass()
        return first, time.monotonic() - started, made._master.requests_sent - before


def measure_link(hub: Hub, name: str, link: Link, rounds: int) -> dict[str, float]:
    """Measure one kind of network; ours and the limit are each the best of `rounds`."""
    sizes = {f"/kernel/zos-{number:02}.efi": hub.kernel_bytes for number in range(hub.kernels)}
    connections = KernelsSpec(stack="bench", sources=["http://x"]).http.connections
    ours, limit = [], []
    with (
        serving(hub) as ports,
        relay_process((_LOCAL, ports.bootstrap), link) as (_, port),
        run.in_memory() as folder,
    ):
        target = Path(folder) / "target"
        for _ in range(rounds):
            target.mkdir()
            limit.append(downloads.ranged(port, sizes, target, connections, _PIECE_BYTES))
            shutil.rmtree(target)
            ours.append(first_and_unchanged(target, port))
            shutil.rmtree(target)
        target.mkdir()
        sequential = downloads.sequential(f"http://{_LOCAL}:{port}", list(sizes), target)
    best = min(ours)
    return {
        f"{name}.seconds": best[0],
        f"{name}.unchanged_ms": best[1] * 1000,
        f"{name}.unchanged_requests": float(best[2]),
        f"{name}.limit_seconds": min(limit),
        f"{name}.sequential_seconds": sequential,
        f"{name}.vs_sequential": sequential / best[0],
        f"{name}.vs_limit": best[0] / min(limit),
    }


def measure(*, small: bool) -> dict[str, float]:
    """Return every figure of the kernels job by its name."""
    hub = Hub(flists=0, families=1, kernels=4 if small else 15, kernel_bytes=28_000_000)
    if small:
        hub = Hub(flists=0, families=1, kernels=4, kernel_bytes=1_000_000)
    rounds = 1 if small else 3
    figures = measure_link(hub, "kernels.rtt0", Link(), rounds)
    slow = Link(rtt_seconds=0.03, window_bytes=_WINDOW_BYTES)
    return figures | measure_link(hub, "kernels.rtt30", slow, rounds)


if __name__ == "__main__":
    print(json.dumps(measure(small="--small" in sys.argv), indent=2))
