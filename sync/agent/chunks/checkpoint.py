"""What the flists job remembers: one small JSON document, written only after what it promises."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Self

from pydantic import BaseModel, ConfigDict, model_validator

from sync.agent import durable
from sync.agent.chunks.scan.ledger import Ledger
from sync.agent.chunks.scan.pages import Entry
from sync.agent.chunks.scan.spans import Edge, Span
from sync.agent.zdb.errors import ZdbProtocolError
from sync.agent.zdb.replies import Cursor

STATE_FILE: Final = "flists.json"
MARK_SECONDS: Final = 10.0
_MARKS: Final = 8
_NAMED_KEPT: Final = 1_000
# The kernel writes dirty pages back within half a minute (vm.dirty_expire_centisecs, doubled).
_DISK_SECONDS: Final = 60.0


class EdgeState(BaseModel):
    """A cursor and the key it stands on, both in hex; null: before the first entry."""

    model_config = ConfigDict(extra="forbid")
    cursor: str | None = None
    key: str = ""

    @classmethod
    def of(cls, edge: Edge) -> Self:
        """Make the durable form."""
        return cls(cursor=edge.cursor.hex if edge.cursor else None, key=edge.key.hex())

    def edge(self) -> Edge:
        """Return what it stands for."""
        cursor = Cursor.from_hex(self.cursor) if self.cursor else None
        return Edge(cursor, bytes.fromhex(self.key))


class SpanState(BaseModel):
    """A span's acknowledged edges; top: its highest entry, while that is not copied yet."""

    model_config = ConfigDict(extra="forbid")
    low: EdgeState
    high: EdgeState | None = None
    top: tuple[str, str, str] | None = None

    @classmethod
    def of(cls, span: Span) -> Self:
        """Make the durable form."""
        top = None
        if span.top:
            key, length, timestamp = span.top
            top = (key.hex(), length.decode(), timestamp.decode())
        high = EdgeState.of(span.down.acknowledged) if span.down else None
        return cls(low=EdgeState.of(span.up.acknowledged), high=high, top=top)

    def span(self) -> Span:
        """Return what it stands for."""
        top: Entry | None = None
        if self.top:
            key, length, timestamp = self.top
            top = (bytes.fromhex(key), length.encode(), timestamp.encode())
        return Span(self.low.edge(), self.high.edge() if self.high else None, top)


class FlistsState(BaseModel):
    """The job's memory. Counts are of the master's entries, as acknowledged by the slave.

    sources: the names that the master was followed by. anchors: cursors that it accepted once and
    must accept for ever. extra_items: keys that the slave has and the master has not, found by the
    last comparison. lacking_items: the other way round, refused or unreadable. confirmation: the
    removalConfirmation that was used up. slave_boot: when the slave was started, as it told.
    marks: (unix time, cursor of the slave's newest entry then, in hex) every ten seconds: what was
    stored before the last minute is on its disk. unproven: the slave was started anew and what it
    has after this cursor (empty: all) is still to be read back. Fields of other versions are left
    out.
    named: the last keys (hex) that prove nothing and may be overwritten.
    """

    model_config = ConfigDict(extra="ignore")
    version: int = 1
    sources: list[str] = []
    anchors: list[str] = []
    spans: list[SpanState] = []
    done_items: int = 0
    done_bytes: int = 0
    stored_items: int = 0
    master_items: int = 0
    extra_items: int = 0
    lacking_items: int = 0
    refused: list[str] = []
    confirmation: int = 0
    compared_at: float = 0
    snapshot_done: bool = False
    ledger_bytes: int | None = None
    slave_boot: str = ""
    marks: list[tuple[float, str]] = []
    unproven: str | None = None
    named: list[str] = []

    @model_validator(mode="before")
    @classmethod
    def _take_single_name(cls, data: Any) -> Any:
        """Read the state of the release before, which knew one name."""
        if isinstance(data, dict) and data.get("source") and "sources" not in data:
            return {**data, "sources": [data["source"]]}
        return data

    def note_named(self, keys: list[bytes]) -> None:
        """Remember keys that are no hashes, the last so many of them."""
        if keys:
            newest = dict.fromkeys([*self.named, *(key.hex() for key in keys)])
            self.named = list(newest)[-_NAMED_KEPT:]

    def mark(self, mark: tuple[float, str]) -> None:
        """Note how far the slave's index goes: (unix time, cursor in hex); every ten seconds."""
        if not self.marks or mark[0] - self.marks[-1][0] >= MARK_SECONDS:
            self.marks = [*self.marks[-_MARKS:], mark]

    def safe_cursor(self) -> str | None:
        """Return up to where the slave's entries are on its disk; None where nobody marked it.

        The oldest mark where none is a minute older than the last.
        """
        if not self.marks:
            return None
        last_at = self.marks[-1][0]
        safe = [cursor for at, cursor in self.marks if at <= last_at - _DISK_SECONDS]
        return safe[-1] if safe else self.marks[0][1]

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Read the state; a missing or unreadable one is a fresh one: nothing is copied twice."""
        try:
            state = cls.model_validate_json((directory / STATE_FILE).read_bytes())
            state.check_cursors()
        except (OSError, ValueError, ZdbProtocolError):
            return cls()
        return state

    def check_cursors(self) -> None:
        """Raise ValueError or ZdbProtocolError where something is no cursor."""
        for span in self.spans:
            span.span()
        for cursor in (*self.anchors, self.unproven, *(cursor for _, cursor in self.marks)):
            if cursor:
                Cursor.from_hex(cursor)

    def save(self, directory: Path) -> None:
        """Write durably and atomically. Raises OSError."""
        durable.publish_bytes((self.model_dump_json() + "\n").encode(), directory / STATE_FILE)


class Saver:
    """Writes ledger and state on a thread of its own, so that no disk holds up the copying."""

    def __init__(self, directory: Path, ledger: Ledger, failed: Callable[[str], None]) -> None:
        self._directory = directory
        self._ledger = ledger
        self._failed = failed
        self._wanted: FlistsState | None = None
        self._condition = threading.Condition()
        self._closed = False
        self._busy = False
        self._thread = threading.Thread(target=self._work, name="saver", daemon=True)
        self._thread.start()

    @property
    def idle(self) -> bool:
        """Tell whether the last save is over."""
        with self._condition:
            return self._wanted is None and not self._busy

    def save(self, state: FlistsState) -> None:
        """Save the state soon, and before it make the ledger durable."""
        with self._condition:
            self._wanted = state
            self._condition.notify_all()

    def close(self) -> None:
        """Finish what is wanted and end the thread."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._wanted or self._closed)
                wanted, self._wanted = self._wanted, None
                self._busy = wanted is not None
            if wanted is None:
                return
            self._write(wanted)
            with self._condition:
                self._busy = False

    def _write(self, state: FlistsState) -> None:
        try:
            # The ledger first: a cursor never promises a key that the ledger lacks.
            self._ledger.sync()
            state.save(self._directory)
        except OSError as error:
            self._failed(f"{self._directory}: state not saved: {error.strerror or error}")
