"""Pack a directory of this machine into a flist and its chunks."""

import grp
import os
import pwd
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Final

from tests.sandbox.flist.archive import Backend, Flist
from tests.sandbox.flist.chunks import Chunk, cut, seal
from tests.sandbox.flist.tree import Access, Directory, FileChunk, Inode, path_key

# Python writes its caches whenever it likes; they are no part of what a directory says.
IGNORED: Final = frozenset({"__pycache__"})


@dataclass(frozen=True)
class Packed:
    """A flist and its chunks; chunks: payload by 0-db key. plain_bytes: size of all files."""

    flist: Flist
    chunks: dict[bytes, bytes]
    plain_bytes: int

    def archive(self, backend: Backend | None = None) -> bytes:
        """Return the flist's bytes, naming where its chunks are."""
        metadata = dict(self.flist.metadata)
        if backend is not None:
            metadata["backend"] = backend.encode()
        return replace(self.flist, metadata=metadata).encode()


def pack_directory(
    source: Path, keep: Callable[[Path], bool] = lambda path: path.name not in IGNORED
) -> Packed:
    """Pack what is below `source` as zflist does, with the owners that it has on disk.

    Links to the same file become files of their own, devices keep their numbers, extended
    attributes are dropped, and the root directory is root's, with mode 0755 and time 0.
    keep: decides about each entry by its path.
    """
    walker = _Walker(source, keep)
    directories = list(walker.directories(""))
    chunks = seal([piece for pieces in walker.contents.values() for piece in pieces])
    sealed = _by_file(walker.contents, chunks)
    filled = [_with_chunks(directory, sealed) for directory in directories]
    payloads = {chunk.id: chunk.payload for chunk in chunks}
    size = sum(len(piece) for pieces in walker.contents.values() for piece in pieces)
    return Packed(Flist.of(filled, walker.access), payloads, size)


def _by_file(contents: dict[str, list[bytes]], chunks: list[Chunk]) -> dict[str, list[Chunk]]:
    remaining = iter(chunks)
    return {path: [next(remaining) for _ in pieces] for path, pieces in contents.items()}


def _with_chunks(directory: Directory, sealed: dict[str, list[Chunk]]) -> Directory:
    inodes = []
    for inode in directory.inodes:
        chunks = sealed.get(_joined(directory.path, inode.name), []) if inode.kind == "file" else []
        named = tuple(FileChunk(chunk.id, chunk.cipher) for chunk in chunks)
        inodes.append(replace(inode, chunks=named))
    return replace(directory, inodes=tuple(inodes))


class _Walker:
    """Reads a tree once: its directories, the pieces of its files, its access records."""

    def __init__(self, source: Path, keep: Callable[[Path], bool]) -> None:
        self._source, self._keep = source, keep
        self.contents: dict[str, list[bytes]] = {}
        self.access: dict[str, Access] = {}

    def directories(self, path: str) -> Iterator[Directory]:
        kept = [one.name for one in self._place(path).iterdir() if self._keep(one)]
        inodes = [self._inode(path, name) for name in sorted(kept, key=os.fsencode)]
        inodes.sort(key=lambda inode: inode.kind != "directory")
        if path:
            status = self._place(path).lstat()
            yield Directory(path, self._access(_access(status)), *_times(status), tuple(inodes))
        else:
            yield Directory(path, self._access(Access()), inodes=tuple(inodes))
        for inode in inodes:
            if inode.kind == "directory":
                yield from self.directories(_joined(path, inode.name))

    def _place(self, path: str) -> Path:
        return self._source / path

    def _inode(self, parent: str, name: str) -> Inode:
        path = _joined(parent, name)
        place = self._place(path)
        status = place.lstat()
        modified, created = _times(status)
        inode = Inode(
            name=name,
            kind="special",
            size=status.st_size,
            access_key=self._access(_access(status)),
            modified=modified,
            created=created,
        )
        if stat.S_ISDIR(status.st_mode):
            # zflist: what the file system says, which on ext4 is this, elsewhere something else.
            return replace(inode, kind="directory", size=4096, directory_key=path_key(path))
        if stat.S_ISLNK(status.st_mode):
            # Path.readlink would leave out what it thinks redundant: "./a" is not "a".
            return replace(inode, kind="link", target=os.readlink(place))  # noqa: PTH115
        if stat.S_ISREG(status.st_mode):
            content = place.read_bytes()
            self.contents[path] = cut(content)
            return replace(inode, kind="file", size=len(content))
        return replace(inode, device=_device(status))

    def _access(self, record: Access) -> str:
        self.access[record.key] = record
        return record.key


def _joined(parent: str, name: str) -> str:
    return f"{parent}/{name}" if parent else name


def _times(status: os.stat_result) -> tuple[int, int]:
    """Return when the content and the status were changed; before 1970: a number above 2^31."""
    modified, created = status.st_mtime_ns // 10**9, status.st_ctime_ns // 10**9
    return modified & 0xFFFFFFFF, created & 0xFFFFFFFF


def _device(status: os.stat_result) -> str:
    if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
        return f"{os.major(status.st_rdev)},{os.minor(status.st_rdev)}"
    return "(nothing)"


def _access(status: os.stat_result) -> Access:
    return Access(
        user=_user(status.st_uid),
        group=_group(status.st_gid),
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
    )


@cache
def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


@cache
def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
