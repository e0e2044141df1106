"""Listing the master's index by several scanners at once, without missing or repeating an entry.

The index is an append-only file, and a cursor is a place in it. It is cut into spans at cursors
that are known from keys; each closed span is walked from both ends at once (SCAN upwards, RSCAN
downwards) until the two meet, so that even without any known key there are two scanners. The last
span is open: its walk is the tail. What a span has acknowledged is two cursors, which is all that
a restart needs.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Final, Self

from typing_extensions import override

from sync.agent.chunks.copying.channel import TRICKLE_BYTES_PER_SECOND, Channel
from sync.agent.chunks.scan.pages import MAX_PAGE_BYTES, Entry, NeedMoreBytes, Page, parse_page
from sync.agent.zdb.errors import ZdbProtocolError
from sync.agent.zdb.replies import Cursor
from sync.contract.spec import ZdbEndpoint

_PONG_LIMIT: Final = 1 << 18
# Of a closed span: upwards and downwards.
WALKS: Final = 2


@dataclass(slots=True)
class Edge:
    """How far one walk of a span has come: a cursor, and the key it stands on."""

    cursor: Cursor | None
    key: bytes = b""

    def position(self) -> tuple[int, int]:
        """Return the place in the index; before everything where there is no cursor yet."""
        return self.cursor.position if self.cursor else (-1, 0)


@dataclass(slots=True)
class Walk:
    """One direction of a span. asked: listed up to here; acknowledged: copied up to here."""

    asked: Edge
    acknowledged: Edge
    pages: deque[Page] = field(default_factory=deque)
    finished: bool = False

    @classmethod
    def at(cls, cursor: Cursor | None, key: bytes = b"") -> Self:
        """Start a walk here."""
        return cls(Edge(cursor, key), Edge(cursor, key))

    def acknowledge(self) -> list[Page]:
        """Move the acknowledged edge over the pages that are done; returns those."""
        done: list[Page] = []
        while self.pages and self.pages[0].open_batches == 0:
            page = self.pages.popleft()
            self.acknowledged = Edge(page.cursor, page.edge_key)
            done.append(page)
        return done


class Span:
    """Part of the index: after `low`, up to and including `high` (None: open, the tail).

    top: the entry that `high` stands on, listed by neither walk.
    """

    def __init__(self, low: Edge, high: Edge | None = None, top: Entry | None = None) -> None:
        self.up = Walk.at(low.cursor, low.key)
        self.down: Walk | None = None
        self.top: Entry | None = None
        self.first_page: Page | None = None
        if high:
            self._close_at(high, top)

    def _close_at(self, high: Edge, top: Entry | None) -> None:
        self.down = Walk.at(high.cursor, high.key)
        self.top = top
        self.first_page = None
        if top:
            # One batch that never comes keeps it open until it is handed out.
            self.first_page = Page(high.cursor, high.key, [top], open_batches=1)
            self.down.pages.append(self.first_page)

    def cut(self, mark: Edge, top: Entry) -> "Span":
        """End this span at a place between its walks; returns the one that begins there.

        top: the entry that `mark` stands on. The walk downwards goes on in the new span. An answer
        that is under way may pass the mark: the walks then meet there, as at any other edge.
        """
        upper = Span(mark)
        upper.down, upper.top, upper.first_page = self.down, self.top, self.first_page
        self._close_at(mark, top)
        return upper

    def encloses(self, place: tuple[int, int]) -> bool:
        """Tell whether neither walk of a closed span has come to this place."""
        if self.down is None or self.listed:
            return False
        return self.up.asked.position() < place < self.down.asked.position()

    @property
    def listed(self) -> bool:
        """Tell whether both walks have met."""
        return self.up.finished

    @property
    def done(self) -> bool:
        """Tell whether everything in a closed span is copied."""
        return (
            self.down is not None and self.up.finished and not self.up.pages and not self.down.pages
        )

    def acknowledge(self) -> list[Page]:
        """Move the acknowledged edges of both walks; returns the pages that are done."""
        done = self.up.acknowledge()
        if self.down:
            lower = self.down.acknowledge()
            if lower:
                self.top = None
            done += lower
        return done

    def take_up(self, cursor: Cursor, entries: list[Entry]) -> Page | None:
        """Take a page of SCAN; returns what of it is to be copied. Raises ZdbProtocolError."""
        if cursor.position <= self.up.asked.position():
            raise ZdbProtocolError("SCAN: the cursor does not advance")
        if self.down is None:
            return self._extend(self.up, cursor, entries)
        if cursor.position < self.down.asked.position():
            return self._extend(self.up, cursor, entries)
        return self._meet(self.up, self.down.asked, entries)

    def take_down(self, cursor: Cursor, entries: list[Entry]) -> Page | None:
        """Take a page of RSCAN; as take_up."""
        down = self._closed()
        if cursor.position >= down.asked.position():
            raise ZdbProtocolError("RSCAN: the cursor does not go back")
        if cursor.position > self.up.asked.position():
            return self._extend(down, cursor, entries)
        return self._meet(down, self.up.asked, entries)

    def end_of_index(self, walk: Walk) -> None:
        """Take "No more data": the walk has reached an end of the index."""
        if walk is self.down:
            self._meet(walk, self.up.asked, [])
        elif self.down is not None:
            self._meet(walk, self.down.asked, [])

    def _closed(self) -> Walk:
        if self.down is None:
            raise ZdbProtocolError("RSCAN in an open span")
        return self.down

    def _extend(self, walk: Walk, cursor: Cursor, entries: list[Entry]) -> Page:
        key = entries[-1][0] if entries else b""
        walk.asked = Edge(cursor, key)
        page = Page(cursor, key, entries)
        walk.pages.append(page)
        return page

    def _meet(self, walk: Walk, other: Edge, entries: list[Entry]) -> Page:
        """End both walks: keep what the other one has not listed.

        Acknowledging this last page moves no edge: the entry where they met is the other's.
        """
        kept = entries
        for index, entry in enumerate(entries):
            if entry[0] == other.key:
                kept = entries[:index]
                break
        page = Page(walk.asked.cursor, walk.asked.key, kept)
        walk.asked = other
        walk.pages.append(page)
        self.up.finished = True
        self._closed().finished = True
        return page


class Scanner(Channel):
    """One connection that lists: one SCAN or RSCAN at a time."""

    least_bytes_per_second = TRICKLE_BYTES_PER_SECOND

    def __init__(
        self, endpoint: ZdbEndpoint, timeout_seconds: float, password: str | None = None
    ) -> None:
        role = "master" if password is None else "slave"
        super().__init__(role, endpoint, password, timeout_seconds)
        self._received = bytearray()
        self._asked = False
        self.answer: tuple[Cursor, list[Entry]] | None = None
        self.answered = False
        self.span: Span | None = None
        self.walk: Walk | None = None

    @property
    def idle(self) -> bool:
        """Tell whether it can be given a walk to go on with."""
        return not self._asked and not self.answered

    @override
    def awaiting(self) -> bool:
        return self._asked

    @override
    def nudge(self) -> None:
        """Do nothing: a single request is never left in the server's socket."""

    def ask(self, span: Span, walk: Walk) -> None:
        """List the next page of a walk."""
        self.span, self.walk = span, walk
        command = b"RSCAN" if walk is span.down else b"SCAN"
        cursor = walk.asked.cursor
        request = b"*%d\r\n$%d\r\n%b\r\n" % (2 if cursor else 1, len(command), command)
        if cursor:
            request += b"$%d\r\n%b\r\n" % (len(cursor.raw), cursor.raw)
        self.send(request)
        self._asked = True

    @override
    def on_readable(self) -> None:
        data = self.receive(_PONG_LIMIT)
        if not data:
            return
        if not self._asked:
            raise ZdbProtocolError(f"{self.where}: bytes that nobody asked for")
        self._received += data
        if len(self._received) > MAX_PAGE_BYTES:
            raise ZdbProtocolError(
                f"{self.where}: a page of more than {MAX_PAGE_BYTES} bytes passes the limit"
            )
        if not data.endswith(b"\r\n"):
            return
        try:
            self.answer = parse_page(self._received)
        except NeedMoreBytes:
            return
        self.answered = True
        self.progressed()
        self._asked = False
        self._received.clear()

    def take(self) -> Page | None:
        """Give the answered page to its span; returns what of it is to be copied."""
        span, walk, answer = self.span, self.walk, self.answer
        self.answered = False
        self.answer = None
        if span is None or walk is None or walk.finished:
            return None
        if answer is None:
            span.end_of_index(walk)
            return None
        cursor, entries = answer
        if walk is span.down:
            return span.take_down(cursor, entries)
        return span.take_up(cursor, entries)
