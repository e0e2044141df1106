"""The checkpoint of the flists job: one small JSON document, written after what it promises."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, Final, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from sync.agent import durable
from sync.agent.chunks.scan.ledger import Ledger
from sync.agent.chunks.scan.spans import Edge, HexCursor, HexKey, Page, Span
from sync.agent.zdb.errors import ZdbProtocolError
from sync.agent.zdb.scan_pages import Cursor
from sync.contract import plain_files

CHECKPOINT_FILE: Final = "flists.json"
_LONGEST_BYTES: Final = 64 << 20
END_SECONDS: Final = 10.0
# More than a minute's worth: see safe_cursor.
_ENDS: Final = 8
_NAMED_KEPT: Final = 1_000
REFUSED_KEPT: Final = 10_000
# The kernel writes dirty pages back within half a minute (vm.dirty_expire_centisecs, doubled).
_DISK_SECONDS: Final = 60.0


def _check_position(position: str) -> str:
    """Return a cursor in hex, or the empty one that is before the first entry, if it is right."""
    if position:
        Cursor.from_hex(position)
    return position


_Position = Annotated[str, AfterValidator(_check_position)]


class SpanState(BaseModel):
    """A span's acknowledged edges; top: its highest entry, while that is not copied yet."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    low: Edge
    high: Edge | None = None
    top: tuple[HexKey, bytes, bytes] | None = None

    @classmethod
    def of(cls, span: Span) -> Self:
        """Make the durable form."""
        high = span.down.acknowledged if span.down else None
        return cls(low=span.up.acknowledged, high=high, top=span.top)

    def span(self) -> Span:
        """Return what it stands for."""
        return Span(self.low, self.high, self.top)


class Checkpoint(BaseModel):
    """Where the job goes on after a restart. Counts are of entries that the slave acknowledged.

    A value: the session alone replaces it (`changed`), other threads may keep what they were given.
    sources: the names that the master was followed by. anchors: cursors that it accepted once and
    must accept for ever. stored_items: those that the slave did not have. extra_items: keys that
    the slave has and the master has not, found by the last comparison. lacking_items: the other way
    round, refused or unreadable. confirmation: the removalConfirmation that was used up.
    slave_boot: when the slave was started, in its own words. slave_ends: (unix time, cursor of the
    slave's newest entry then, in hex) every ten seconds: what was stored before the last minute is
    on its disk. unproven: the slave was started anew and what it has after this cursor (empty: all)
    is still to be read back. named: the last plain keys (hex), which may be overwritten.
    """

    # The release before wrote other fields too, and calls slave_ends "marks".
    model_config = ConfigDict(extra="ignore", frozen=True, populate_by_name=True)
    version: int = 1
    sources: tuple[str, ...] = ()
    anchors: tuple[HexCursor, ...] = ()
    spans: tuple[SpanState, ...] = ()
    done_items: int = 0
    done_bytes: int = 0
    stored_items: int = 0
    extra_items: int = 0
    lacking_items: int = 0
    refused: tuple[str, ...] = ()
    confirmation: int = 0
    ledger_bytes: int | None = None
    slave_boot: str = ""
    slave_ends: tuple[tuple[float, _Position], ...] = Field(default=(), alias="marks")
    unproven: _Position | None = None
    named: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _take_single_name(cls, data: Any) -> Any:
        """Read the checkpoint of a release that knew one name of the master."""
        if isinstance(data, dict) and data.get("source") and "sources" not in data:
            return {**data, "sources": [data["source"]]}
        return data

    def changed(self, **changes: object) -> Self:
        """Return a checkpoint with these fields changed. Raises TypeError for what is no field."""
        if unknown := changes.keys() - type(self).model_fields.keys():
            raise TypeError(f"no fields of a checkpoint: {sorted(unknown)}")
        return self.model_copy(update=changes)

    def counting(self, pages: Sequence[Page]) -> Self:
        """Return a checkpoint with these pages done."""
        plain = [key.hex() for page in pages for key in page.plain_keys]
        return self.changed(
            done_items=self.done_items + sum(page.items for page in pages),
            done_bytes=self.done_bytes + sum(page.payload_bytes for page in pages),
            stored_items=self.stored_items + sum(page.stored_items for page in pages),
            named=tuple(dict.fromkeys([*self.named, *plain]))[-_NAMED_KEPT:],
        )

    # The anchors stay: it is the same master. So does what may be bad or plain on the slave.
    def anew(self) -> Self:
        """Return a checkpoint from which everything is listed again; nothing is copied twice."""
        return self.changed(spans=(), done_items=0, done_bytes=0, stored_items=0, extra_items=0)

    def with_slave_end(self, end: tuple[float, str]) -> Self:
        """Note how far the slave's index goes: (unix time, cursor in hex); every ten seconds."""
        if self.slave_ends and end[0] - self.slave_ends[-1][0] < END_SECONDS:
            return self
        return self.changed(slave_ends=(*self.slave_ends[-_ENDS:], end))

    def safe_cursor(self) -> str | None:
        """Return up to where the slave's entries are on its disk; None where no end was noted.

        The oldest one where none is a minute older than the last.
        """
        if not self.slave_ends:
            return None
        last_at = self.slave_ends[-1][0]
        safe = [cursor for at, cursor in self.slave_ends if at <= last_at - _DISK_SECONDS]
        return safe[-1] if safe else self.slave_ends[0][1]

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Read it; a missing or unreadable one is a fresh one: nothing is copied twice."""
        try:
            return cls.model_validate_json(
                plain_files.read(directory / CHECKPOINT_FILE, _LONGEST_BYTES)
            )
        except (OSError, ValueError, ZdbProtocolError):
            return cls()

    def save(self, directory: Path) -> None:
        """Write durably and atomically. Raises OSError."""
        data = self.model_dump_json(by_alias=True) + "\n"
        durable.publish_bytes(data.encode(), directory / CHECKPOINT_FILE)


class Saver:
    """Writes ledger and checkpoint on a thread of its own: no disk holds up the copying."""

    def __init__(self, directory: Path, ledger: Ledger, failed: Callable[[str], None]) -> None:
        self._directory = directory
        self._ledger = ledger
        self._failed = failed
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="saver")
        self._last: Future[None] | None = None

    @property
    def idle(self) -> bool:
        """Whether the last save is over."""
        return self._last is None or self._last.done()

    def save(self, checkpoint: Checkpoint) -> None:
        """Save the checkpoint soon, and before it make the ledger durable."""
        self._last = self._pool.submit(self._write, checkpoint)

    def close(self) -> None:
        """Finish what is to be saved and end the thread."""
        self._pool.shutdown()

    def _write(self, checkpoint: Checkpoint) -> None:
        try:
            # The ledger first: a cursor never promises a key that the ledger lacks.
            self._ledger.sync()
            checkpoint.save(self._directory)
        except OSError as error:
            self._failed(f"{self._directory}: checkpoint not saved: {error.strerror or error}")
