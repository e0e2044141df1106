"""Where scanners start: the spans of an index, cut at keys that are known from elsewhere.

Known keys come from the flists that the users job published (its pinned chunks) and, always, from
RSCAN, which gives the far end. The table grows while a first sync runs, and spans end sooner than
others: so spans are divided again whenever scanners are idle.
"""

import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple

from sync.agent.chunks.scan.spans import SCANS, Edge, Span
from sync.agent.zdb.connection import ZdbConnection
from sync.agent.zdb.errors import ZdbError
from sync.agent.zdb.protocol import Reply
from sync.agent.zdb.scan_pages import PAGE_BYTES, Cursor, Entry, page_of
from sync.contract.pinned_chunks import PinnedChunksReader
from sync.contract.spec import FlistsSpec

_KEYS_ASKED: Final = 512
# Less is listed by two scanners before cut points are found.
_LEAST_ENTRIES: Final = 20_000
_DIVIDE_SECONDS: Final = 5.0


class CutPoint(NamedTuple):
    """A position in the index where a span may begin or end, and the entry that stands there."""

    cursor: Cursor
    entry: Entry

    @property
    def edge(self) -> Edge:
        """Where a span begins or ends."""
        return Edge(self.cursor, self.entry[0])


def known_keys(users_state: Path, scanners: int) -> list[bytes]:
    """Return pinned chunks, enough of them for even distances; none where no users job ran."""
    return PinnedChunksReader(users_state).sample(min(_KEYS_ASKED, 32 * scanners))


def plan(master: ZdbConnection, scanners: int, keys: list[bytes], entries: int) -> list[Span]:
    """Cut a master's whole index into closed spans and the open one behind them.

    keys: known ones. entries: how many the master has. Raises ZdbError.
    """
    useful = scanners > SCANS and entries >= _LEAST_ENTRIES
    keys = keys if useful else []
    # In one round trip with the last page of the index.
    listed, *answers = master.pipeline([(b"RSCAN",), *_questions(keys)], PAGE_BYTES)
    last_page = page_of(listed)
    if last_page is None or not last_page.entries:
        return [Span(Edge())]
    # A page's cursor stands on its last entry, the oldest of RSCAN's first page (commands_scan.c,
    # command_scan_send_scanlist): closed spans end there, the newest entries are the tail's.
    last = CutPoint(last_page.cursor, last_page.entries[-1])
    points = [at for at in _points(keys, answers) if at.cursor.position < last.cursor.position]
    spans: list[Span] = []
    low = Edge()
    for point in [*_spread(points, scanners // SCANS - 1), last]:
        spans.append(Span(low, point.edge, point.entry))
        low = point.edge
    return [*spans, Span(low)]


def _questions(keys: list[bytes]) -> list[tuple[bytes, bytes]]:
    return [(b"KEYCUR", key) for key in keys] + [(b"KEYTIME", key) for key in keys]


def _points(keys: list[bytes], answers: list[Reply]) -> list[CutPoint]:
    found: list[CutPoint] = []
    # An error for a key that the master has not (zdbd/commands_scan.c, command_keycur).
    for key, raw, timestamp in zip(keys, answers[: len(keys)], answers[len(keys) :], strict=True):
        if isinstance(raw, bytes) and isinstance(timestamp, int):
            cursor = Cursor(raw)
            found.append(CutPoint(cursor, (key, b"%d" % cursor.length_bytes, b"%d" % timestamp)))
    return sorted(found, key=lambda point: point.cursor.position)


def _spread(points: list[CutPoint], wanted: int) -> list[CutPoint]:
    """Choose about `wanted` points at even distances (by rank, as keys are random samples)."""
    if wanted <= 0 or not points:
        return []
    if len(points) <= wanted:
        return points
    step = len(points) / (wanted + 1)
    return [points[int(step * (number + 1))] for number in range(wanted)]


class CutPointFinder:
    """Looks for cut points on a thread of its own, every few seconds while scanners are idle."""

    def __init__(self, spec: FlistsSpec, users_state: Path) -> None:
        self._spec = spec
        self._users_state = users_state
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="cut points")
        self._found: Future[list[CutPoint]] | None = None
        self._due_at = time.monotonic() + _DIVIDE_SECONDS

    def close(self) -> None:
        """Wait for what is under way: it has a time-out."""
        self._pool.shutdown()

    def poll(self, *, wanted: bool) -> list[CutPoint]:
        """Return points that were found since the last call; wanted: look for more in time."""
        found, now = self._found, time.monotonic()
        if found is not None:
            if not found.done():
                return []
            self._found = None
            self._due_at = now + _DIVIDE_SECONDS
            # A master that fails is reported by those who copy from it.
            return [] if isinstance(found.exception(), ZdbError) else found.result()
        if wanted and now >= self._due_at:
            self._found = self._pool.submit(self._find)
        return []

    def _find(self) -> list[CutPoint]:
        keys = known_keys(self._users_state, self._spec.scanners)
        if not keys:
            return []
        with ZdbConnection.open(self._spec.source, None, self._spec.io_timeout_seconds) as master:
            return _points(keys, master.pipeline(_questions(keys)))
