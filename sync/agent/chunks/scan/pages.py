"""Pages of the master's index on their way to the slave: what is acknowledged as one."""

from dataclasses import dataclass, field

from sync.agent.chunks.keys import HASH_BYTES
from sync.agent.zdb import Cursor, Entry, ZdbProtocolError


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

    def divide(self, batches: int) -> None:
        """Pass the listing's hold on to so many batches: the page is done once all are released."""
        self._holds += batches - 1

    def release(self) -> None:
        """Give up one hold. Raises ZdbProtocolError where there is none."""
        if self._holds == 0:
            raise ZdbProtocolError("more replies than batches")
        self._holds -= 1

    @property
    def done(self) -> bool:
        """Whether every entry is on the slave, or cannot be."""
        return self._holds == 0
