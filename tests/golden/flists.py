"""The three flists that zflist 2.3.0 packed, and what is in them (services/flists).

NAME.json lists the entries in the flist's order, with the 0-db payload of each chunk; names that
are no UTF-8 have lone surrogates, as Python's file names do.
"""

import base64
import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.sandbox.flist import Directory, Flist, Inode
from tests.sandbox.flist.chunks import Chunk, open_chunks

FOLDER: Final = Path(__file__).parent / "services" / "flists"
NAMES: Final = ("system", "names", "big")

# What a flist does not tell: 32 bits hold a time before 1970 or one after 2038, and every special
# file is a socket.
_BEFORE_1970: Final = {"/old": 1}
_BLOCK_DEVICES: Final = frozenset({"/dev/sda1"})

Entry = dict[str, Any]


@dataclass(frozen=True)
class Recorded:
    """A recorded flist; payloads: what its 0-db holds, by key."""

    path: Path
    about: dict[str, Any]
    entries: list[Entry]
    payloads: dict[bytes, bytes]

    @classmethod
    def of(cls, name: str) -> "Recorded":
        """Load one by its name."""
        about = json.loads((FOLDER / f"{name}.json").read_text())
        payloads = {
            bytes.fromhex(key): base64.b64decode(text) for key, text in about["chunks"].items()
        }
        return cls(FOLDER / f"{name}.flist", about, about["entries"], payloads)

    def flist(self) -> Flist:
        """Return it as the sandbox reads it."""
        return Flist.decode(self.path.read_bytes())

    def content(self, entry: Entry) -> bytes:
        """Return the content of a file."""
        return b"".join(open_chunks([self._chunk(chunk) for chunk in entry["chunks"]]))

    def _chunk(self, named: dict[str, str]) -> Chunk:
        key = bytes.fromhex(named["key"])
        return Chunk(key, bytes.fromhex(named["cipher"]), self.payloads[key])

    def make(self, folder: Path) -> None:
        """Make the tree that was packed; needs the right to change owners and make devices."""
        for entry in self.entries:
            place = folder / entry["path"].lstrip("/")
            self._make(entry, place)
            if entry["path"] != "/":
                os.chown(place, entry["uid"], entry["gid"], follow_symlinks=False)
                if entry["type"] != "link":
                    place.chmod(int(entry["mode"], 8))
        for entry in reversed(self.entries):  # what is in a directory, before its own time
            place = folder / entry["path"].lstrip("/")
            mtime = entry["mtime"] - (_BEFORE_1970.get(entry["path"], 0) << 32)
            os.utime(place, (mtime, mtime), follow_symlinks=False)

    def _make(self, entry: Entry, place: Path) -> None:
        if entry["type"] == "directory":
            place.mkdir(exist_ok=True)
        elif entry["type"] == "link":
            place.symlink_to(entry["target"])
        elif entry["type"] == "file":
            place.write_bytes(self.content(entry))
        elif entry["data"] == "(nothing)":
            os.mkfifo(place)
        else:
            kind = stat.S_IFBLK if entry["path"] in _BLOCK_DEVICES else stat.S_IFCHR
            major, minor = map(int, entry["data"].split(","))
            os.mknod(place, kind | 0o600, os.makedev(major, minor))


def told(flist: Flist) -> list[Entry]:
    """Return all entries of a flist, in its order, as the recordings describe them."""
    top = flist.directory()
    root = Inode("", "directory", 4096, top.access_key, top.modified, directory_key=top.key)
    return [_described(flist, "", root), *_below(flist, top)]


def _below(flist: Flist, directory: Directory) -> list[Entry]:
    entries = []
    for inode in directory.inodes:
        path = f"{directory.path}/{inode.name}".lstrip("/")
        entries.append(_described(flist, path, inode))
        if inode.kind == "directory":
            entries += _below(flist, flist.directory(path))
    return entries


def _described(flist: Flist, path: str, inode: Inode) -> Entry:
    access = flist.access(inode.access_key)
    own: dict[str, Entry] = {
        "directory": {"key": inode.directory_key},
        "file": {"chunks": [{"key": c.id.hex(), "cipher": c.cipher.hex()} for c in inode.chunks]},
        "link": {"target": inode.target},
        "special": {"special": inode.special, "data": inode.device},
    }
    return {
        "path": f"/{path}",
        "type": inode.kind,
        "size": inode.size,
        "mtime": inode.modified,
        "mode": f"{access.mode:04o}",
        "uid": access.uid,
        "gid": access.gid,
        "user": access.user,
        "group": access.group,
        **own[inode.kind],
    }
