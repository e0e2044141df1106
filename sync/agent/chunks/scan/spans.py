"""Spans: the master's index cut into parts that are listed at once, none missed or listed twice.

The index is an append-only file, and a cursor is a position in it. It is cut into spans at cursors
that are known from keys; each closed span is listed from both ends at once (SCAN upwards, RSCAN
downwards) until the two scans meet, so that even without any known key there are two scanners. The
last span is open: its scan is the tail. What a span has acknowledged is two cursors, which is all
that a restart needs.
"""

import operator
from collections import deque
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Final

from pydantic import BeforeValidator, ConfigDict, PlainSerializer

from sync.agent.budget import Share
from sync.agent.digests import HASH_BYTES
from sync.agent.zdb.errors import ZdbProtocolError
from sync.agent.zdb.scan_pages import Cursor, Entry, ScanPage

# Of a closed span: upwards and downwards.
SCANS: Final = 2


def _from_hex(value: object) -> object:
    return bytes.fromhex(value) if isinstance(value, str) else value


def _cursor_from_hex(value: object) -> object:
    return Cursor.from_hex(value) if isinstance(value, str) else value


# As the checkpoint has them.
HexKey = Annotated[bytes, BeforeValidator(_from_hex), PlainSerializer(bytes.hex)]
HexCursor = Annotated[
    Cursor, BeforeValidator(_cursor_from_hex), PlainSerializer(lambda cursor: cursor.hex)
]


@dataclass(frozen=True, slots=True)
class Edge:
    """How far one scan of a span has come: a cursor, and the key it stands on.

    In the checkpoint both are in hex; a null cursor: before the first entry.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")
    cursor: HexCursor | None = None
    key: HexKey = b""

    @property
    def position(self) -> tuple[int, int]:
        """The position in the index; before everything where there is no cursor yet."""
        return self.cursor.position if self.cursor else (-1, 0)


@dataclass(slots=True)
class Page:
    """Listed entries whose copying is acknowledged as one.

    edge: where listing stands once this page is done. stored_items: what the slave did not have.
    share: what the entries hold of the memory. items, payload_bytes: of all entries, which are let
    go before the page is acknowledged: an earlier one may be under way for long. lengths: listed
    ones, in bytes. plain_keys: those that are no hash of their payload.
    """

    edge: Edge
    entries: list[Entry]
    stored_items: int = 0
    share: Share | None = None
    items: int = field(init=False)
    payload_bytes: int = field(init=False)
    lengths: list[int] = field(init=False)
    plain_keys: list[bytes] = field(init=False)
    # The first hold is the listing's own, until all batches are cut: a page is never done before.
    _holds: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        self.lengths = [int(entry[1]) for entry in self.entries]
        keys = [entry[0] for entry in self.entries]
        hashes = {*map(len, keys)} <= {HASH_BYTES}
        self.plain_keys = [] if hashes else [key for key in keys if len(key) != HASH_BYTES]
        self.items, self.payload_bytes = len(self.entries), sum(self.lengths)

    def divide(self, batches: int) -> None:
        """Pass the listing's hold on to so many batches: the page is done once all are released."""
        self._holds += batches - 1

    def release(self) -> None:
        """Give up one hold. Raises ZdbProtocolError where there is none."""
        if self._holds == 0:
            raise ZdbProtocolError("more replies than batches")
        self._holds -= 1

    def let_go(self) -> None:
        """Let go of what nobody needs any more of a page that is done."""
        self.entries, self.lengths = [], []
        if self.share:
            self.share.close()

    @property
    def done(self) -> bool:
        """Whether every entry is on the slave, or cannot be."""
        return self._holds == 0


@dataclass(slots=True)
class Scan:
    """One direction of a span. asked: listed up to here; acknowledged: copied up to here."""

    asked: Edge
    acknowledged: Edge
    pages: deque[Page] = field(default_factory=deque)
    finished: bool = False

    def extend(self, edge: Edge, entries: list[Entry]) -> Page:
        """Take the next page, which ends at `edge`."""
        self.asked = edge
        page = Page(edge, entries)
        self.pages.append(page)
        return page

    def acknowledge(self) -> list[Page]:
        """Move the acknowledged edge over the pages that are done; returns those."""
        done: list[Page] = []
        while self.pages and self.pages[0].done:
            page = self.pages.popleft()
            self.acknowledged = page.edge
            done.append(page)
        return done


class Span:
    """Part of the index: after `low`, up to and including `high` (None: open, the tail).

    top: the entry that `high` stands on, listed by neither scan.
    """

    def __init__(self, low: Edge, high: Edge | None = None, top: Entry | None = None) -> None:
        self.up = Scan(low, low)
        self.down: Scan | None = None
        self.top: Entry | None = None
        self.first_page: Page | None = None
        if high:
            self._close_at(high, top)

    def _close_at(self, high: Edge, top: Entry | None) -> None:
        self.down = Scan(high, high)
        self.top = top
        # RSCAN begins before its cursor (zdbd/commands_scan.c, command_rscan), and SCAN ends where
        # the downward scan begins: the entry in between is a page of its own.
        self.first_page = self.down.extend(high, [top]) if top else None

    def cut(self, at: Edge, top: Entry) -> "Span":
        """End this span at a position between its scans; returns the one that begins there.

        top: the entry that `at` stands on. The scan downwards goes on in the new span. An answer
        that is under way may pass the cut: the scans then meet there, as at any other edge.
        """
        upper = Span(at)
        upper.down, upper.top, upper.first_page = self.down, self.top, self.first_page
        self._close_at(at, top)
        return upper

    def encloses(self, position: tuple[int, int]) -> bool:
        """Return whether neither scan of a closed span has come to this position."""
        if self.down is None or self.listed:
            return False
        return self.up.asked.position < position < self.down.asked.position

    @property
    def listed(self) -> bool:
        """Whether both scans have met."""
        return self.up.finished

    @property
    def done(self) -> bool:
        """Whether everything in a closed span is copied."""
        return (
            self.down is not None and self.up.finished and not self.up.pages and not self.down.pages
        )

    def acknowledge(self) -> list[Page]:
        """Move the acknowledged edges of both scans; returns the pages that are done."""
        done = self.up.acknowledge()
        if self.down:
            lower = self.down.acknowledge()
            if lower:
                self.top = None
            done += lower
        return done

    def take_first_page(self) -> list[Page]:
        """Hand out the page of the span's highest entry, once."""
        page, self.first_page = self.first_page, None
        return [page] if page else []

    def take(self, scan: Scan, listed: ScanPage | None) -> list[Page]:
        """Take the next page of a scan, None past the index; returns the part that is to be copied.

        Raises ZdbProtocolError.
        """
        other = self.down if scan is self.up else self.up
        if scan.finished:
            return []
        if listed is None:
            if other:
                self._meet(scan, other, []).release()
            return []
        before = operator.lt if scan is self.up else operator.gt
        # The cursor is the master's word alone: one that stays would list the same page for ever.
        if not before(scan.asked.position, listed.cursor.position):
            raise ZdbProtocolError("SCAN: the cursor does not advance")
        if other is None or before(listed.cursor.position, other.asked.position):
            key = listed.entries[-1][0] if listed.entries else b""
            return [scan.extend(Edge(listed.cursor, key), listed.entries)]
        return [self._meet(scan, other, listed.entries)]

    def _meet(self, scan: Scan, other: Scan, entries: list[Entry]) -> Page:
        """End both scans: copy the part that the other one has not listed."""
        # An answer goes on past the other scan's edge, as zdbd knows of no end but the index's own;
        # if that entry was deleted meanwhile, some are listed twice, which does no harm.
        kept = entries
        for index, entry in enumerate(entries):
            if entry[0] == other.asked.key:
                kept = entries[:index]
                break
        # Acknowledging this last page moves no edge: the entry where they met is the other's, and
        # a kill before that one is copied would lose it.
        page = scan.extend(scan.asked, kept)
        scan.asked = other.asked
        scan.finished = other.finished = True
        return page
