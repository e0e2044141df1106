"""Pages of the master's index on their way to the slave: what is acknowledged as one."""

from dataclasses import dataclass, field
from typing import Final

from sync.agent.zdb import Cursor, Entry, ZdbProtocolError

# A chunk's key is the BLAKE2b-128 of its payload (0-flist: libflist/zero_chunk.c); a key of any
# other size proves nothing.
HASH_BYTES: Final = 16


@dataclass(slots=True)
class Page:
    """Listed entries whose copying is acknowledged as one.

    cursor, edge_key: where listing stands once this page is done. stored_items: what the slave did
    not have. lengths: listed ones, in bytes. plain_keys: those that are no hash of their payload.
    """

    cursor: Cursor | None
    edge_key: bytes
    entries: list[Entry]
    stored_items: int = 0
    lengths: list[int] = field(init=False)
    plain_keys: list[bytes] = field(init=False)
    # The first hold is the listing's own, until all batches are cut: a page is never done before.
    _holds: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        self.lengths = [int(entry[1]) for entry in self.entries]
        keys = [entry[0] for entry in self.entries]
        hashes = {*map(len, keys)} <= {HASH_BYTES}
        self.plain_keys = [] if hashes else [key for key in keys if len(key) != HASH_BYTES]

    def hold(self, batches: int) -> None:
        """Keep the page from being done until so many batches are released."""
        self._holds += batches

    def release(self) -> None:
        """Give up one hold. Raises ZdbProtocolError where there is none."""
        if self._holds == 0:
            raise ZdbProtocolError("more replies than batches")
        self._holds -= 1

    @property
    def done(self) -> bool:
        """Whether every entry is on the slave, or cannot be."""
        return self._holds == 0
