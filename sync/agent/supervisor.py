"""What every job has in common: its directories, its spec, its status, its end.

`run_job` reads the spec, runs the job's engine, and starts it anew when the spec changes. An
engine is a function `run(spec, directories, status, control)` that works until
`control.stopping()` and leaves a durable state whenever it is interrupted.
"""

import contextlib
import gc
import importlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Final, Protocol

from pydantic import ValidationError

from sync.agent.schedule import BackoffClock
from sync.agent.status_writer import StatusWriter, read_status, utc_now
from sync.contract import layout
from sync.contract import spec as contract
from sync.contract.layout import Job
from sync.contract.spec import FlistsSpec, KernelsSpec, UsersSpec
from sync.contract.status import MasterIdentity, Service, SourceUse, StatusRecord

__all__ = [
    "Control",
    "Directories",
    "JobFailed",
    "JobPaused",
    "Problem",
    "StatusWriter",
    "VerifyOptions",
    "VerifyReport",
    "run_job",
]

_LOG = logging.getLogger(__name__)
AnySpec = UsersSpec | KernelsSpec | FlistsSpec
SPEC_POLL_SECONDS: Final = 1.0
STOP_SECONDS: Final = 9.0  # Docker kills after 10
_HEALTHY_RUN_SECONDS: Final = 60.0
_SERVICES: Final[dict[Job, Service]] = {"users": "hub", "kernels": "bootstrap", "flists": "zdb"}
_REMEMBERED: Final = (
    *("bootable_at", "first_pass_at", "last_success_at", "cursor", "master", "errors"),
    *("done", "total", "lag", "refused", "broken", "details", "spec_digest", "sources"),
)


class JobFailed(Exception):  # noqa: N818 - an outcome of a job, not a defect of the program
    """A person must decide; `str()` says what for. The job stays up and reports until then."""


class JobPaused(Exception):  # noqa: N818 - an outcome of a job, not a defect of the program
    """Something outside keeps the job from going on and may go away by itself."""

    def __init__(self, reason: str, retry_seconds: float) -> None:
        super().__init__(reason)
        self.retry_seconds = retry_seconds


@dataclass(frozen=True)
class Directories:
    """Where a job finds and keeps things; the defaults are the container's mounts."""

    spec: Path = Path(layout.SPEC_MOUNT)
    state: Path = Path(layout.STATE_MOUNT)
    secrets: Path = Path(layout.SECRETS_MOUNT)
    public: Path = Path(layout.PUBLIC_MOUNT)
    kernels: Path = Path(layout.KERNELS_MOUNT)
    users_state: Path = Path(layout.USERS_STATE_MOUNT)

    def zdb_admin_password(self) -> str | None:
        """Return the local 0-db's admin password; None where there is no such file."""
        try:
            return (self.secrets / layout.ZDB_ADMIN_FILE).read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            return None


class Control(Protocol):
    """What an engine asks before each step; its threads may share it."""

    def stopping(self) -> bool:
        """Tell whether to return from run() soon, with a durable state."""
        ...

    def wait(self, seconds: float) -> bool:
        """Sleep; wakes early and returns True when stopping."""
        ...


class RunControl:
    """The Control of one run of an engine."""

    def __init__(self) -> None:
        self._stop = threading.Event()

    def stop(self) -> None:
        """Ask the engine to return."""
        self._stop.set()

    def stopping(self) -> bool:
        """Tell whether stop() was called."""
        return self._stop.is_set()

    def wait(self, seconds: float) -> bool:
        """Sleep; wakes early and returns True when stopping."""
        return self._stop.wait(max(0.0, seconds))


@dataclass(frozen=True)
class VerifyOptions:
    """part of parts: which share of the mirror to walk (1 to parts).

    chunks: read every chunk and check its hash. offline: ask the master nothing.
    """

    part: int = 1
    parts: int = 1
    chunks: bool = False
    offline: bool = False


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: its name (REPO/F.flist, a kernel, a chunk key) and what it is."""

    name: str
    what: str


@dataclass(frozen=True)
class VerifyReport:
    """What verify walked and found, and (repair) how many of the problems it mended."""

    checked: int
    problems: tuple[Problem, ...] = ()
    repaired: int = 0


@dataclass(frozen=True)
class _LoadedSpec:
    spec: AnySpec
    digest: str


class SpecFile:
    """The job's spec.json, read again only when the file changed."""

    def __init__(self, directory: Path, job: Job) -> None:
        self._path = directory / layout.SPEC_FILE
        self._job = job
        self._stamp: tuple[int, int, int] | None = None

    def changed(self) -> bool:
        """Tell whether the file differs from when load() last read it."""
        return self._read_stamp() != self._stamp

    def load(self) -> _LoadedSpec | None:
        """Return the spec, or None while there is none. Raises JobFailed for a wrong one."""
        self._stamp = self._read_stamp()
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            spec = contract.parse(data)
        except ValidationError as error:
            raise JobFailed(f"{self._path}: {error}; run `pulumi up` to write it anew") from error
        if spec.job != self._job:
            raise JobFailed(f"{self._path}: is the spec of {spec.job}, not of {self._job}")
        return _LoadedSpec(spec, contract.digest(spec))

    def _read_stamp(self) -> tuple[int, int, int] | None:
        try:
            stat = self._path.stat()
        except OSError:
            return None
        return (stat.st_mtime_ns, stat.st_size, stat.st_ino)


class _Process:
    """The life of one agent process: signals, the spec's changes, one engine run at a time."""

    def __init__(self, job: Job, directories: Directories, engine: ModuleType | None) -> None:
        self._job = job
        self._directories = directories
        self._engine = engine
        self._spec_file = SpecFile(directories.spec, job)
        self._terminated = threading.Event()
        self._control = RunControl()
        self._status = StatusWriter(
            directories.state / layout.STATUS_FILE, _first_record(job, directories)
        )

    def terminate(self, *_: object) -> None:
        """End the process: the engine returns, the status is written."""
        self._terminated.set()
        self._control.stop()

    def run(self) -> None:
        """Run engines until terminated."""
        watcher = threading.Thread(target=self._watch_spec, name="spec", daemon=True)
        watcher.start()
        while not self._terminated.is_set():
            self._control = RunControl()
            if self._terminated.is_set():
                break
            self._run_spec()
        self._status.close()

    def _watch_spec(self) -> None:
        while not self._terminated.wait(SPEC_POLL_SECONDS):
            if self._spec_file.changed():
                self._control.stop()

    def _run_spec(self) -> None:
        control = self._control
        try:
            loaded = self._spec_file.load()
            if loaded is None:
                self._status.update(phase="starting", reason="waiting for spec.json")
                control.wait(SPEC_POLL_SECONDS)
                return
            self._accept(loaded)
            if loaded.spec.paused:
                self._status.update(phase="paused", reason="paused by the operator", next_at=None)
                self._wait_for_change(control)
                return
            self._run_engine(loaded.spec, control)
        except JobFailed as failure:
            self._status.error(str(failure))
            self._status.update(phase="failed", reason=str(failure), next_at=None)
            self._wait_for_change(control)

    def _accept(self, loaded: _LoadedSpec) -> None:
        names = [str(source) for source in loaded.spec.sources]
        changes: dict[str, object] = {
            "spec_digest": loaded.digest,
            "phase": "starting",
            "reason": "",
            "next_at": None,
        }
        record = self._status.record
        told = {use.name: use for use in record.sources}
        service = _SERVICES[self._job]
        changes["sources"] = [
            told.get(name, SourceUse(service=service, name=name)) for name in names
        ]
        known = {record.master.source, *told}
        if known.isdisjoint(names):
            # Another master: what was reached with the old one says nothing about this one.
            changes |= {"master": MasterIdentity(source=names[0]), "first_pass_at": None}
            changes |= {"bootable_at": None, "last_success_at": None, "cursor": None}
        elif record.master.source not in names:
            changes["master"] = record.master.model_copy(update={"source": names[0]})
        self._status.update(**changes)

    def _wait_for_change(self, control: RunControl) -> None:
        while not control.wait(SPEC_POLL_SECONDS):
            pass

    def _run_engine(self, spec: AnySpec, control: RunControl) -> None:
        clock = BackoffClock(spec.backoff)
        while not control.stopping():
            started = time.monotonic()
            wait_seconds = self._run_once(spec, control, clock)
            if control.stopping():
                return
            if time.monotonic() - started > _HEALTHY_RUN_SECONDS:
                clock.after_success()
            self._status.update(next_at=utc_now() + timedelta(seconds=wait_seconds))
            control.wait(wait_seconds)

    def _run_once(self, spec: AnySpec, control: RunControl, clock: BackoffClock) -> float:
        """Run the engine once; returns the seconds to wait before it is run again."""
        try:
            engine = self._engine or importlib.import_module(layout.ENGINES[self._job])
            engine.run(spec, self._directories, self._status, control)
        except JobFailed:
            raise
        except JobPaused as pause:
            self._status.error(str(pause))
            self._status.update(phase="paused", reason=str(pause))
            return pause.retry_seconds
        except Exception as error:  # noqa: BLE001 - the process outlives every failed run
            _LOG.exception("the engine stopped")
            self._status.error(f"{type(error).__name__}: {error}")
            self._status.update(retries=self._status.record.retries + 1, reason=str(error))
            return clock.after_failure()
        return clock.backoff.first_seconds


def _first_record(job: Job, directories: Directories) -> StatusRecord:
    """Return a new record that remembers what an earlier process had reached."""
    now = utc_now()
    fresh = StatusRecord(
        job=job,
        spec_digest=None,
        agent_version=os.environ.get("GRIDHUB_AGENT_VERSION", "development"),
        phase="starting",
        started_at=now,
        updated_at=now,
        master=MasterIdentity(source=""),
    )
    old = read_status(directories.state / layout.STATUS_FILE)
    if old is None or old.job != job:
        return fresh
    return fresh.model_copy(update={name: getattr(old, name) for name in _REMEMBERED})


def _install_signals(stop: Callable[..., None]) -> None:
    def on_signal(*_: object) -> None:
        stop()
        # The state is durable at every moment, so a thread that hangs may be left behind.
        deadline = threading.Timer(STOP_SECONDS, os._exit, (0,))
        deadline.daemon = True
        deadline.start()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)


def collect_garbage_seldom() -> None:
    """Look for cycles a tenth as often: a job makes hundreds of thousands of tuples, no cycles."""
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


def run_job(job: Job, directories: Directories, engine: ModuleType | None = None) -> None:
    """Run `job` until SIGTERM or SIGINT.

    engine: a module with `run`, in place of sync.agent.<job> (tests).
    """
    collect_garbage_seldom()
    with contextlib.suppress(FileExistsError):
        directories.state.mkdir(parents=True)
    process = _Process(job, directories, engine)
    if threading.current_thread() is threading.main_thread():
        _install_signals(process.terminate)
    process.run()
