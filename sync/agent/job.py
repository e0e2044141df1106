"""What the supervisor and the engine of a job agree on.

An engine is made for one spec and asked for one pass (users, kernels) or one session (flists)
after the other. It leaves a durable state whenever it is interrupted, and it never waits to try
again: it raises, and the supervisor alone decides from that when the next pass begins.
"""

import contextlib
import fcntl
import os
import threading
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Generic, Self, TypeVar

from sync.agent import durable
from sync.agent.status_writer import StatusWriter
from sync.contract import layout, plain_files
from sync.contract.spec import JobSpec

AnySpec = TypeVar("AnySpec", bound=JobSpec)
LOCK: Final = "pass.lock"
_LONGEST_SECRET_BYTES: Final = 1 << 16
# A job has upstream's word in settings, states, folders and container names; its engine is named
# for what it copies: hub repositories with their flists, kernels, the chunks of a 0-db namespace.
ENGINES: Final[dict[layout.Job, str]] = {
    "users": "sync.agent.hub",
    "kernels": "sync.agent.kernels",
    "flists": "sync.agent.chunks",
}


class JobFailed(Exception):  # noqa: N818 - an outcome of a job, not a defect of the program
    """A person must decide; `str()` says what for. The job stays up and reports until then."""


class JobPaused(Exception):  # noqa: N818 - an outcome of a job, not a defect of the program
    """Something outside keeps the job from going on and may go away by itself."""

    def __init__(self, reason: str, retry_seconds: float) -> None:
        super().__init__(reason)
        self.retry_seconds = retry_seconds


class PassIncompleteError(Exception):
    """A pass ended, but not with everything in place; `str()` says what failed."""


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
            path = self.secrets / layout.ZDB_ADMIN_FILE
            return plain_files.read(path, _LONGEST_SECRET_BYTES).decode().strip()
        except FileNotFoundError:
            return None


class Control(threading.Event):
    """Ends the work of one spec's engine: asked before each step, shared by its threads.

    stop: have the pass end soon, with a durable state. wait: wakes early, with True, when stopping.
    """

    stop = threading.Event.set
    stopping = threading.Event.is_set


class Engine(ABC, Generic[AnySpec]):
    """The work of a job under one spec; made anew after an error that nobody foresaw.

    Each package of ENGINES has one as `Engine`. What it puts on its stack is closed with it.
    """

    def __init__(
        self, spec: AnySpec, directories: Directories, status: StatusWriter, control: Control
    ) -> None:
        self._spec = spec
        self._directories = directories
        self._status = status
        self._control = control
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @abstractmethod
    def one_pass(self) -> None:
        """Do one pass or session; return early when `control.stopping()`.

        Raises JobFailed, JobPaused, PassIncompleteError, HttpError, HttpStoppedError (also where a
        name of the master died), ZdbError, OSError.
        """

    def next_try_seconds(self) -> float | None:
        """Return in how many seconds something that a complete pass lacks is to be tried again."""
        return None


@contextlib.contextmanager
def one_at_a_time(state: Path) -> Iterator[None]:
    """Keep the passes of the job and of `repair` apart; waits for the other one."""
    lock = durable.lock_file(state / LOCK)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


@dataclass(frozen=True)
class VerifyOptions:
    """part of parts: which share of the mirror to check (1 to parts).

    chunks: read every chunk and check its hash. offline: ask the master nothing.
    """

    part: int = 1
    parts: int = 1
    chunks: bool = False
    offline: bool = False

    def covers(self, name: str) -> bool:
        """Return whether a name belongs to the part that is asked for."""
        return zlib.crc32(name.encode(errors="surrogatepass")) % self.parts == self.part - 1


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: its name (REPO/F.flist, a kernel, a chunk key) and what it is."""

    name: str
    what: str


@dataclass(frozen=True)
class VerifyReport:
    """What verify checked and found, and (repair) how many of the problems it repaired.

    unnamed: how many more problems there are than are named.
    """

    checked: int
    problems: tuple[Problem, ...] = ()
    repaired: int = 0
    unnamed: int = 0

    def after_repair(self, later: "VerifyReport") -> "VerifyReport":
        """Return this report with the number of its problems that a later one does not have."""
        gone = sum(problem not in later.problems for problem in self.problems)
        return replace(self, repaired=gone)
