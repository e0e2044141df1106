"""A flist mounted as a node mounts it (rfs 1.1.1, g8ufs: src/meta/mod.rs, inode.rs, types.rs).

An inode's number is made of its directory's row in `entries`, and 1 is always the root: another
directory in row 1 shows the root instead of itself. Rows, then, are part of the format.
"""

import gzip
import io
import sqlite3
import tarfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tests.sandbox.flist import Directory, Inode
from tests.sandbox.flist.capnp import EncodingError
from tests.sandbox.flist.chunks import HASH_BYTES
from tests.sandbox.flist.tree import Access, path_key
from tests.sandbox.node.report import NodeError

_DATABASE: Final = "flistdb.sqlite3"
_ROOT_INODE: Final = 1
_ROOT_KEY: Final = path_key("")


class Store(BaseModel):
    """Where chunks are, as serde reads `metadata.backend` (src/meta/backend.rs)."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")

    host: str
    port: int = Field(ge=0, lt=1 << 16)
    namespace: str | None = None
    password: str | None = Field(default=None, repr=False)

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass
class Tree:
    """A flist's content by path. access: owner and mode of each."""

    inodes: dict[str, Inode] = field(default_factory=dict)
    access: dict[str, Access] = field(default_factory=dict)

    def files(self) -> dict[str, Inode]:
        """Return the regular files by path."""
        return {path: inode for path, inode in self.inodes.items() if inode.kind == "file"}


class Mounted:
    """A flist's database, opened. name: of the flist, for what fails."""

    def __init__(self, name: str, data: bytes) -> None:
        self.name = name
        self._database = sqlite3.connect(":memory:")
        try:
            self._database.deserialize(_unpacked(data))
            self._database.execute("SELECT max(rowid) FROM entries").fetchone()
        except (tarfile.TarError, OSError, EOFError, zlib.error, sqlite3.Error) as error:
            self._database.close()
            raise NodeError(f"{name} is no flist: {error}") from error

    def close(self) -> None:
        """Forget it."""
        self._database.close()

    @property
    def backend(self) -> Store | None:
        """The store that the flist names; None where it names none. Raises NodeError."""
        # Flists of 2018 and 2019 have no such table: that is no backend either.
        if self._one("SELECT 1 FROM sqlite_master WHERE name = 'metadata'") is None:
            return None
        row = self._one("SELECT value FROM metadata WHERE key = 'backend'")
        if row is None:
            return None
        try:
            return Store.model_validate_json(row[0])
        except ValidationError as error:
            words = error.errors(include_url=False)[0]["msg"]
            raise NodeError(f"{self.name}: metadata.backend is no 0-db: {words}") from error

    def tree(self, *, by_inode: bool) -> Tree:
        """Read every directory. by_inode: as g8ufs finds them, else by key alone (0-fs)."""
        tree = Tree()
        waiting = [("", _ROOT_KEY)]
        seen = set()
        while waiting:
            path, key = waiting.pop()
            if key in seen:
                raise NodeError(f"{self.name}: directory {path!r} contains itself")
            seen.add(key)
            for inode in self._contents(path, key, by_inode=by_inode):
                place = f"{path}/{inode.name}".lstrip("/")
                tree.inodes[place] = inode
                tree.access[place] = self._access(place, inode.access_key)
                if inode.kind == "directory":
                    waiting.append((place, inode.directory_key))
        return tree

    def _contents(self, path: str, key: str, *, by_inode: bool) -> Sequence[Inode]:
        row = self._one("SELECT rowid, value FROM entries WHERE key = ?", key)
        if row is None:
            raise NodeError(f"{self.name}: directory {path!r} is not in the flist")
        if by_inode and row[0] == _ROOT_INODE and key != _ROOT_KEY:
            raise NodeError(f"{self.name}: {path!r} is in row 1: a node shows the root there (EIO)")
        try:
            inodes = Directory.decode(row[1]).inodes
        except (EncodingError, IndexError, TypeError, ValueError) as error:
            raise NodeError(f"{self.name}: directory {path!r} can not be read: {error}") from error
        for inode in inodes:
            _check_blocks(f"{self.name}: {path}/{inode.name}", inode)
        return inodes

    def _access(self, path: str, key: str) -> Access:
        row = self._one("SELECT value FROM entries WHERE key = ?", key)
        if row is None:
            raise NodeError(f"{self.name}: nobody owns {path!r}: its access record is not there")
        try:
            return Access.decode(row[0])
        except (EncodingError, IndexError, TypeError, ValueError) as error:
            raise NodeError(f"{self.name}: the owner of {path!r} can not be read") from error

    def _one(self, query: str, *values: str) -> Any:
        try:
            return self._database.execute(query, values).fetchone()
        except sqlite3.Error as error:
            raise NodeError(f"{self.name}: its database can not be read: {error}") from error


def _unpacked(data: bytes) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(data)), mode="r:") as tar:
        for member in tar:
            if member.isfile() and member.name.removeprefix("./") == _DATABASE:
                content = tar.extractfile(member)
                if content is not None:
                    return content.read()
    raise tarfile.TarError(f"no {_DATABASE} in the archive")


def _check_blocks(place: str, inode: Inode) -> None:
    for chunk in inode.chunks:
        if len(chunk.id) != HASH_BYTES or len(chunk.cipher) != HASH_BYTES:
            raise NodeError(f"{place}: a chunk's keys have not 16 bytes: g8ufs ends there")
