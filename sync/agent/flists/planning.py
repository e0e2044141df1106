"""Where scanners start: the spans of an index, cut at keys that are known from elsewhere.

Known keys come from the flists that the users job published (its chunk table) and, always, from
RSCAN, which gives the far end; each closed span is walked from both ends (see lister.py), so that
even a first sync with nothing known has two scanners.
"""

import contextlib
import os
import sqlite3
from pathlib import Path
from typing import Final

from sync.agent.flists.lister import Edge, Span
from sync.agent.flists.pages import Entry
from sync.agent.zdb import Cursor, ZdbConnection
from sync.agent.zdb.errors import ZdbError, ZdbReplyError

PUBLISHED_FILE: Final = "published.sqlite"
_KEYS_ASKED: Final = 512
_LEAST_ENTRIES: Final = 20_000


def published_keys(users_state: Path, count: int) -> list[bytes]:
    """Up to `count` chunk keys, taken at random places of the users job's table; may be none."""
    path = users_state / PUBLISHED_FILE
    if not path.is_file():
        return []
    keys: set[bytes] = set()
    with contextlib.suppress(sqlite3.Error):
        database = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=2)
        try:
            for _ in range(count):
                row = database.execute(
                    "SELECT key FROM chunk WHERE key >= ? ORDER BY key LIMIT 1", (os.urandom(16),)
                ).fetchone()
                if row:
                    keys.add(bytes(row[0]))
        finally:
            database.close()
    return sorted(keys)


def plan(master: ZdbConnection, scanners: int, known_keys: list[bytes], entries: int) -> list[Span]:
    """Cut a master's whole index into closed spans and the open one behind them.

    entries: how many the master has. Raises ZdbError.
    """
    last_page = master.rscan()
    if last_page is None or not last_page.entries:
        return [Span(Edge(None))]
    entry = last_page.entries[-1]
    end = Edge(last_page.cursor, entry.key)
    top: Entry = (entry.key, b"%d" % entry.length_bytes, b"%d" % entry.timestamp)
    marks: list[tuple[Cursor, Entry]] = []
    if scanners > 2 and known_keys and entries >= _LEAST_ENTRIES:  # noqa: PLR2004 - a span has two
        marks = _marks(master, known_keys, last_page.cursor)
    marks = _spread(marks, scanners // 2 - 1)
    spans: list[Span] = []
    low = Edge(None)
    for cursor, marked in [*marks, (last_page.cursor, top)]:
        high = Edge(cursor, marked[0])
        spans.append(Span(low, high, marked))
        low = high
    return [*spans, Span(end)]


def _marks(master: ZdbConnection, keys: list[bytes], end: Cursor) -> list[tuple[Cursor, Entry]]:
    """Cursors of those keys that the master has before `end`, in index order."""
    found: list[tuple[Cursor, Entry]] = []
    cursors = master.keycur(keys)
    times = list(master.pipeline([(b"KEYTIME", key) for key in keys]))
    for key, cursor, timestamp in zip(keys, cursors, times, strict=True):
        if cursor and isinstance(timestamp, int) and cursor.position < end.position:
            found.append((cursor, (key, b"%d" % cursor.length_bytes, b"%d" % timestamp)))
    return sorted(found, key=lambda mark: mark[0].position)


def _spread(marks: list[tuple[Cursor, Entry]], wanted: int) -> list[tuple[Cursor, Entry]]:
    """Choose about `wanted` marks at even distances (by rank, as keys are random samples)."""
    if wanted <= 0 or not marks:
        return []
    if len(marks) <= wanted:
        return marks
    step = len(marks) / (wanted + 1)
    return [marks[int(step * (number + 1))] for number in range(wanted)]


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


class IdentityError(ZdbError):
    """The master is not the one that was followed, or has gone backwards."""
