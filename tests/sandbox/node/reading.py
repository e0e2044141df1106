"""A flist mounted and read to its last byte: what every way that leads to one ends in."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.sandbox.flist import Backend
from tests.sandbox.node.chunks import Stores
from tests.sandbox.node.compare import compare
from tests.sandbox.node.mirror import Mirror
from tests.sandbox.node.mount import Mounted, Store
from tests.sandbox.node.network import Network
from tests.sandbox.node.report import NodeError, Phase

MASTERS_STORE: Final = "redis://hub.grid.tf:9900"


@dataclass(frozen=True)
class Booted:
    """What was read of a flist. keys: of its chunks. bytes: of all files, plain."""

    name: str
    files: int
    directories: int
    links: int
    keys: frozenset[bytes]
    bytes: int
    compared_with: Path | None = None

    @property
    def chunks(self) -> int:
        """How many chunks it has."""
        return len(self.keys)


@dataclass
class Reader:
    """Mounts flists and reads them. sources: the directory of each by `REPO/F.flist`."""

    mirror: Mirror
    network: Network
    sources: dict[str, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._stores = Stores(self.network)

    def close(self) -> None:
        """Close the connections to the stores."""
        self._stores.close()

    def read(self, path: str, data: bytes, phase: Phase, store: Backend | None = None) -> Booted:
        """Read all of a flist; raises NodeError for the first thing that is not as it must be.

        store: where the chunks are whatever the flist says (the upgrader's way); else that is
        asked which the flist names, or the node's default.
        """
        mounted = Mounted(path, data)
        try:
            wanted = self._store(mounted, phase) if store is None else _as_store(store)
            tree = mounted.tree(by_inode=store is None)
        finally:
            mounted.close()
        contents = {}
        files = tree.files()
        if any(inode.chunks for inode in files.values()):
            try:
                contents = self._stores.of(wanted).content(files, phase)
            except NodeError as error:
                raise NodeError(f"{path}: {error}") from error
        contents |= {place: b"" for place in files if place not in contents}
        source = self.sources.get(path)
        if source is not None:
            compare(path, tree, contents, source)
        phase.done += 1
        kinds = [inode.kind for inode in tree.inodes.values()]
        return Booted(
            name=path,
            files=len(files),
            directories=kinds.count("directory"),
            links=kinds.count("link"),
            keys=frozenset(chunk.id for inode in files.values() for chunk in inode.chunks),
            bytes=sum(map(len, contents.values())),
            compared_with=source,
        )

    def _store(self, mounted: Mounted, phase: Phase) -> Store:
        named = mounted.backend
        if named is not None:
            return named
        if self.mirror.default_store is None:
            raise NodeError(
                f"{mounted.name}: the flist names no backend: a node asks {MASTERS_STORE}"
            )
        phase.defaulted.append(mounted.name)
        return _as_store(self.mirror.default_store)


def _as_store(backend: Backend) -> Store:
    return Store(host=backend.host, port=backend.port, namespace=backend.namespace)


def check_md5(path: str, data: bytes, announced: str) -> None:
    """Raise NodeError unless the MD5 fits, which no node looks at before it mounts."""
    found = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if announced and found != announced:
        raise NodeError(f"{path}: the MD5 is not {announced} but {found}", unseen=True)
