"""Several scanners list what one would: nothing missed, nothing twice, whatever happens."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sync.agent.chunks.checkpoint import SpanState
from sync.agent.chunks.scan.spans import Edge, Page, Scan, Span
from sync.agent.zdb.errors import ZdbProtocolError
from sync.agent.zdb.scan_pages import Cursor, ScanPage

PAGE_ENTRIES = 3


def cursor_at(place: int) -> Cursor:
    return Cursor(struct.pack("<BIIII", 2, place // 40, 1, 29 + place % 40, 0))


def key_at(place: int) -> bytes:
    return b"%d" % place


class Index:
    """A master's index: places in order, some deleted."""

    def __init__(self, size: int) -> None:
        self.live = [True] * size

    def page(self, scan: Scan, *, down: bool) -> ScanPage | None:
        """Answer SCAN or RSCAN after the scan's cursor."""
        start = self._place(scan.asked.cursor)
        places = range(start - 1, -1, -1) if down else range(start + 1, len(self.live))
        found = [place for place in places if self.live[place]][:PAGE_ENTRIES]
        if not found:
            return None
        return ScanPage(cursor_at(found[-1]), [(key_at(at), b"1", b"1") for at in found])

    def _place(self, cursor: Cursor | None) -> int:
        if cursor is None:
            return -1
        file_id, offset = cursor.position
        return file_id * 40 + offset - 29


def list_once(index: Index, span: Span, *, down: bool) -> list[Page]:
    """Ask for one page of a scan and give it to the span."""
    scan = span.down if down else span.up
    if scan is None or scan.finished:
        return []
    return give(span, index.page(scan, down=down), down=down)


def give(span: Span, answer: ScanPage | None, *, down: bool) -> list[Page]:
    """Give an answer to a span, as a scanner does."""
    scan = span.down if down else span.up
    assert scan
    return span.take(scan, answer)


def cut_at(index: Index, spans: list[Span], place: int, *, late: bool) -> list[Page]:
    """Divide the span that encloses a position; late: both scans had asked for a page before."""
    for number, span in enumerate(spans):
        if span.down and span.encloses(cursor_at(place).position):
            answers = (index.page(span.up, down=False), index.page(span.down, down=True))
            edge = Edge(cursor_at(place), key_at(place))
            upper = span.cut(edge, (key_at(place), b"1", b"1"))
            spans.insert(number + 1, upper)
            if not late:
                return []
            return give(span, answers[0], down=False) + give(upper, answers[1], down=True)
    return []


def spans_of(places: list[int], size: int) -> list[Span]:
    """Cut an index of `size` at `places` and at its last entry."""
    spans: list[Span] = []
    low = Edge(None)
    for place in [*places, size - 1]:
        high = Edge(cursor_at(place), key_at(place))
        spans.append(Span(low, high, (key_at(place), b"1", b"1")))
        low = high
    return [*spans, Span(low)]


def keys_of(pages: list[Page]) -> list[bytes]:
    return [entry[0] for page in pages for entry in page.entries]


def first_pages(spans: list[Span]) -> list[Page]:
    return [page for span in spans for page in span.take_first_page()]


@settings(deadline=None)
@given(
    st.integers(2, 60).flatmap(
        lambda size: st.tuples(
            st.just(size),
            st.lists(st.integers(0, size - 2), unique=True, max_size=5).map(sorted),
            st.lists(st.booleans(), min_size=200, max_size=200),
            st.lists(
                st.tuples(st.integers(0, size - 1), st.booleans(), st.integers(0, 20)), max_size=6
            ),
        )
    )
)
def test_every_entry_is_listed_once_in_whatever_order_scanners_answer(
    case: tuple[int, list[int], list[bool], list[tuple[int, bool, int]]],
) -> None:
    """Also where spans are divided meanwhile: (place, whether answers are under way, when)."""
    size, places, turns, cuts = case
    index = Index(size)
    spans = spans_of(places, size)
    pages = first_pages(spans)
    for turn, down in enumerate(turns):
        for place, late, when in cuts:
            if when == turn:
                pages += cut_at(index, spans, place, late=late)
                pages += first_pages(spans)
        for span in spans[:-1]:
            pages += list_once(index, span, down=down)
    while any(not span.listed for span in spans[:-1]):
        for span in spans[:-1]:
            pages += list_once(index, span, down=False)
    assert sorted(keys_of(pages)) == sorted(key_at(place) for place in range(size))
    for page in pages:
        page.release()
    for span in spans:
        span.acknowledge()
    assert all(span.done for span in spans[:-1])


class Copying:
    """Spans whose pages are listed and copied one by one; open: listed and not copied yet."""

    def __init__(self, index: Index, spans: list[Span]) -> None:
        self.index = index
        self.spans = spans
        self.open: list[Page] = []
        self.copied: set[bytes] = set()

    def list_page(self, number: int, *, down: bool) -> None:
        """List the next page of one of the closed spans."""
        closed = [span for span in self.spans if span.down]
        if closed:
            span = closed[number % len(closed)]
            self.open += first_pages([span]) + list_once(self.index, span, down=down)

    def divide(self, place: int, *, late: bool) -> None:
        """Divide the span around a position, where a key of the index is."""
        if self.index.live[place]:
            self.open += cut_at(self.index, self.spans, place, late=late)

    def store(self, number: int) -> None:
        """Copy one of the listed pages."""
        if self.open:
            page = self.open.pop(number % len(self.open))
            page.release()
            self.copied.update(keys_of([page]))
        for span in self.spans:
            span.acknowledge()

    def restart(self) -> None:
        """Go on from what is acknowledged; what is open is not copied."""
        self.spans = [SpanState.of(span).span() for span in self.spans if not span.done]
        self.open.clear()

    def finish(self, size: int) -> None:
        """Copy all that is left, after a last restart."""
        self.restart()
        self.copied.update(keys_of(first_pages(self.spans)))
        for _ in range(size):
            for span in self.spans:
                self.copied.update(keys_of(list_once(self.index, span, down=False)))


@settings(deadline=None, max_examples=300)
@given(
    st.integers(5, 24).flatmap(
        lambda size: st.tuples(
            st.just(size),
            st.lists(st.integers(0, size - 2), unique=True, max_size=2).map(sorted),
            st.lists(
                st.one_of(
                    st.tuples(st.just("up"), st.integers(0, 5)),
                    st.tuples(st.just("down"), st.integers(0, 5)),
                    st.tuples(st.just("delete"), st.integers(0, size - 1)),
                    st.tuples(st.just("stored"), st.integers(0, 20)),
                    st.tuples(st.just("divide"), st.integers(0, size - 1)),
                    st.tuples(st.just("divide late"), st.integers(0, size - 1)),
                    st.tuples(st.just("restart"), st.just(0)),
                ),
                min_size=3,
                max_size=30,
            ),
        )
    )
)
def test_deletes_and_restarts_meanwhile_make_nothing_that_stays_be_missed(
    case: tuple[int, list[int], list[tuple[str, int]]],
) -> None:
    """Also the keys where scanners start and meet may vanish; pages are copied in any order."""
    size, places, events = case
    index = Index(size)
    copying = Copying(index, spans_of(places, size))
    for event, number in events:
        if event == "delete":
            index.live[number] = False
        elif event == "restart":
            copying.restart()
        elif event == "stored":
            copying.store(number)
        elif event.startswith("divide"):
            copying.divide(number, late=event == "divide late")
        else:
            copying.list_page(number, down=event == "down")
    copying.finish(size)
    staying = {key_at(place) for place in range(size) if index.live[place]}
    assert staying <= copying.copied


def test_a_scan_that_does_not_advance_is_refused() -> None:
    span = Span(Edge(cursor_at(5), key_at(5)), Edge(cursor_at(9), key_at(9)), (b"9", b"1", b"1"))
    for place, down in ((5, False), (9, True)):
        with pytest.raises(ZdbProtocolError, match="does not advance"):
            give(span, ScanPage(cursor_at(place), []), down=down)


def test_where_two_scans_met_is_not_passed_before_the_other_one_has_copied_it() -> None:
    """A kill between the two would lose the entry on which they met."""
    top = (key_at(9), b"1", b"1")
    span = Span(Edge(None), Edge(cursor_at(9), key_at(9)), top)
    pages = first_pages([span])
    entries = [(key_at(place), b"1", b"1") for place in range(9)]
    (lower,) = give(span, ScanPage(cursor_at(0), entries[::-1]), down=True)
    pages += give(span, ScanPage(cursor_at(8), entries), down=False)
    for page in pages:
        page.release()
    span.acknowledge()
    resumed = SpanState.of(span).span()
    assert resumed.up.asked.cursor is None
    assert not span.done
    lower.release()
    span.acknowledge()
    assert span.done
