"""Which of the listed kernels are wanted, and how links are named.

A link is named by its path below the kernel folder, which is also its path below `/kernel/`:
`net/MODE.efi` for a run mode's net link, `NAME` for one at the top (0-bootstrap: api_symlink).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from sync.agent.kernels.listing import NET, Kernel
from sync.contract import names
from sync.contract.spec import KernelsSpec

_DAY_SECONDS: Final = 86_400.0


@dataclass(frozen=True)
class LinkedFile:
    """The file at a link, as HEAD describes it: its size and Last-Modified (unix seconds)."""

    size_bytes: int | None = None
    modified_seconds: float | None = None


def net_link(mode: str) -> str:
    """Path of a run mode's net link. Raises RefusedNameError for a bad mode."""
    return f"{NET}/{names.checked_plain(mode, 'run mode')}.efi"


def is_net(path: str) -> bool:
    """Return whether a link is a net link, not one at the top."""
    return path.startswith(f"{NET}/")


def named(path: str) -> str:
    """Name a link in messages: `net link prod`, `link zos.efi`."""
    return f"net link {path[len(NET) + 1 : -len('.efi')]}" if is_net(path) else f"link {path}"


def wanted(
    kernels: Iterable[Kernel], spec: KernelsSpec, linked: set[str], now_seconds: float
) -> list[Kernel]:
    """Return the kernels to mirror: those that links name first, then the newest first."""
    by_age = sorted(kernels, key=lambda kernel: (-(kernel.updated_seconds or 0.0), kernel.name))
    chosen = [kernel for kernel in by_age if spec.kernels.takes(kernel.name)]
    if spec.max_age_days is not None:
        oldest = now_seconds - spec.max_age_days * _DAY_SECONDS
        chosen = [kernel for kernel in chosen if (kernel.updated_seconds or 0.0) >= oldest]
    keep = {kernel.name for kernel in chosen[: spec.newest]}
    first = [kernel for kernel in by_age if kernel.name in linked]
    return first + [kernel for kernel in by_age if kernel.name in keep - linked]
