"""A small bootstrap server, and a kernels mirror driven pass by pass by a test."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

from sync.agent.job import Control, Directories
from sync.agent.kernels.engine import KernelsEngine
from sync.contract.spec import KernelsSpec
from sync.contract.status import StatusRecord
from tests.agent.mirrors import make_status
from tests.sandbox.upstream import Upstream, UpstreamModel

OLD = 1_700_000_000.0
DAY = 86_400.0


def kernels_model() -> UpstreamModel:
    """Return six kernels, a day apart, and the four net links."""
    model = UpstreamModel()
    chance = random.Random(1)
    for number in range(6):
        model.add_kernel(
            f"zos-{number}.efi", b"MZ" + chance.randbytes(40_000 + number), OLD + number * DAY
        )
    for mode, number in (("prod", 1), ("test", 2), ("dev", 4), ("qa", 5)):
        model.set_net_link(mode, f"zos-{number}.efi")
    return model


@contextmanager
def engine_of(spec: KernelsSpec, directories: Directories) -> Iterator[KernelsEngine]:
    status = make_status("kernels", directories, spec.source)
    try:
        with KernelsEngine(spec, directories, status, Control()) as engine:
            yield engine
    finally:
        status.close()


def one_pass(spec: KernelsSpec, directories: Directories) -> StatusRecord:
    with engine_of(spec, directories) as engine:
        engine.one_pass()
        return engine._status.record


def served(directories: Directories) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes()
        for path in directories.kernels.iterdir()
        if path.is_file() and not path.is_symlink()
    }


def links(directories: Directories) -> dict[str, str]:
    net = directories.kernels / "net"
    return {path.stem: str(path.readlink()) for path in net.iterdir()}


def top_links(directories: Directories) -> dict[str, str]:
    folder = directories.kernels
    return {path.name: str(path.readlink()) for path in folder.iterdir() if path.is_symlink()}


def kernels(upstream: Upstream) -> dict[str, bytes]:
    return {name: kernel.data for name, kernel in upstream.model.kernels.items()}
