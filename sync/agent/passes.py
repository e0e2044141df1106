"""The life of a job that works in passes: users and kernels."""

import contextlib
import errno
import fcntl
import logging
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from random import SystemRandom
from typing import Final, TypeVar

from sync.agent.durable import NoSpaceError
from sync.agent.master.client import HttpError, HttpStoppedError, SourceLostError
from sync.agent.schedule import BackoffClock, seconds_to_next
from sync.agent.status_writer import StatusWriter, utc_now
from sync.agent.supervisor import Control, JobPaused
from sync.agent.zdb import ZdbError
from sync.contract.spec import MOST_SOURCES, KernelsSpec, UsersSpec
from sync.contract.status import MasterIdentity

_T = TypeVar("_T")
_LOG = logging.getLogger(__name__)
LOCK: Final = "pass.lock"
_SPACE_RETRY_SECONDS: Final = 30.0
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@contextlib.contextmanager
def one_at_a_time(state: Path) -> Iterator[None]:
    """Keep the passes of the job and of `repair` apart; waits for the other one."""
    with (state / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class PassIncompleteError(Exception):
    """A pass ended, but not with everything in place; `str()` says what failed."""


def seen_master(status: StatusWriter, source: str, identity: str) -> None:
    """Record that the master answered just now, by which of its names, and who it is."""
    status.update(master=MasterIdentity(source=source, identity=identity, seen_at=utc_now()))


def by_any_name(work: Callable[[], _T]) -> _T:
    """Do `work`, and do it anew each time that the name in use dies and another one is left.

    Each name gets one turn, however far it came (one limiter may stand before all of them). Raises
    SourceLostError where none is left: it is time to wait.
    """
    for _ in range(MOST_SOURCES - 1):
        try:
            return work()
        except SourceLostError as lost:
            if not lost.others:
                raise
    return work()


def repeat(
    spec: UsersSpec | KernelsSpec,
    status: StatusWriter,
    control: Control,
    one_pass: Callable[[], None],
) -> None:
    """Run `one_pass` at the intervals of the spec until stopping.

    A pass that raises PassIncompleteError, HttpError or ZdbError is tried again after a back-off;
    one that raises JobPaused, or finds no space, after the time that it names. When the name in
    use dies, the next pass begins at once with another one, until each had its turn. Any other
    exception ends the job's run.
    """
    clock = BackoffClock(spec.backoff)
    chance = SystemRandom()
    while not control.stopping():
        started = time.monotonic()
        status.update(
            phase="snapshot" if status.record.first_pass_at is None else status.record.phase,
            started_at=utc_now(),
        )
        wait = _attempt(status, clock, one_pass)
        if control.stopping():
            return
        if wait is None:
            elapsed = time.monotonic() - started
            wait = seconds_to_next(spec.schedule, elapsed, chance.random())
        status.update(next_at=utc_now() + timedelta(seconds=wait))
        control.wait(wait)


def _attempt(
    status: StatusWriter, clock: BackoffClock, one_pass: Callable[[], None]
) -> float | None:
    """Run one pass; returns the seconds to wait after a failure, None after a success."""
    try:
        by_any_name(one_pass)
    except JobPaused as pause:
        return _paused(status, str(pause), pause.retry_seconds)
    except HttpError as error:
        if isinstance(error, HttpStoppedError) and not isinstance(error, SourceLostError):
            return 0
        _failed(status, f"master: {error}", str(error))
        return clock.after_failure(error.retry_after_seconds)
    except (PassIncompleteError, ZdbError) as error:
        _failed(status, str(error), str(error))
        return clock.after_failure()
    except OSError as error:
        if not isinstance(error, NoSpaceError) and error.errno not in _FULL:
            raise
        return _paused(status, f"no space: {error}", _SPACE_RETRY_SECONDS)
    clock.after_success()
    now = utc_now()
    status.update(
        phase="idle",
        reason="",
        ended_at=now,
        last_success_at=now,
        first_pass_at=status.record.first_pass_at or now,
        eta_seconds=0,
    )
    return None


def _failed(status: StatusWriter, message: str, reason: str) -> None:
    status.error(message)
    status.update(reason=reason, retries=status.record.retries + 1)


def _paused(status: StatusWriter, reason: str, retry_seconds: float) -> float:
    status.error(reason)
    status.update(phase="paused", reason=reason)
    return retry_seconds
