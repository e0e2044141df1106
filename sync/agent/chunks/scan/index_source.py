"""The spans of the master's index as a source of pages: several scanners, one list of spans."""

import time
from collections.abc import Sequence
from typing import Final

from sync.agent.chunks.memory import SessionMemory
from sync.agent.chunks.scan.cut_points import CutPoint
from sync.agent.chunks.scan.scanner import Scanner, open_scanners
from sync.agent.chunks.scan.spans import SCANS, Page, Scan, Span
from sync.contract.spec import FlistsSpec

# A second look shortly after WAIT was sent: it may have overtaken the scan.
_SECOND_LOOK_SECONDS: Final = 0.2
# A master that is silent for longer may have anything by now.
_SILENT_SECONDS: Final = 2.0
# Pages that wait for an earlier one, which hangs perhaps, are few bytes each; but not for ever.
_MOST_PAGES: Final = 10_000


class IndexSource:
    """Lists spans with `scanners` connections; the last span is open and is followed.

    scanners: those that are open already, so many of which are used as there is work for.
    memory: what pages take.
    """

    def __init__(
        self,
        spec: FlistsSpec,
        spans: Sequence[Span],
        scanners: Sequence[Scanner] = (),
        memory: SessionMemory | None = None,
    ) -> None:
        self.spans = list(spans)
        # One scan at a time goes on from each cursor, so two connections are all a span can use.
        # A closed span may be divided later: then there is work for all.
        wanted = spec.scanners if len(self.spans) > 1 else 1
        for scanner in scanners[wanted:]:
            scanner.close()
        lacking = wanted - len(scanners)
        more = open_scanners(spec, lacking, memory or SessionMemory.of(spec))
        self.scanners = [*scanners[:wanted], *more]
        self._pages = 0
        self._poll_seconds = spec.poll_seconds
        # The tail is listed again at _tail_look_at. Other threads say when a write was heard of
        # (_written_at) and when to look a second time (_second_look_at); a listing that was asked
        # for before says nothing about those. Monotonic seconds all, each with one writer.
        self._tail_look_at = 0.0
        self._tail_asked_at = 0.0
        self._written_at = 0.0
        self._second_look_at = 0.0
        self._at_end = False
        self._at_end_since = 0.0

    def pull(self, now: float) -> list[Page]:
        """Collect answered pages and keep every scanner busy. Raises ZdbProtocolError."""
        pages: list[Page] = []
        for scanner in self.scanners:
            if scanner.answered:
                pages += self._take(scanner, now)
        self._pages += len(pages)
        self._assign(time.monotonic())
        return pages

    def acknowledge(self) -> list[Page]:
        """Move the acknowledged edges over the pages that are done; returns those."""
        done = [page for span in self.spans for page in span.acknowledge()]
        self.spans = [span for span in self.spans if not span.done]
        self._pages -= len(done)
        return done

    @property
    def has_room(self) -> bool:
        """Whether more pages may be listed before the first ones are done."""
        return self._pages < _MOST_PAGES

    @property
    def following(self) -> bool:
        """Whether only the tail is left and its end was seen, by a master that answers."""
        answered = self._at_end_since >= self._tail_asked_at
        if not answered and time.monotonic() - self._tail_asked_at > _SILENT_SECONDS:
            return False
        return len(self.spans) == 1 and self._at_end and not self.spans[0].up.pages

    @property
    def divisible(self) -> bool:
        """Whether there is a span to divide and scanners for both parts."""
        unlisted = sum(1 for span in self.spans if span.down and not span.listed)
        return unlisted > 0 and len(self.scanners) >= SCANS * (unlisted + 1)

    def divide(self, points: Sequence[CutPoint]) -> None:
        """Cut spans until no scanner is idle, or no point is of use.

        points: in index order; a random sample, so that the span with most of them is the largest.
        """
        while points and self.divisible:
            inside = [
                [point for point in points if span.encloses(point.cursor.position)]
                for span in self.spans
            ]
            most = max(inside, key=len)
            if not most:
                return
            index, point = inside.index(most), most[len(most) // 2]
            upper = self.spans[index].cut(point.edge, point.entry)
            self.spans.insert(index + 1, upper)
            for scanner in self.scanners:
                if scanner.scan is not None and scanner.scan is upper.down:
                    scanner.span = upper

    def _take(self, scanner: Scanner, now: float) -> list[Page]:
        at_end = scanner.answer is None
        span = scanner.span
        pages = span.take_first_page() if span else []
        pages += scanner.take()
        if span is not None and span.down is None:
            self._at_end = at_end
            self._tail_look_at = now + self._poll_seconds if at_end else 0.0
            if at_end:
                self._at_end_since = time.monotonic()
        return pages

    def _assign(self, now: float) -> None:
        idle = [scanner for scanner in self.scanners if scanner.idle]
        busy = {id(scanner.scan) for scanner in self.scanners if not scanner.idle}
        for span, scan in self._open_scans(now):
            if not idle:
                return
            if id(scan) not in busy:
                if span.down is None:
                    self._tail_asked_at = time.monotonic()
                idle.pop().ask(span, scan)

    def _open_scans(self, now: float) -> list[tuple[Span, Scan]]:
        scans: list[tuple[Span, Scan]] = []
        for span in self.spans:
            if span.down is None:
                if self._tail_is_due(now):
                    scans.append((span, span.up))
            elif not span.listed:
                scans += [(span, span.up), (span, span.down)]
        return scans

    def _tail_is_due(self, now: float) -> bool:
        return (
            now >= self._tail_look_at
            or self._written_at >= self._tail_asked_at
            or self._tail_asked_at < self._second_look_at <= now
        )

    def look_now(self) -> None:
        """Scan the tail again: something was written. From any thread."""
        self._written_at = time.monotonic()

    def look_again(self) -> None:
        """Scan the tail again soon although no write was heard of. From any thread."""
        # WAIT reports only writes that come after it (zdbd/redis.c, redis_posthandler_client): one
        # between the scan and the WAIT would be noticed at the next poll.
        self._second_look_at = time.monotonic() + _SECOND_LOOK_SECONDS
