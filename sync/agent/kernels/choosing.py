"""Which of the listed kernels are wanted, and which kernel each run mode's net link names."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from sync.agent.kernels.listing import Kernel
from sync.agent.selecting import selects
from sync.contract import names
from sync.contract.spec import KernelsSpec

_DAY_SECONDS: Final = 86_400.0


@dataclass(frozen=True)
class NetFile:
    """What HEAD says of /kernel/net/MODE.efi: its size and Last-Modified (unix seconds)."""

    mode: str
    size_bytes: int | None
    modified_seconds: float | None


def link_name(mode: str) -> str:
    """File name of a run mode's net link. Raises RefusedNameError for a bad mode."""
    return names.checked_plain(mode, "run mode") + ".efi"


def wanted(
    kernels: Iterable[Kernel], spec: KernelsSpec, named: set[str], now_seconds: float
) -> list[Kernel]:
    """Return the kernels to mirror: those that net links name first, then the newest first."""
    by_age = sorted(kernels, key=lambda kernel: (-(kernel.updated_seconds or 0.0), kernel.name))
    chosen = [kernel for kernel in by_age if selects(spec.kernels, kernel.name)]
    if spec.max_age_days is not None:
        oldest = now_seconds - spec.max_age_days * _DAY_SECONDS
        chosen = [kernel for kernel in chosen if (kernel.updated_seconds or 0.0) >= oldest]
    if spec.newest is not None:
        chosen = chosen[: spec.newest]
    keep = {kernel.name for kernel in chosen}
    linked = [kernel for kernel in by_age if kernel.name in named]
    return linked + [
        kernel for kernel in by_age if kernel.name in keep and kernel.name not in named
    ]


def candidates(net: NetFile, kernels: Iterable[Kernel]) -> list[Kernel]:
    """Return the kernels that may be what a net link points to, judged by time alone.

    The listing and Last-Modified both come from the file's mtime, so they agree to the second;
    where either is unknown a kernel stays a candidate.
    """
    if net.modified_seconds is None:
        return list(kernels)
    return [
        kernel
        for kernel in kernels
        if kernel.updated_seconds is None
        or int(kernel.updated_seconds) == int(net.modified_seconds)
    ]
