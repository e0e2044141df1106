"""Directories, inodes and access records of a flist, and their encoding.

Source: 0-flist, format/flist.capnp, libflist/flist_serial.c, flist_acl.c, flist_tools.c.
"""

import hashlib
from dataclasses import dataclass, field
from typing import Final, Literal

from tests.sandbox.flist.capnp import (
    Builder,
    Message,
    Placed,
    Shape,
    StructBuilder,
    StructReader,
)
from tests.sandbox.flist.chunks import digest

Kind = Literal["directory", "file", "link", "special"]
_KINDS: Final[tuple[Kind, ...]] = ("directory", "file", "link", "special")
Special = Literal["socket", "block", "chardev", "fifopipe", "unknown"]
_SPECIALS: Final[tuple[Special, ...]] = ("socket", "block", "chardev", "fifopipe", "unknown")

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
        builder = Builder()
        root = builder.struct(_ACI)
        root.text(0, self.user)
        root.text(1, self.group)
        root.number("H", 0, self.mode)
        root.number("q", 8, ~self.uid)  # the field's default is -1
        root.number("q", 16, ~self.gid)
        return builder.message(root)

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
    """One name in a directory.

    size: bytes. modified, created: unix seconds, unsigned 32 bits. chunks: a file's, in order.
    target: a link's. special: what it is by its type, device: what it is by its data (zflist writes
    every special file as a socket; its data is "MAJOR,MINOR" of a device, else "(nothing)").
    """

    name: str
    kind: Kind
    size: int
    access_key: str
    modified: int = 0
    created: int = 0
    chunks: tuple[FileChunk, ...] = ()
    target: str = ""
    directory_key: str = ""
    special: Special = "socket"
    device: str = ""

    def write(self, builder: Builder, into: StructBuilder) -> None:
        """Fill an Inode struct, which is what allocates last (flist_serial.c)."""
        content = self._content(builder)
        into.text(0, self.name)
        into.number("Q", 0, self.size)
        into.number("H", 8, _KINDS.index(self.kind))
        into.number("I", 12, self.modified)
        into.number("I", 16, self.created)
        into.point(1, content.place)
        into.text(2, self.access_key)

    def _content(self, builder: Builder) -> StructBuilder:
        if self.kind == "directory":
            content = builder.struct(_SUBDIR)
            content.text(0, self.directory_key)
        elif self.kind == "link":
            content = builder.struct(_LINK)
            content.text(0, self.target)
        elif self.kind == "file":
            content = self._file(builder)
        else:
            device = builder.data(self.device.encode("utf-8", "surrogateescape"))
            content = builder.struct(_SPECIAL)
            content.number("H", 0, _SPECIALS.index(self.special))
            content.point(0, device)
        return content

    def _file(self, builder: Builder) -> StructBuilder:
        blocks = self._blocks(builder) if self.chunks else None
        file = builder.struct(_FILE)
        file.number("H", 0, _IGNORED_BLOCK_SIZE)
        if blocks is not None:
            file.point(0, blocks)
        return file

    def _blocks(self, builder: Builder) -> Placed:
        place, blocks = builder.structs(len(self.chunks), _BLOCK)
        for block, chunk in zip(blocks, self.chunks, strict=True):
            named, cipher = builder.data(chunk.id), builder.data(chunk.cipher)
            block.point(0, named)
            block.point(1, cipher)
        return place

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
            special=_SPECIALS[content.number("H", 0)] if kind == "special" else "socket",
            device=_device(content) if kind == "special" else "",
        )


def _chunks(file: StructReader) -> tuple[FileChunk, ...]:
    return tuple(FileChunk(block.data(0), block.data(1)) for block in file.items(0))


def _device(special: StructReader) -> str:
    return special.data(0).decode("utf-8", "surrogateescape")


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
        builder = Builder()
        contents, inodes = builder.structs(len(self.inodes), _INODE)
        for inode, into in zip(self.inodes, inodes, strict=True):
            inode.write(builder, into)
        root = builder.struct(_DIR)
        root.text(0, self.name)
        root.text(1, self.path)
        root.point(2, contents)
        root.text(3, path_key(self.path.rpartition("/")[0]))
        root.number("Q", 0, 4096)
        root.text(4, self.access_key)
        root.number("I", 8, self.modified)
        root.number("I", 12, self.created)
        return builder.message(root)

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
