"""The spans of the master's index as a source of pages: several scanners, one list of spans."""

import time
from collections.abc import Callable, Sequence
from typing import Final

from sync.agent.chunks.copying.channel import Channel, open_all
from sync.agent.chunks.scan.lister import WALKS, Edge, Scanner, Span, Walk
from sync.agent.chunks.scan.pages import Page
from sync.agent.chunks.scan.span_plan import Mark
from sync.contract.spec import FlistsSpec

# A second look shortly after WAIT was sent: it may have overtaken the scan.
_SECOND_LOOK_SECONDS: Final = 0.2
# A master that is silent for longer may have anything by now.
_SILENT_SECONDS: Final = 2.0


def open_scanners(spec: FlistsSpec, count: int) -> list[Scanner]:
    """Open connections that list, all at once. Raises ZdbError."""
    return open_all(lambda: Scanner(spec.source, spec.io_timeout_seconds), count)


class IndexSource:
    """Lists spans with `scanners` connections; the last span is open and is followed.

    on_done: called with the pages that are acknowledged, in each walk's order. scanners: those that
    are open already; they are closed with the source.
    """

    def __init__(
        self,
        spec: FlistsSpec,
        spans: Sequence[Span],
        on_done: Callable[[list[Page]], None],
        scanners: Sequence[Scanner] = (),
    ) -> None:
        self.spans = list(spans)
        self._on_done = on_done
        # A closed span may be divided later: then there is work for all.
        wanted = spec.scanners if len(self.spans) > 1 else 1
        for scanner in scanners[wanted:]:
            scanner.close()
        self._scanners = [*scanners[:wanted]]
        if missing := wanted - len(self._scanners):
            self._scanners += open_scanners(spec, missing)
        self._poll_seconds = spec.poll_seconds
        # The tail is listed again at _tail_look_at. Other threads tell when a write was heard of
        # (_written_at) and when to look a second time (_second_look_at); a listing that was asked
        # for before says nothing about those. Monotonic seconds all, each with one writer.
        self._tail_look_at = 0.0
        self._tail_asked_at = 0.0
        self._written_at = 0.0
        self._second_look_at = 0.0
        self.caught_up = False
        self.caught_up_at = 0.0

    def channels(self) -> list[Channel]:
        """Return the scanners' connections."""
        return list(self._scanners)

    def look_now(self) -> None:
        """Scan the tail again: something was written. From any thread."""
        self._written_at = time.monotonic()

    def pull(self, now: float) -> list[Page]:
        """Collect answered pages and keep every scanner busy."""
        pages: list[Page] = []
        for scanner in self._scanners:
            if scanner.answered:
                pages += self._take(scanner, now)
        self._assign(time.monotonic())
        return pages

    @property
    def idle_scanners(self) -> int:
        """Count the scanners for which no walk of a closed span is left."""
        closed = sum(1 for span in self.spans if span.down and not span.listed)
        return len(self._scanners) - WALKS * closed

    @property
    def divisible(self) -> bool:
        """Tell whether there is a span to divide and scanners for both parts."""
        return self.idle_scanners >= WALKS and any(
            span.down and not span.listed for span in self.spans
        )

    def divide(self, marks: Sequence[Mark]) -> None:
        """Cut spans at places in the index until no scanner is idle, or no mark is of use.

        marks: in index order; a random sample, so that the span with most of them is the largest.
        """
        while marks and self.divisible:
            inside = [
                [mark for mark in marks if span.encloses(mark.cursor.position)]
                for span in self.spans
            ]
            most = max(inside, key=len)
            if not most:
                return
            self._cut(inside.index(most), most[len(most) // 2])

    def _cut(self, index: int, mark: Mark) -> None:
        upper = self.spans[index].cut(Edge(mark.cursor, mark.entry[0]), mark.entry)
        self.spans.insert(index + 1, upper)
        for scanner in self._scanners:
            if scanner.walk is not None and scanner.walk is upper.down:
                scanner.span = upper

    def _take(self, scanner: Scanner, now: float) -> list[Page]:
        at_end = scanner.answer is None
        span = scanner.span
        first = self._first_page(span)
        page = scanner.take()
        if span is not None and span.down is None:
            self.caught_up = at_end
            if at_end:
                self.caught_up_at = time.monotonic()
                self._tail_look_at = now + self._poll_seconds
        if not at_end:
            self._note_end(span)
        return first + ([page] if page else [])

    def _first_page(self, span: Span | None) -> list[Page]:
        if span is None or span.first_page is None:
            return []
        page, span.first_page = span.first_page, None
        page.open_batches -= 1
        return [page]

    def _note_end(self, span: Span | None) -> None:
        if span is not None and span.down is None:
            self._tail_look_at = 0.0

    def _assign(self, now: float) -> None:
        idle = [scanner for scanner in self._scanners if scanner.idle]
        busy = {id(scanner.walk) for scanner in self._scanners if not scanner.idle}
        for span, walk in self._open_walks(now):
            if not idle:
                return
            if id(walk) not in busy:
                if span.down is None:
                    self._tail_asked_at = time.monotonic()
                idle.pop().ask(span, walk)

    def _open_walks(self, now: float) -> list[tuple[Span, Walk]]:
        walks: list[tuple[Span, Walk]] = []
        for span in self.spans:
            if span.down is None:
                if self._tail_is_due(now):
                    walks.append((span, span.up))
            elif not span.listed:
                walks += [(span, span.up), (span, span.down)]
        return walks

    def _tail_is_due(self, now: float) -> bool:
        return (
            now >= self._tail_look_at
            or self._written_at >= self._tail_asked_at
            or self._tail_asked_at < self._second_look_at <= now
        )

    def acknowledged(self) -> None:
        """Move the acknowledged edges; forget closed spans that are done."""
        done: list[Page] = []
        for span in self.spans:
            done += span.acknowledge()
        self.spans = [span for span in self.spans if not span.done]
        if done:
            self._on_done(done)

    @property
    def following(self) -> bool:
        """Tell whether only the tail is left and its end was seen, by a master that answers."""
        answered = self.caught_up_at >= self._tail_asked_at
        if not answered and time.monotonic() - self._tail_asked_at > _SILENT_SECONDS:
            return False
        return len(self.spans) == 1 and self.caught_up and not self.spans[0].up.pages

    def second_look(self) -> None:
        """Scan again soon although nothing was heard (WAIT may have come too late).

        From any thread.
        """
        self._second_look_at = time.monotonic() + _SECOND_LOOK_SECONDS
