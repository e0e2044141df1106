"""Directories, inodes and access records of a flist, and their encoding.

Source: 0-flist, format/flist.capnp, libflist/flist_serial.c, flist_acl.c, flist_tools.c.
"""

import hashlib
from dataclasses import dataclass, field
from typing import Final, Literal

from tests.sandbox.flist.capnp import Builder, Message, Shape, StructBuilder, StructReader
from tests.sandbox.flist.chunks import digest

Kind = Literal["directory", "file", "link", "special"]
_KINDS: Final[tuple[Kind, ...]] = ("directory", "file", "link", "special")

_ACCESS_KEY_BYTES: Final = 8
_BLOCK: Final = Shape(0, 2)
_FILE: Final = Shape(1, 1)
_LINK: Final = Shape(0, 1)
_SPECIAL: Final = Shape(1, 1)
_SUBDIR: Final = Shape(0, 1)
_INODE: Final = Shape(3, 3)
_DIR: Final = Shape(2, 5)
_ACI: Final = Shape(3, 3)
_IGNORED_BLOCK_SIZE: Final = 128  # what 0-flist writes; nobody reads it


@dataclass(frozen=True)
class FileChunk:
    """id: the 0-db key. cipher: key of the payload. 16 bytes each."""

    id: bytes
    cipher: bytes


@dataclass(frozen=True)
class Access:
    """Owner, group and permission bits of an entry."""

    user: str = "root"
    group: str = "root"
    mode: int = 0o755
    uid: int = 0
    gid: int = 0

    @property
    def key(self) -> str:
        """The key under which it stands in the archive (flist_acl_key)."""
        text = (
            f"user:{self.user}\ngroup:{self.group}\nmode:0o{self.mode:o}\n"
            f"uid:{self.uid}\ngid:{self.gid}"
        )
        named = text.encode("utf-8", "surrogateescape")
        return hashlib.blake2b(named, digest_size=_ACCESS_KEY_BYTES).hexdigest()

    def encode(self) -> bytes:
        """Return the ACI object."""
        builder = Builder(_ACI)
        root = builder.root
        root.text(0, self.user)
        root.text(1, self.group)
        root.number("H", 0, self.mode)
        root.number("q", 8, ~self.uid)  # the field's default is -1
        root.number("q", 16, ~self.gid)
        return builder.message()

    @classmethod
    def decode(cls, data: bytes) -> "Access":
        """Read an ACI object."""
        root = Message(data).root()
        return cls(
            user=root.text(0),
            group=root.text(1),
            mode=root.number("H", 0),
            uid=~root.number("q", 8),
            gid=~root.number("q", 16),
        )


@dataclass(frozen=True)
class Inode:
    """One name in a directory. size: bytes. chunks: a file's, in order. target: a link's."""

    name: str
    kind: Kind
    size: int
    access_key: str
    modified: int = 0
    created: int = 0
    chunks: tuple[FileChunk, ...] = ()
    target: str = ""
    directory_key: str = ""

    def write(self, into: StructBuilder) -> None:
        """Fill an Inode struct."""
        into.text(0, self.name)
        into.number("Q", 0, self.size)
        into.number("H", 8, _KINDS.index(self.kind))
        into.number("I", 12, self.modified)
        into.number("I", 16, self.created)
        into.text(2, self.access_key)
        if self.kind == "directory":
            into.child(1, _SUBDIR).text(0, self.directory_key)
        elif self.kind == "link":
            into.child(1, _LINK).text(0, self.target)
        elif self.kind == "file":
            self._write_file(into.child(1, _FILE))
        else:
            into.child(1, _SPECIAL).number("H", 0, 4)

    def _write_file(self, into: StructBuilder) -> None:
        into.number("H", 0, _IGNORED_BLOCK_SIZE)
        if not self.chunks:
            return
        blocks = into.items(0, len(self.chunks), _BLOCK)
        for block, chunk in zip(blocks, self.chunks, strict=True):
            block.data(0, chunk.id)
            block.data(1, chunk.cipher)

    @classmethod
    def read(cls, inode: StructReader) -> "Inode":
        """Read an Inode struct."""
        kind = _KINDS[inode.number("H", 8)]
        content = inode.child(1)
        return cls(
            name=inode.text(0),
            kind=kind,
            size=inode.number("Q", 0),
            access_key=inode.text(2),
            modified=inode.number("I", 12),
            created=inode.number("I", 16),
            chunks=_chunks(content) if kind == "file" else (),
            target=content.text(0) if kind == "link" else "",
            directory_key=content.text(0) if kind == "directory" else "",
        )


def _chunks(file: StructReader) -> tuple[FileChunk, ...]:
    return tuple(FileChunk(block.data(0), block.data(1)) for block in file.items(0))


@dataclass(frozen=True)
class Directory:
    """A directory: path from the root without leading slash ("" is the root)."""

    path: str
    access_key: str
    modified: int = 0
    created: int = 0
    inodes: tuple[Inode, ...] = field(default=())

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]

    @property
    def key(self) -> str:
        """The key under which it stands in the archive."""
        return path_key(self.path)

    def encode(self) -> bytes:
        """Return the Dir object."""
        builder = Builder(_DIR)
        root = builder.root
        root.text(0, self.name)
        root.text(1, self.path)
        inodes = root.items(2, len(self.inodes), _INODE)
        root.text(3, path_key(self.path.rpartition("/")[0]))
        root.number("Q", 0, 4096)
        root.text(4, self.access_key)
        root.number("I", 8, self.modified)
        root.number("I", 12, self.created)
        for inode, into in zip(self.inodes, inodes, strict=True):
            inode.write(into)
        return builder.message()

    @classmethod
    def decode(cls, data: bytes) -> "Directory":
        """Read a Dir object."""
        root = Message(data).root()
        return cls(
            path=root.text(1),
            access_key=root.text(4),
            modified=root.number("I", 8),
            created=root.number("I", 12),
            inodes=tuple(Inode.read(inode) for inode in root.items(2)),
        )


def path_key(path: str) -> str:
    """Return the key of a directory: hex BLAKE2b-16 of its path."""
    return digest(path.encode("utf-8", "surrogateescape")).hex()
