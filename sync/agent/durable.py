"""Files that are either wholly there or not there at all, also after a kill or a power loss."""

import contextlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Final

PUBLIC_MODE: Final = 0o644
STAGING: Final = ".gridhub"
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


def temporary_in(directory: Path) -> Path:
    """Return a new name for an unfinished file in `directory`."""
    return directory / f"{TEMPORARY_PREFIX}{os.getpid()}-{os.urandom(6).hex()}"


def staging_directory(root: Path) -> Path:
    """Return the folder below `root` for unfinished files, made and emptied.

    A service that lists `root/x` never meets a half file there (0-hub fails on a name that goes
    away while it lists), and 0700 keeps the services out. Same file system, so rename works.
    """
    staging = root / STAGING
    staging.mkdir(mode=0o700, exist_ok=True)
    staging.chmod(0o700)
    with os.scandir(staging) as entries:
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                Path(entry.path).unlink(missing_ok=True)
    return staging


def finish(temporary: Path, mtime_seconds: float | None = None) -> None:
    """Give a file in staging its mode and time, and make its content durable."""
    temporary.chmod(PUBLIC_MODE)
    if mtime_seconds is not None:
        os.utime(temporary, (mtime_seconds, mtime_seconds))
    sync_file(temporary)


def publish(temporary: Path, path: Path, *, mtime_seconds: float | None = None) -> None:
    """Give `temporary` its public name: fsync, rename, fsync of the directory.

    A reader of `path` sees the old file or the new one, whole. Raises OSError.
    """
    finish(temporary, mtime_seconds)
    publish_finished([(temporary, path)])


def publish_finished(files: Iterable[tuple[Path, Path]]) -> None:
    """Give files that `finish` was called for their public names, one by one, durably.

    `files` is asked for the next one when the one before has its name.
    """
    directories: dict[Path, None] = {}
    for temporary, path in files:
        temporary.replace(path)
        directories[path.parent] = None
    for directory in directories:
        sync_directory(directory)


def publish_bytes(data: bytes, path: Path) -> None:
    """Write `data` durably and atomically as `path`. Raises OSError."""
    temporary = temporary_in(path.parent)
    try:
        temporary.write_bytes(data)
        publish(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def replace_bytes(data: bytes, path: Path) -> None:
    """Write `data` atomically, without waiting for the disk: for what is written all the time."""
    temporary = temporary_in(path.parent)
    try:
        temporary.write_bytes(data)
        temporary.chmod(PUBLIC_MODE)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def publish_link(target: str, path: Path, staging: Path) -> None:
    """Make `path` a symbolic link to `target`, atomically, whatever non-directory it was before."""
    temporary = temporary_in(staging)
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


def require_free_space(directory: Path, floor_bytes: int, wanted_bytes: int = 0) -> None:
    """Raise NoSpaceError when writing `wanted_bytes` would leave less than `floor_bytes` free."""
    free_bytes = shutil.disk_usage(directory).free
    if free_bytes - wanted_bytes < floor_bytes:
        raise NoSpaceError(
            f"{directory}: {free_bytes} bytes free, {wanted_bytes} wanted, and "
            f"{floor_bytes} must stay free; add space or lower freeSpaceFloorBytes"
        )
