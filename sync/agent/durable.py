"""Files that are either wholly there or not there at all, also after a kill or a power loss."""

import contextlib
import ctypes
import errno
import os
import shutil
import stat
from pathlib import Path
from typing import Final

from sync.contract import plain_files
from sync.contract.fsync import fsync

PUBLIC_MODE: Final = 0o644
STAGING: Final = ".gridhub"
TEMPORARY_PREFIX: Final = ".gridhub-part-"
# A node reads the times of a hub's listings as unsigned: one that is negative fails the whole list.
LATEST_SECONDS: Final = (1 << 32) - 1
_OLD: Final = ".old"
_LONGEST_PATH_BYTES: Final = 4096
_NOTE: Final = ".place"  # holds the name that the folder beside it is to get
_AT_FDCWD: Final = -100
_RENAME_EXCHANGE: Final = 2
# What renameat2(2) answers where the system or the file system lacks the flag.
_NO_EXCHANGE: Final = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})


class NoSpaceError(OSError):
    """Less than the configured floor is free; the message names the directory and the floor."""


def sync(path: Path) -> None:
    """Make the content of a file, or the names in a folder, durable. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fsync(descriptor, path)
    finally:
        os.close(descriptor)


def temporary_in(directory: Path) -> Path:
    """Return a new name for an unfinished file in `directory`."""
    return directory / f"{TEMPORARY_PREFIX}{os.getpid()}-{os.urandom(6).hex()}"


def staging_directory(root: Path) -> Path:
    """Return the folder below `root` for unfinished files, made and emptied.

    A service that lists `root/x` never meets a half file there (0-hub fails on a name that goes
    away while it lists), and 0700 keeps the services out. Same file system, so rename works.
    A folder that a kill left without its name in `publish_directory` gets it back first.
    """
    staging = root / STAGING
    own_directory(staging)
    left = sorted(staging.iterdir())
    for note in left:
        if note.name.endswith(_NOTE):
            with contextlib.suppress(plain_files.NotPlainError):
                _finish_replacement(note, root)
    for path in left:
        discard(path)
    return staging


def own_directory(path: Path) -> None:
    """Make a folder of this job's own, 0700; a file or link in its place goes. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISDIR(path.lstat().st_mode):
            path.unlink()
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        os.fchmod(descriptor, 0o700)
    finally:
        os.close(descriptor)


def require_directory(path: Path) -> None:
    """Make a folder that is published; what else has its name stays. Raises NotPlainError."""
    with contextlib.suppress(FileExistsError):
        path.mkdir()
    if not stat.S_ISDIR(path.lstat().st_mode):
        raise plain_files.NotPlainError(
            path, "a link or file, no folder (storage is mounted there, not linked to)"
        )


def lock_file(path: Path) -> int:
    """Return a descriptor of a file to be locked; what else is there goes. Raises OSError."""
    try:
        return plain_files.opened(path, os.O_RDWR | os.O_CREAT)
    except plain_files.NotPlainError:
        discard(path)
        return plain_files.opened(path, os.O_RDWR | os.O_CREAT)


def served_seconds(seconds: float) -> float:
    """Return a time (unix seconds) as it may be served: never negative, at most 32 bits."""
    return min(max(seconds, 0), LATEST_SECONDS)


def discard(path: Path) -> None:
    """Remove a file, link or folder in staging; one that cannot go stays until the next time.

    A folder in it is first moved beside it: so no path is longer, and nothing recurses, however
    deep it is.
    """
    pending = [path]
    while pending:
        folder = pending.pop()
        with contextlib.suppress(OSError):
            if not stat.S_ISDIR(folder.lstat().st_mode):
                folder.unlink()
                continue
            folder.chmod(0o700)
            for child in folder.iterdir():
                with contextlib.suppress(OSError):
                    if stat.S_ISDIR(child.lstat().st_mode):
                        # To move one is to change its "..", which takes the right to write in it.
                        child.chmod(0o700)
                        beside = temporary_in(path.parent)
                        child.rename(beside)
                        pending.append(beside)
                    else:
                        child.unlink()
            folder.rmdir()


def finish(temporary: Path, mtime_seconds: float | None = None) -> None:
    """Give a file in staging its mode and time, and make its content durable."""
    temporary.chmod(PUBLIC_MODE)
    if mtime_seconds is not None:
        set_time(temporary, mtime_seconds)
    sync(temporary)


def set_time(path: Path, seconds: float) -> None:
    """Give a file, link or folder a time that may be served. Raises OSError."""
    served = served_seconds(seconds)
    os.utime(path, (served, served), follow_symlinks=False)


def publish(temporary: Path, path: Path, *, mtime_seconds: float | None = None) -> None:
    """Give `temporary` its public name: fsync, rename, fsync of the directory.

    A reader of `path` sees the old file or the new one, whole. Raises OSError.
    """
    finish(temporary, mtime_seconds)
    replace(temporary, path)
    sync(path.parent)


def replace(temporary: Path, path: Path) -> None:
    """Give a file or link its name, whatever has it; a folder cannot be replaced in one step."""
    try:
        temporary.replace(path)
    except IsADirectoryError:
        aside = temporary_in(temporary.parent)
        path.rename(aside)
        temporary.replace(path)
        discard(aside)


def publish_bytes(data: bytes, path: Path, *, waiting: bool = True) -> None:
    """Write `data` atomically as `path`, and durably. Raises OSError.

    waiting: for the disk; not for what is written all the time.
    """
    temporary = temporary_in(path.parent)
    try:
        temporary.write_bytes(data)
        if waiting:
            publish(temporary, path)
        else:
            temporary.chmod(PUBLIC_MODE)
            replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def publish_link(
    target: str, path: Path, staging: Path, mtime_seconds: float | None = None
) -> None:
    """Make `path` a symbolic link to `target`, atomically, whatever it was before."""
    temporary = temporary_in(staging)
    try:
        temporary.symlink_to(target)
        if mtime_seconds is not None:
            set_time(temporary, mtime_seconds)
        replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


def exchange(one: Path, other: Path) -> bool:
    """Let two names change places in one step; False where system or file system cannot.

    renameat2(2) with RENAME_EXCHANGE: ext4, XFS, Btrfs and tmpfs have it, NFS has not.
    """
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:  # musl before 1.2.6
        return False
    names = (_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other))
    if rename(*names, ctypes.c_uint(_RENAME_EXCHANGE)) == 0:
        return True
    number = ctypes.get_errno()
    if number in _NO_EXCHANGE:
        return False
    raise OSError(number, os.strerror(number), str(one), None, str(other))


def publish_directory(folder: Path, path: Path, root: Path) -> None:
    """Give a folder in staging its public name, instead of whatever has it: that goes.

    root: the folder that holds the staging. A reader of `path` finds the old one or the new one;
    where the file system cannot exchange names, none for a moment, and after a kill in that
    moment none until `staging_directory` is called. What is in the folder must be durable but for
    its names. Raises OSError.
    """
    sync(folder)
    if not os.path.lexists(path):
        folder.rename(path)
    elif not exchange(folder, path):
        _replace_in_two_steps(folder, path, root)
    sync(path.parent)
    discard(folder)


def _replace_in_two_steps(folder: Path, path: Path, root: Path) -> None:
    note, old = (folder.with_name(folder.name + end) for end in (_NOTE, _OLD))
    note.write_bytes(os.fsencode(path.relative_to(root)))
    sync(note)
    sync(note.parent)
    path.rename(old)
    try:
        folder.rename(path)
    except OSError:
        old.rename(path)
        raise
    sync(path.parent)
    note.unlink()
    discard(old)


def _finish_replacement(note: Path, root: Path) -> None:
    """Give the name in a note to the new folder if nothing has it since the old one went.

    The note is durable before the old one goes, and the new one is whole before the note is made.
    """
    folder = note.with_name(note.name.removesuffix(_NOTE))
    if not os.path.lexists(folder.with_name(folder.name + _OLD)) or not _is_folder(folder):
        return
    names = os.fsdecode(plain_files.read(note, _LONGEST_PATH_BYTES)).split("/")
    path = root.joinpath(*names)
    # Whoever had this folder before may have left the note: it names a place below root, or none.
    inside = {"", ".", ".."}.isdisjoint(names) and "\0" not in "".join(names)
    parents = [root.joinpath(*names[:count]) for count in range(1, len(names))]
    if inside and all(map(_is_folder, parents)) and not os.path.lexists(path):
        folder.rename(path)
        sync(path.parent)


def _is_folder(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except OSError:
        return False


def remove_directory(path: Path, staging: Path) -> None:
    """Take away a folder with all that is in it, in one step, durably; gone already is fine."""
    taken = temporary_in(staging)
    with contextlib.suppress(FileNotFoundError):
        path.rename(taken)
        sync(path.parent)
        discard(taken)


def remove(path: Path) -> None:
    """Remove a file or link durably; gone already is fine."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
        sync(path.parent)


def require_free_space(directory: Path, floor_bytes: int, wanted_bytes: int = 0) -> None:
    """Raise NoSpaceError when writing `wanted_bytes` would leave less than `floor_bytes` free."""
    free_bytes = shutil.disk_usage(directory).free
    if free_bytes - wanted_bytes < floor_bytes:
        raise NoSpaceError(
            f"{directory}: {free_bytes} bytes free, {wanted_bytes} wanted, and "
            f"{floor_bytes} must stay free; add space or lower freeSpaceFloorBytes"
        )
