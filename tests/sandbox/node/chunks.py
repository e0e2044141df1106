"""Chunks as g8ufs and 0-fs fetch them: one GET at a time on each of several kept connections.

Source: rfs 1.1.1, src/cache/mod.rs (a pool of connections, SELECT only for a namespace other than
`default`, no hash check).
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Final

from tests.sandbox.flist import FileChunk, Inode
from tests.sandbox.flist.chunks import CHUNK_BYTES, Chunk, ChunkError, open_chunks
from tests.sandbox.node.mount import Store
from tests.sandbox.node.network import Network
from tests.sandbox.node.report import NodeError, Phase
from tests.sandbox.services.zdb_client import ZdbClient, ZdbError

_CONNECTIONS: Final = 8
_BATCH: Final = 256


class Chunks:
    """One store's chunks; what was fetched once is not asked for again, as in a node's cache."""

    def __init__(self, store: Store, network: Network) -> None:
        self.store = store
        self._network = network
        self._idle: SimpleQueue[ZdbClient | None] = SimpleQueue()
        for _ in range(_CONNECTIONS):
            self._idle.put(None)
        self._plain: dict[bytes, bytes] = {}

    def close(self) -> None:
        """Close every connection."""
        while not self._idle.empty():
            connection = self._idle.get()
            if connection is not None:
                connection.close()

    def content(self, files: Mapping[str, Inode], phase: Phase) -> dict[str, bytes]:
        """Return the bytes of each file; raises NodeError for the first that is not whole."""
        self._fetch({c.id: c for inode in files.values() for c in inode.chunks}, phase)
        return {path: self._joined(path, inode) for path, inode in files.items()}

    def _joined(self, path: str, inode: Inode) -> bytes:
        pieces = [self._plain[chunk.id] for chunk in inode.chunks]
        # A node finds the chunk of an offset by division.
        if any(len(piece) != CHUNK_BYTES for piece in pieces[:-1]):
            raise NodeError(f"{path}: a chunk before its last has not {CHUNK_BYTES} bytes")
        content = b"".join(pieces)
        if len(content) != inode.size:
            raise NodeError(f"{path} has {len(content)} bytes, not {inode.size}")
        return content

    def _fetch(self, named: Mapping[bytes, FileChunk], phase: Phase) -> None:
        missing = [chunk for key, chunk in named.items() if key not in self._plain]
        if not missing:
            return
        with ThreadPoolExecutor(_CONNECTIONS) as pool:
            for start in range(0, len(missing), _BATCH):
                got = list(pool.map(self._get, missing[start : start + _BATCH]))
                try:
                    plain = open_chunks(got)
                except ChunkError as error:
                    raise NodeError(f"0-db {self.store}: {error}") from error
                self._plain.update(zip((chunk.id for chunk in got), plain, strict=True))
        phase.note(f"GET {len(missing)} chunks of {self.store}", "all came")

    def _get(self, wanted: FileChunk) -> Chunk:
        """Fetch one chunk over whichever connection is free; raises NodeError."""
        connection = self._idle.get()
        try:
            connection = connection or self._connected()
            payload = connection.command("GET", wanted.id)
        except (ZdbError, OSError) as error:
            raise NodeError(f"0-db {self.store}: {error}") from error
        finally:
            self._idle.put(connection)
        if not isinstance(payload, bytes):
            raise NodeError(
                f"chunk {wanted.id.hex()} is not in the 0-db {self.store}: a node hangs there"
            )
        return Chunk(wanted.id, wanted.cipher, payload)

    def _connected(self) -> ZdbClient:
        address, port = self._network.addresses(self.store.host, self.store.port)[0]
        made = ZdbClient(address, port, self._network.timeout_seconds)
        if self.store.namespace not in (None, "default"):
            password = () if self.store.password is None else (self.store.password,)
            made.command("SELECT", str(self.store.namespace), *password)
        return made


class Stores:
    """The stores that a node uses, each connected to once."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._known: dict[Store, Chunks] = {}

    def of(self, store: Store) -> Chunks:
        """Return a store's chunks."""
        if store not in self._known:
            self._known[store] = Chunks(store, self._network)
        return self._known[store]

    def close(self) -> None:
        """Close every connection."""
        for chunks in self._known.values():
            chunks.close()
