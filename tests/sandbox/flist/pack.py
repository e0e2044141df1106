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
        return Flist(self.flist.entries, metadata).encode()


def pack_directory(
    source: Path, keep: Callable[[Path], bool] = lambda path: path.name not in IGNORED
) -> Packed:
    """Pack what is below `source`: files, directories, links, with modes, owners and times.

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
        place = self._source / path
        status = place.lstat()
        names = sorted(child.name for child in place.iterdir() if self._keep(child))
        inodes = [self._inode(path, name) for name in names]
        yield Directory(
            path=path,
            access_key=self._access(Access() if not path else _access(status)),
            modified=int(status.st_mtime),
            created=int(status.st_ctime),
            inodes=tuple(inodes),
        )
        for inode in inodes:
            if inode.kind == "directory":
                yield from self.directories(_joined(path, inode.name))

    def _inode(self, parent: str, name: str) -> Inode:
        path = _joined(parent, name)
        place = self._source / path
        status = place.lstat()
        inode = Inode(
            name=name,
            kind="special",
            size=status.st_size,
            access_key=self._access(_access(status)),
            modified=int(status.st_mtime),
            created=int(status.st_ctime),
        )
        if stat.S_ISDIR(status.st_mode):
            return replace(inode, kind="directory", size=4096, directory_key=path_key(path))
        if stat.S_ISLNK(status.st_mode):
            return replace(inode, kind="link", target=str(place.readlink()))
        if stat.S_ISREG(status.st_mode):
            content = place.read_bytes()
            self.contents[path] = cut(content)
            return replace(inode, kind="file", size=len(content))
        return inode

    def _access(self, record: Access) -> str:
        self.access[record.key] = record
        return record.key


def _joined(parent: str, name: str) -> str:
    return f"{parent}/{name}" if parent else name


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
