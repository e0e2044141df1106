"""Files that are either wholly there or not there at all, also after a kill or a power loss."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

PUBLIC_MODE: Final = 0o644
TEMPORARY_PREFIX: Final = ".gridhub-part-"


class NoSpaceError(OSError):
    """Less than the configured floor is free; the message names the directory and the floor."""


def sync_directory(directory: Path) -> None:
    """Make the names in `directory` durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Make the content of `path` durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def temporary_for(path: Path) -> Path:
    """Name of the unfinished file beside `path`: hidden, and on the same file system."""
    return path.with_name(f"{TEMPORARY_PREFIX}{os.getpid()}-{os.urandom(6).hex()}")


def is_temporary(name: str) -> bool:
    """Tell whether `name` is one that `temporary_for` gives (left by a killed process)."""
    return name.startswith(TEMPORARY_PREFIX)


def publish(temporary: Path, path: Path, *, mtime_seconds: float | None = None) -> None:
    """Give the finished `temporary` its public name: fsync, rename, fsync of the directory.

    A reader of `path` sees the old file or the new one, whole. Raises OSError.
    """
    temporary.chmod(PUBLIC_MODE)
    if mtime_seconds is not None:
        os.utime(temporary, (mtime_seconds, mtime_seconds))
    sync_file(temporary)
    temporary.replace(path)
    sync_directory(path.parent)


def publish_bytes(data: bytes, path: Path) -> None:
    """Write `data` durably and atomically as `path`. Raises OSError."""
    temporary = temporary_for(path)
    try:
        temporary.write_bytes(data)
        publish(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def replace_bytes(data: bytes, path: Path) -> None:
    """Write `data` atomically, without waiting for the disk: for what is written all the time."""
    temporary = temporary_for(path)
    try:
        temporary.write_bytes(data)
        temporary.chmod(PUBLIC_MODE)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def publish_link(target: str, path: Path) -> None:
    """Make `path` a symbolic link to `target`, atomically, whatever non-directory it was before."""
    temporary = temporary_for(path)
    try:
        temporary.symlink_to(target)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_directory(path.parent)


def remove(path: Path) -> None:
    """Remove a file or link durably; gone already is fine."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
        sync_directory(path.parent)


def remove_temporaries(directory: Path) -> int:
    """Remove what killed processes left in `directory` (not below it); returns how many."""
    removed = 0
    with os.scandir(directory) as entries:
        for entry in entries:
            if is_temporary(entry.name) and not entry.is_dir(follow_symlinks=False):
                Path(entry.path).unlink(missing_ok=True)
                removed += 1
    return removed


def require_free_space(directory: Path, floor_bytes: int, wanted_bytes: int = 0) -> None:
    """Raise NoSpaceError when writing `wanted_bytes` would leave less than `floor_bytes` free."""
    free_bytes = shutil.disk_usage(directory).free
    if free_bytes - wanted_bytes < floor_bytes:
        raise NoSpaceError(
            f"{directory}: {free_bytes} bytes free, {wanted_bytes} wanted, and "
            f"{floor_bytes} must stay free; add space or lower freeSpaceFloorBytes"
        )


@contextlib.contextmanager
def discarded_on_failure(temporary: Path) -> Iterator[Path]:
    """Remove `temporary` when the block ends without having published it."""
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)
