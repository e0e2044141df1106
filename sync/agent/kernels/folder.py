"""The mirror's kernel folder, which 0-bootstrap serves as kernel-path: the regular files in it."""

import os
import stat
from pathlib import Path

from sync.agent import durable
from sync.agent.kernels.fetcher import Fetched
from sync.agent.kernels.listing import checked_kernel
from sync.contract.names import RefusedNameError


def names(root: Path) -> set[str]:
    """Return the names of the regular files that are served as kernels."""
    with os.scandir(root) as entries:
        return {
            entry.name
            for entry in entries
            if entry.is_file(follow_symlinks=False) and _may_be_listed(entry.name)
        }


def _may_be_listed(name: str) -> bool:
    try:
        return bool(checked_kernel(name))
    except RefusedNameError:
        return False


def holds(path: Path, size_bytes: int | None) -> bool:
    """Return whether a regular file of that size is there."""
    try:
        status = path.lstat()
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size == size_bytes


def publish(fetched: Fetched, path: Path) -> None:
    """Serve a fetched file, with the master's mtime (a chained mirror lists it)."""
    times = (fetched.row.modified_seconds, fetched.row.updated_seconds)
    mtime = next((seconds for seconds in times if seconds is not None), None)
    durable.publish(fetched.path, path, mtime_seconds=mtime)
