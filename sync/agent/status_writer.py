"""The owner of a job's status record: engines say what changed, it writes the file."""

import logging
import threading
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from sync.agent import durable
from sync.contract import plain_files
from sync.contract.freshness import LONGEST_BYTES, WRITE_SECONDS
from sync.contract.layout import Job
from sync.contract.names import bounded
from sync.contract.status import (
    ERRORS_SHOWN,
    NAMES_SHOWN,
    JobError,
    MasterIdentity,
    NameList,
    Phase,
    Service,
    SourceUse,
    StatusRecord,
)

_LOG = logging.getLogger(__name__)
LEAST_INTERVAL_SECONDS: Final = 0.25
# How often a log says that the record is still not written.
_TELL_SECONDS: Final = 60.0


def utc_now() -> datetime:
    """Return the time now, aware, in UTC."""
    return datetime.now(UTC)


def name_list(names: Iterable[str]) -> NameList:
    """Count all the names and keep the first of them, sorted, as people may read them."""
    ordered = sorted(map(bounded, names))
    return NameList(count=len(ordered), names=ordered[:NAMES_SHOWN])


def first_record(
    job: Job, source: str, agent_version: str, phase: Phase = "starting"
) -> StatusRecord:
    """Return the record of a job that begins now."""
    now = utc_now()
    return StatusRecord(
        job=job,
        spec_digest=None,
        agent_version=agent_version,
        phase=phase,
        started_at=now,
        updated_at=now,
        master=MasterIdentity(source=source),
    )


def read_status(path: Path) -> StatusRecord | None:
    """Return the record in `path`, or None where there is none that this version can read."""
    try:
        return StatusRecord.model_validate_json(plain_files.read(path, LONGEST_BYTES))
    except (OSError, ValidationError):
        return None


class StatusWriter:
    """Holds the record and writes it: at most 4 times a second, at least every 5 s.

    Every method may be called from any thread. A disk that is full never stops a job here, nor
    does anything else that keeps a record from being written: it is tried again with the next
    one, the log says so, and the container turns unhealthy as the record grows old (health.py).
    """

    def __init__(self, path: Path, record: StatusRecord) -> None:
        self._path = path
        self._record = record
        self._lock = threading.RLock()
        self._dirty = True
        self._told_at: float | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._write_until_closed, name="status", daemon=True)
        self._thread.start()

    @property
    def record(self) -> StatusRecord:
        """The record as it is now (frozen; nothing in it changes later)."""
        with self._lock:
            return self._record

    def update(self, **changes: Any) -> None:
        """Change fields of the record. Raises pydantic.ValidationError for what is no field."""
        with self._lock:
            fields = {name: getattr(self._record, name) for name in StatusRecord.model_fields}
            self._record = StatusRecord.model_validate(fields | changes)
            self._dirty = True

    def error(self, message: str) -> None:
        """Log `message` and keep it among the last errors of the record."""
        error = JobError(at=utc_now(), message=message)
        _LOG.error(error.message)
        with self._lock:
            self.update(errors=[*self._record.errors, error][-ERRORS_SHOWN:])

    def seen_master(self, source: str, identity: str | None) -> None:
        """Record that the master answered just now, by which of its names, and who it is."""
        self.update(master=MasterIdentity(source=source, identity=identity, seen_at=utc_now()))

    def sources(self, service: Service, uses: list[SourceUse]) -> None:
        """Record how the names of a service stand; one that is newly skipped is an error."""
        with self._lock:
            before = self._record.sources
            known = {use.name for use in before if use.service == service and use.reason}
            for use in uses:
                if use.reason and use.name not in known:
                    self.error(f"{service} {use.name} is skipped: {use.reason}")
            self.update(sources=[*(use for use in before if use.service != service), *uses])

    def flush(self) -> None:
        """Write the record now."""
        with self._lock:
            record = self._record.model_copy(update={"updated_at": utc_now()})
            self._record = record
            self._dirty = False
        try:
            data = (record.model_dump_json() + "\n").encode()
            durable.publish_bytes(data, self._path, waiting=False)
        except Exception as error:  # noqa: BLE001 - whatever it is, the thread lives on
            self._tell(error)
        else:
            self._tell(None)

    def _tell(self, error: Exception | None) -> None:
        """Log that the record is not written, once a minute, or that it is again."""
        with self._lock:
            told_at, now = self._told_at, time.monotonic()
            if error is None:
                self._told_at = None
            elif told_at is None or now - told_at >= _TELL_SECONDS:
                self._told_at = now
            else:
                return
        if error is not None:
            text = "status record not written: the job goes on, and its container turns unhealthy"
            _LOG.error(text, exc_info=error)
        elif told_at is not None:
            _LOG.info("status record is written again")

    def close(self) -> None:
        """Write the record a last time and end the thread."""
        self._closed.set()
        self._thread.join(WRITE_SECONDS)
        self.flush()

    def _write_until_closed(self) -> None:
        due = 0.0
        while True:
            if self._dirty or time.monotonic() >= due:
                self.flush()
                due = time.monotonic() + WRITE_SECONDS - LEAST_INTERVAL_SECONDS
            # Many updates come together: one write serves all of them.
            if self._closed.wait(LEAST_INTERVAL_SECONDS):
                return
