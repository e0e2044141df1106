"""A flist's tree against the directory that it was packed from: content, owners, modes, times."""

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from tests.sandbox.flist.pack import IGNORED
from tests.sandbox.node.mount import Tree
from tests.sandbox.node.report import NodeError

_MODE_BITS: Final = 0o7777
_TIMES: Final = 1 << 32  # a flist keeps seconds in 32 bits without a sign
_NO_DEVICE: Final = frozenset({"", "(nothing)"})


def compare(name: str, tree: Tree, contents: Mapping[str, bytes], source: Path) -> None:
    """Raise NodeError unless the tree is what `source` holds; its root's own owner is not kept."""
    seen = set()
    for place in _walk(source):
        path = str(place.relative_to(source))
        seen.add(path)
        different = _difference(path, tree, contents, place)
        if different:
            raise NodeError(f"{name}: {path} {different}", unseen=True)
    extra = set(tree.inodes) - seen
    if extra:
        raise NodeError(f"{name}: {min(extra)} is not in {source}", unseen=True)


def _walk(source: Path) -> Iterator[Path]:
    for place in sorted(source.iterdir()):
        if place.name in IGNORED:
            continue
        yield place
        if not place.is_symlink() and place.is_dir():
            yield from _walk(place)


def _difference(path: str, tree: Tree, contents: Mapping[str, bytes], place: Path) -> str | None:
    if path not in tree.inodes:
        return "is not there"
    found = place.lstat()
    if not _same_content(path, tree, contents, place, found):
        return f"is not what {place} holds"
    access = tree.access[path]
    mode = found.st_mode & _MODE_BITS
    if access.mode & _MODE_BITS != mode:
        return f"has mode {access.mode:o}, not {mode:o}"
    if (access.uid, access.gid) != (found.st_uid, found.st_gid):
        return f"is of {access.uid}:{access.gid}, not of {found.st_uid}:{found.st_gid}"
    modified = found.st_mtime_ns // 10**9 % _TIMES
    if tree.inodes[path].modified != modified and not _touched(place):
        return f"has time {tree.inodes[path].modified}, not {modified}"
    return None


def _same_content(
    path: str, tree: Tree, contents: Mapping[str, bytes], place: Path, found: os.stat_result
) -> bool:
    inode = tree.inodes[path]
    if stat.S_ISLNK(found.st_mode):
        return inode.kind == "link" and inode.target == os.readlink(place)  # noqa: PTH115 - to the byte
    if stat.S_ISDIR(found.st_mode):
        return inode.kind == "directory"
    if stat.S_ISREG(found.st_mode):
        return inode.kind == "file" and contents[path] == place.read_bytes()
    if inode.kind != "special":
        return False
    told = inode.device
    if stat.S_ISBLK(found.st_mode) or stat.S_ISCHR(found.st_mode):
        return told == f"{os.major(found.st_rdev)},{os.minor(found.st_rdev)}"
    return told in _NO_DEVICE


def _touched(place: Path) -> bool:
    """Whether what is no part of the tree changed a directory's time (Python's caches)."""
    return (
        not place.is_symlink()
        and place.is_dir()
        and any((place / name).exists() for name in IGNORED)
    )
