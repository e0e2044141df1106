"""The life of a job's process: its spec, its engine, its waits, its end.

One loop runs the engine of the spec that is in effect, pass after pass, and alone decides what
follows from the end of a pass: when the next one begins, and what the status record says of it.
"""

import contextlib
import errno
import gc
import importlib
import logging
import os
import signal
import threading
import time
from datetime import timedelta
from pathlib import Path
from random import SystemRandom
from typing import Any, Final

from pydantic import ValidationError

from sync.agent.backoff import BackoffClock
from sync.agent.durable import NoSpaceError
from sync.agent.job import (
    ENGINES,
    Control,
    Directories,
    Engine,
    JobFailed,
    JobPaused,
    PassIncompleteError,
)
from sync.agent.master.client import EndpointLostError, HttpError, HttpStoppedError
from sync.agent.master.endpoints import by_any_name
from sync.agent.status_writer import StatusWriter, first_record, read_status, utc_now
from sync.agent.zdb.errors import ZdbError
from sync.contract import layout, plain_files
from sync.contract import spec as contract
from sync.contract.freshness import LONGEST_BYTES
from sync.contract.layout import Job
from sync.contract.names import RefusedNameError
from sync.contract.spec import FlistsSpec, JobSpec, Schedule
from sync.contract.status import MasterIdentity, Service, SourceUse, StatusRecord

_LOG = logging.getLogger(__name__)
SPEC_POLL_SECONDS: Final = 1.0
STOP_SECONDS: Final = 9.0  # Docker kills after 10
_LAG_SECONDS: Final = 1.0
_SPACE_RETRY_SECONDS: Final = 30.0
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_UNFINISHED: Final = (HttpError, HttpStoppedError, ZdbError, PassIncompleteError)
_REPAIR_STATUS: Final = "repair.json"
_SERVICES: Final[dict[Job, Service]] = {"users": "hub", "kernels": "bootstrap", "flists": "zdb"}
_KEPT_OVER_A_RESTART: Final = (
    *("bootable_at", "first_pass_at", "last_success_at", "cursor", "master", "errors"),
    *("done", "total", "lag", "refused", "broken", "details", "spec_digest", "sources"),
)


def load_spec(directory: Path, job: Job) -> JobSpec | None:
    """Return the job's spec, or None while there is none. Raises JobFailed for a wrong one."""
    path = directory / layout.SPEC_FILE
    try:
        spec = contract.parse(plain_files.read(path, LONGEST_BYTES))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise JobFailed(f"{error}; then run `pulumi up --refresh`") from error
    except ValidationError as error:
        raise JobFailed(f"{path}: {error}; run `pulumi up` to write it anew") from error
    if spec.job != job:
        raise JobFailed(f"{path}: is the spec of {spec.job}, not of {job}")
    return spec


def seconds_to_next(schedule: Schedule, elapsed_seconds: float, chance: float) -> float:
    """Seconds from now to the next start, given how long the pass took.

    chance: in [0, 1), spreads a fleet of mirrors over `jitter` of the interval.
    """
    interval = schedule.interval_seconds * (1 + schedule.jitter * chance)
    return max(0.0, interval - elapsed_seconds)


class EngineLoop:
    """Runs the engine of one spec until stopping: nothing else waits and tries again."""

    def __init__(
        self, spec: JobSpec, directories: Directories, status: StatusWriter, control: Control
    ) -> None:
        self._spec = spec
        self._directories = directories
        # The flists job follows its master without a schedule and reports its phases by itself.
        self._schedule = None if isinstance(spec, FlistsSpec) else spec.schedule
        self._status = status
        self._control = control
        self._clock = BackoffClock(spec.backoff)
        self._chance = SystemRandom()
        self._engine: Engine[Any] | None = None
        self._opened = contextlib.ExitStack()

    def make_engine(self) -> Engine[Any]:
        """Return a new engine of the job that the spec is for."""
        made: Engine[Any] = importlib.import_module(ENGINES[self._spec.job]).Engine(
            self._spec, self._directories, self._status, self._control
        )
        return made

    def run(self) -> None:
        """Run pass after pass until stopping. Raises JobFailed."""
        try:
            while not self._control.stopping():
                wait_seconds = self._one_pass()
                if wait_seconds > 0 and not self._control.stopping():
                    self._wait(wait_seconds)
        finally:
            self._close()

    def _close(self) -> None:
        self._engine = None
        try:
            self._opened.close()
        except Exception:  # noqa: BLE001 - another one is made, or the process ends
            _LOG.exception("the engine did not close")

    def _one_pass(self) -> float:
        """Run one pass; returns the seconds until the next one."""
        succeeded_at, started = self._status.record.last_success_at, time.monotonic()
        try:
            if self._engine is None:
                self._engine = self._opened.enter_context(self.make_engine())
            self._status.update(started_at=utc_now(), next_at=None)
            if self._schedule is not None and self._status.record.first_pass_at is None:
                self._status.update(phase="snapshot")
            by_any_name(self._engine.one_pass)
        except JobFailed:
            raise
        except Exception as error:  # noqa: BLE001 - the process outlives every failed pass
            if self._status.record.last_success_at != succeeded_at:
                self._clock.after_success()
            return self._failed(error)
        self._clock.after_success()
        return self._succeeded(time.monotonic() - started)

    def _succeeded(self, elapsed_seconds: float) -> float:
        if self._schedule is None:
            return 0  # the session ended for another one: a better name of the master is back
        now = utc_now()
        self._status.update(
            phase="idle",
            reason="",
            ended_at=now,
            last_success_at=now,
            first_pass_at=self._status.record.first_pass_at or now,
            eta_seconds=0,
        )
        seconds = seconds_to_next(self._schedule, elapsed_seconds, self._chance.random())
        sooner = None if self._engine is None else self._engine.next_try_seconds()
        return seconds if sooner is None else min(seconds, sooner)

    def _failed(self, error: Exception) -> float:
        """Record an error; returns the seconds until the next pass."""
        reason = message = str(error)
        record = self._status.record
        phase, retries = record.phase, record.retries + 1
        match error:
            case JobPaused():
                phase, retries, wait_seconds = "paused", record.retries, error.retry_seconds
            case EndpointLostError() | HttpError():
                message = f"master: {error}"
                wait_seconds = self._clock.after_failure(error.retry_after_seconds)
            case HttpStoppedError():
                return 0
            case PassIncompleteError() | ZdbError():
                wait_seconds = self._clock.after_failure()
            case OSError() if isinstance(error, NoSpaceError) or error.errno in _FULL:
                reason = message = f"no space: {error}"
                phase, retries, wait_seconds = "paused", record.retries, _SPACE_RETRY_SECONDS
            case _:
                _LOG.exception("the engine stopped", exc_info=error)
                self._close()
                message = f"{type(error).__name__}: {error}"
                if isinstance(error, PermissionError):
                    uid = os.getuid()
                    reason = message = (
                        f"{error}; it is somebody else's, or its mode shuts this job out: on the "
                        f"host, below the data root, chown -R {uid}:{uid} and chmod -R u+rwX it"
                    )
                wait_seconds = self._clock.after_failure()
        self._status.error(message)
        self._status.update(reason=reason, phase=phase, retries=retries)
        return wait_seconds

    def _wait(self, seconds: float) -> None:
        """Wait; a mirror that follows its master falls behind meanwhile, which the record shows."""
        self._status.update(next_at=utc_now() + timedelta(seconds=seconds))
        if self._schedule is not None:
            self._control.wait(seconds)
            return
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if self._control.wait(min(left, _LAG_SECONDS)):
                return
            record = self._status.record
            if record.last_success_at is not None:
                behind = (utc_now() - record.last_success_at).total_seconds()
                self._status.update(lag=record.lag.model_copy(update={"seconds": behind}))


def repair_pass(spec: JobSpec, directories: Directories, control: Control) -> None:
    """Run one pass for `repair`, beside a job that may run; what it lacks, verify finds."""
    record = first_record(spec.job, str(spec.source), "repair", "snapshot")
    status = StatusWriter(directories.state / _REPAIR_STATUS, record)
    try:
        with EngineLoop(spec, directories, status, control).make_engine() as engine:
            by_any_name(engine.one_pass)
    except (*_UNFINISHED, JobPaused, RefusedNameError) as error:
        status.error(str(error))
    finally:
        status.close()


class _Process:
    """The life of one agent process: signals, the spec's changes, one engine at a time."""

    def __init__(self, job: Job, directories: Directories) -> None:
        self._job = job
        self._directories = directories
        self._spec_stamp: tuple[int, ...] = ()
        self._terminated = threading.Event()
        self._control = Control()
        self._status = StatusWriter(
            directories.state / layout.STATUS_FILE, _first_record(job, directories)
        )

    def terminate(self) -> None:
        """End the process: the engine returns, the status is written."""
        self._terminated.set()
        self._control.stop()

    def run(self) -> None:
        """Run engines until terminated."""
        watcher = threading.Thread(target=self._watch_spec, name="spec", daemon=True)
        watcher.start()
        while not self._terminated.is_set():
            self._control = Control()
            if self._terminated.is_set():
                break
            self._run_spec()
        self._status.close()

    def _watch_spec(self) -> None:
        while not self._terminated.wait(SPEC_POLL_SECONDS):
            if self._read_stamp() != self._spec_stamp:
                self._control.stop()

    def _read_stamp(self) -> tuple[int, ...]:
        """Return what differs between versions of the spec file; empty: there is none."""
        try:
            stat = (self._directories.spec / layout.SPEC_FILE).stat()
        except OSError:
            return ()
        return stat.st_mtime_ns, stat.st_size, stat.st_ino

    def _run_spec(self) -> None:
        control = self._control
        try:
            self._spec_stamp = self._read_stamp()  # before it is read: it may change meanwhile
            spec = load_spec(self._directories.spec, self._job)
            if spec is None:
                reason = f"waiting for {layout.SPEC_FILE}"
                self._status.update(phase="starting", reason=reason, waiting_for="spec")
                control.wait(SPEC_POLL_SECONDS)
                return
            self._accept(spec)
            if spec.paused:
                self._status.update(phase="paused", reason="paused by the operator", next_at=None)
                control.wait(threading.TIMEOUT_MAX)  # until the spec changes
                return
            EngineLoop(spec, self._directories, self._status, control).run()
        except JobFailed as failure:
            self._status.error(str(failure))
            reason = str(failure)
            self._status.update(phase="failed", reason=reason, waiting_for=None, next_at=None)
            control.wait(threading.TIMEOUT_MAX)  # until the spec changes

    def _accept(self, spec: JobSpec) -> None:
        names = [str(source) for source in spec.sources]
        record = self._status.record
        known = {use.name: use for use in record.sources}
        service = _SERVICES[self._job]
        changes: dict[str, object] = {
            "spec_digest": contract.digest(spec),
            "phase": "starting",
            "reason": "",
            "waiting_for": None,
            "next_at": None,
            "sources": [known.get(name, SourceUse(service=service, name=name)) for name in names],
        }
        if {record.master.source, *known}.isdisjoint(names):
            # Another master: what was reached with the old one says nothing about this one.
            changes |= {"master": MasterIdentity(source=names[0]), "first_pass_at": None}
            changes |= {"bootable_at": None, "last_success_at": None, "cursor": None}
        elif record.master.source not in names:
            changes["master"] = record.master.model_copy(update={"source": names[0]})
        self._status.update(**changes)


def _first_record(job: Job, directories: Directories) -> StatusRecord:
    """Return a new record with what an earlier process had reached."""
    version = os.environ.get("GRIDHUB_AGENT_VERSION", "development")
    fresh = first_record(job, "", version)
    old = read_status(directories.state / layout.STATUS_FILE)
    if old is None or old.job != job:
        return fresh
    return fresh.model_copy(update={name: getattr(old, name) for name in _KEPT_OVER_A_RESTART})


def collect_garbage_seldom() -> None:
    """Look for cycles a tenth as often: a job makes hundreds of thousands of tuples, no cycles."""
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


def run_job(job: Job, directories: Directories) -> None:
    """Run `job` until SIGTERM or SIGINT; called by the main thread."""
    collect_garbage_seldom()
    directories.state.mkdir(parents=True, exist_ok=True)
    process = _Process(job, directories)

    def on_signal(*_: object) -> None:
        # The state is durable at every moment, so a thread that hangs may be left behind.
        deadline = threading.Timer(STOP_SECONDS, os._exit, (0,))
        deadline.daemon = True
        deadline.start()
        process.terminate()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    process.run()
