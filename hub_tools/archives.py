"""What of strangers' archives is refused before zflist or the hub sees it, and why.

An unpacked upload is looked at as it lies on the disk, so that no other reading of the archive than
tar's own counts: names and links only, nothing is opened. Links are text to zflist (0-flist:
libflist/flist_inode.c, flist_process_file) and belong to any system: an absolute one is meant from
the upload's own root, where a node mounts it.

zflist unpacks a flist with libtar, by whatever names and links are in it (0-flist:
libflist/archive.c: "TODO: ensure security on files"). Run as a program this module reads a flist
and writes one that holds its database and nothing else: libtar sees no stranger's archive.
"""

from __future__ import annotations

import io
import os
import posixpath
import stat
import sys
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

READMES = frozenset((".README.md", ".README"))  # 0-hub follows these (src/hub/flist.py, readme)
# Folders of the hub's containers; one that an upload has of its own is meant instead.
HUBS_FOLDERS = frozenset(("hub", "secrets", "gridhub", "workdir", "packing", "public"))
# What of /proc/PID leads out of, or into, a process.
_OF_A_PROCESS = frozenset(("root", "cwd", "environ", "mem"))

DATABASE = "flistdb.sqlite3"
# As the mirror's own reader has it (sync/agent/flist/archive.py).
MAX_DATABASE_BYTES = 512 << 20
_MAX_MEMBERS = 64
_MAX_LINKS = 40  # Linux follows no more on one way (include/linux/namei.h, MAXSYMLINKS)
_MAX_STEPS = 5_000_000  # in all links of an upload, and all that they lead over
_PART = 1 << 18
# Folders, and pax headers, which libtar writes none of and others may.
_SKIPPED = frozenset((tarfile.DIRTYPE, tarfile.XHDTYPE, tarfile.XGLTYPE))
REFUSED = 77  # EX_NOPERM of sysexits.h
_TOLD = 200


class RefusedError(Exception):
    """`str()` says what is wrong with an archive."""


def shown(name: str) -> str:
    """Return a stranger's name for a sentence: bounded, without control characters."""
    return ascii(name)[:_TOLD]


# -- uploads -----------------------------------------------------------------------------------


@dataclass
class _Inode:
    """A file of several names: how many it has, and how many of them were met."""

    name: str
    names: int
    met: int = 0


@dataclass
class _Follower:
    """Follows the links of an upload; own: the names at its top. Raises RefusedError, OSError."""

    folder: str
    own: frozenset[str]
    steps: int = 0

    def leads_out(self, path: str) -> bool:
        """Whether a link leaves the upload by those on its way: `a/up/../x`, if a/up leads to `..`.

        An absolute one goes on from the upload's own root, where a node mounts it.
        """
        at, absolute, links = path.split("/"), False, 0
        waiting = [at.pop()]
        while waiting:
            self.steps += 1
            if self.steps > _MAX_STEPS:
                raise RefusedError("its links lead over too many others")
            part = waiting.pop()
            if part == "..":
                if not at and not absolute:
                    return True
                del at[-1:]
            elif part not in {"", "."}:
                at.append(part)
                if (target := self._target(at)) is None:
                    continue
                links += 1
                if links > _MAX_LINKS:
                    return False  # nobody follows it
                absolute = absolute or target.startswith("/")
                at = [] if target.startswith("/") else at[:-1]
                waiting += reversed(target.split("/"))
        return absolute and leads_out(path, "/" + "/".join(at), self.own)

    def _target(self, at: list[str]) -> str | None:
        try:
            return os.readlink("/".join([self.folder, *at]))  # noqa: PTH115
        except OSError:
            return None


def check_upload(folder: str) -> None:
    """Look through an unpacked upload. Raises RefusedError."""
    try:
        _look(folder, frozenset(entry.name for entry in os.scandir(folder)))
    except OSError as error:
        raise RefusedError(f"it cannot be looked through: {error.strerror}") from None


def _look(folder: str, own: frozenset[str]) -> None:
    inodes: dict[tuple[int, int], _Inode] = {}
    follower = _Follower(folder, own)
    disk, size = os.statvfs(folder), 0
    for path, status in _entries(folder):
        mode = status.st_mode
        if path in READMES and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise RefusedError(f"{shown(path)} is no file but a link, device or FIFO")
        if stat.S_ISLNK(mode):
            target = os.readlink(f"{folder}/{path}")  # noqa: PTH115 - as it is, `a//b` too
            if leads_out(path, target, own) or follower.leads_out(path):
                raise RefusedError(f"{shown(path)} is a link to {shown(target)}")
        elif stat.S_ISREG(mode):
            size += status.st_size
        if not stat.S_ISDIR(mode) and status.st_nlink > 1:
            key = (status.st_dev, status.st_ino)
            inodes.setdefault(key, _Inode(path, status.st_nlink)).met += 1
    for inode in inodes.values():
        if inode.met < inode.names:
            raise RefusedError(f"{shown(inode.name)} is a hard link to a file outside of it")
    if size > disk.f_blocks * disk.f_frsize:
        # Holes: zflist would read them for days.
        raise RefusedError("its files say that they are larger than the whole disk")


def _entries(folder: str) -> Iterator[tuple[str, os.stat_result]]:
    waiting = [""]  # not by recursion: a tree may be deeper than Python's
    while waiting:
        inside = waiting.pop()
        with os.scandir(f"{folder}/{inside}") as entries:
            for entry in entries:
                path, status = inside + entry.name, entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    waiting.append(f"{path}/")
                yield path, status


def leads_out(path: str, target: str, own: frozenset[str]) -> bool:
    """Whether a link leaves the upload that it is in.

    path: where it is, relative to the upload; own: the names at the upload's top.
    """
    if target.startswith("/"):
        parts = posixpath.normpath(target).lstrip("/").split("/")
        if parts[0] == "proc":
            return not _OF_A_PROCESS.isdisjoint(parts[2:])  # of its threads, too
        return parts[0] in HUBS_FOLDERS - own
    depth = path.count("/")
    for part in target.split("/"):
        depth += {"": 0, ".": 0, "..": -1}.get(part, 1)
        if depth < 0:
            return True
    return False


# -- flists ------------------------------------------------------------------------------------


class _Inflated(io.RawIOBase):
    """The plain bytes of a gzip file's first member, as they are asked for.

    What follows it is ignored, as on a node (rfs: src/meta/mod.rs, GzDecoder).
    """

    def __init__(self, source: IO[bytes]) -> None:
        self._source = source
        self._inflate = zlib.decompressobj(wbits=31)  # gzip's header and checksum

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._inflate.eof:
            packed = self._inflate.unconsumed_tail or self._source.read(_PART)
            plain = self._inflate.decompress(packed, len(buffer))
            if plain:
                buffer[: len(plain)] = plain
                return len(plain)
            if not packed:
                raise EOFError
        return 0


def rebuild(source: IO[bytes], target: IO[bytes]) -> None:
    """Write a flist that holds the database of another one, and nothing else.

    Header by header, as tarfile's own reading of a stream follows any size that a header names.
    Raises RefusedError.
    """
    found = False
    try:
        with io.BufferedReader(_Inflated(source), _PART) as plain:
            for _ in range(_MAX_MEMBERS):
                header = plain.read(tarfile.BLOCKSIZE)
                # A block of zeros ends the archive.
                if len(header) < tarfile.BLOCKSIZE or not header.strip(b"\0"):
                    break
                member = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
                if not 0 <= member.size <= MAX_DATABASE_BYTES:
                    raise RefusedError(f"a member of it has {member.size} bytes")
                padding = -member.size % tarfile.BLOCKSIZE
                if not _is_database(member):
                    _skip(plain, member.size + padding)
                elif found:
                    raise RefusedError(f"it holds {DATABASE} twice")
                else:
                    found = True
                    _write(plain, member.size, target)
                    _skip(plain, padding)
            else:
                raise RefusedError(f"it holds {_MAX_MEMBERS} members or more")
            _skip(plain, MAX_DATABASE_BYTES)  # the checksum stands at the end
    except (tarfile.TarError, zlib.error, EOFError, OSError, ValueError, MemoryError) as error:
        raise RefusedError(f"it is no tar.gz: {str(error) or type(error).__name__}") from None
    if not found:
        raise RefusedError(f"it holds no {DATABASE}")


def _is_database(member: tarfile.TarInfo) -> bool:
    """Return whether a member is the database; refuse what has no place beside it."""
    name, parts = member.name, member.name.split("/")
    if name.startswith("/") or ".." in parts:
        raise RefusedError(f"{shown(name)} is outside of it")
    if member.type in _SKIPPED:
        return False
    if member.type not in {tarfile.REGTYPE, tarfile.AREGTYPE}:
        raise RefusedError(f"{shown(name)} is neither file nor folder")
    # zflist appends the tree ".", so that names may start with "./" (0-flist: archive.c).
    return [part for part in parts if part != "."] == [DATABASE]


def _skip(plain: IO[bytes], amount: int) -> None:
    while amount and (part := plain.read(min(amount, _PART))):
        amount -= len(part)


def _write(content: IO[bytes], size: int, target: IO[bytes]) -> None:
    member = tarfile.TarInfo(DATABASE)
    member.size = size
    # libtar knows no pax headers.
    with tarfile.open(
        fileobj=target, mode="w:gz", compresslevel=1, format=tarfile.USTAR_FORMAT
    ) as archive:
        archive.addfile(member, content)


def main(argv: list[str]) -> int:
    """Rebuild the flist of one file descriptor into another's file."""
    source, target = (int(word) for word in argv[1:])
    try:
        with os.fdopen(source, "rb") as given, os.fdopen(target, "wb") as made:
            rebuild(given, made)
    except RefusedError as error:
        print(error)
        return REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
