"""Where scanners start: the spans of an index, cut at keys that are known from elsewhere.

Known keys come from the flists that the users job published (its chunk table) and, always, from
RSCAN, which gives the far end; each closed span is walked from both ends (see lister.py), so that
even a first sync with nothing known has two scanners. The table grows while a first sync runs, and
spans end sooner than others: so spans are divided again whenever scanners are idle.
"""

import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple

from sync.agent.chunks.scan.lister import WALKS, Edge, Span
from sync.agent.chunks.scan.pages import Entry
from sync.agent.zdb import Cursor, ScanPage, ZdbConnection
from sync.agent.zdb.errors import ZdbError, ZdbReplyError
from sync.agent.zdb.protocol import Reply
from sync.agent.zdb.replies import NO_MORE_DATA, scan_page
from sync.contract.pinned_chunks import PinnedChunksReader
from sync.contract.spec import FlistsSpec

_KEYS_ASKED: Final = 512
_LEAST_ENTRIES: Final = 20_000
_DIVIDE_SECONDS: Final = 5.0


class Mark(NamedTuple):
    """A place in the index where a span may begin or end, and the entry that stands there."""

    cursor: Cursor
    entry: Entry


def plan(master: ZdbConnection, scanners: int, known_keys: list[bytes], entries: int) -> list[Span]:
    """Cut a master's whole index into closed spans and the open one behind them.

    entries: how many the master has. Raises ZdbError.
    """
    useful = scanners > WALKS and entries >= _LEAST_ENTRIES
    last_page, found = _last_page_and_marks(master, known_keys if useful else [])
    if last_page is None or not last_page.entries:
        return [Span(Edge(None))]
    entry = last_page.entries[-1]
    end = Edge(last_page.cursor, entry.key)
    top: Entry = (entry.key, b"%d" % entry.length_bytes, b"%d" % entry.timestamp)
    marks = [mark for mark in found if mark.cursor.position < last_page.cursor.position]
    marks = _spread(marks, scanners // WALKS - 1)
    spans: list[Span] = []
    low = Edge(None)
    for cursor, marked in [*marks, Mark(last_page.cursor, top)]:
        high = Edge(cursor, marked[0])
        spans.append(Span(low, high, marked))
        low = high
    return [*spans, Span(end)]


def marks_of(master: ZdbConnection, keys: list[bytes]) -> list[Mark]:
    """Places of those keys that the master has, in index order. Raises ZdbError."""
    return _marks(keys, list(master.pipeline(_questions(keys))))


def _questions(keys: list[bytes]) -> list[tuple[bytes, bytes]]:
    return [(b"KEYCUR", key) for key in keys] + [(b"KEYTIME", key) for key in keys]


def _marks(keys: list[bytes], answers: list[Reply]) -> list[Mark]:
    found: list[Mark] = []
    for key, raw, timestamp in zip(keys, answers[: len(keys)], answers[len(keys) :], strict=True):
        if isinstance(raw, bytes) and isinstance(timestamp, int):
            cursor = Cursor(raw)
            found.append(Mark(cursor, (key, b"%d" % cursor.length_bytes, b"%d" % timestamp)))
    return sorted(found, key=lambda mark: mark.cursor.position)


def _last_page_and_marks(
    master: ZdbConnection, keys: list[bytes]
) -> tuple[ScanPage | None, list[Mark]]:
    """Ask for the last page of the index and for the places of keys, in one round trip."""
    listed, *answers = master.pipeline([(b"RSCAN",), *_questions(keys)])
    if isinstance(listed, ZdbReplyError) and listed.reason != NO_MORE_DATA:
        raise listed
    page = None if isinstance(listed, ZdbReplyError) else scan_page(listed)
    return page, _marks(keys, answers)


def _spread(marks: list[Mark], wanted: int) -> list[Mark]:
    """Choose about `wanted` marks at even distances (by rank, as keys are random samples)."""
    if wanted <= 0 or not marks:
        return []
    if len(marks) <= wanted:
        return marks
    step = len(marks) / (wanted + 1)
    return [marks[int(step * (number + 1))] for number in range(wanted)]


class Surveyor:
    """Looks for marks on a thread of its own, every few seconds while scanners are idle."""

    def __init__(self, spec: FlistsSpec, users_state: Path) -> None:
        self._spec = spec
        self._users_state = users_state
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="surveyor")
        self._found: Future[list[Mark]] | None = None
        self._due_at = time.monotonic() + _DIVIDE_SECONDS

    def close(self) -> None:
        """Wait for what is under way: it has a time-out."""
        self._pool.shutdown()

    def survey(self, *, wanted: bool) -> list[Mark]:
        """Return marks that were found since the last call; wanted: look for more in time."""
        found, now = self._found, time.monotonic()
        if found is not None:
            if not found.done():
                return []
            self._found = None
            self._due_at = now + _DIVIDE_SECONDS
            # A master that fails is told of by those who copy from it.
            return [] if isinstance(found.exception(), ZdbError) else found.result()
        if wanted and now >= self._due_at:
            self._found = self._pool.submit(self._look)
        return []

    def _look(self) -> list[Mark]:
        keys = PinnedChunksReader(self._users_state).sample(sample_size(self._spec.scanners))
        if not keys:
            return []
        with ZdbConnection.open(self._spec.source, None, self._spec.io_timeout_seconds) as master:
            return marks_of(master, keys)


def accepts(master: ZdbConnection, cursor: Cursor) -> bool:
    """Tell whether the master knows a cursor; raises ZdbError for anything but yes or no."""
    try:
        master.scan(cursor)
    except ZdbReplyError as error:
        if error.reason == "Invalid key format":
            return False
        raise
    return True


def sample_size(scanners: int) -> int:
    """How many known keys to ask for: enough for even distances."""
    return min(_KEYS_ASKED, 32 * scanners)
