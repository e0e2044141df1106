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
from typing import Final

from sync.agent.durable import NoSpaceError
from sync.agent.http import HttpError, HttpStoppedError
from sync.agent.reporter import Reporter, utc_now
from sync.agent.runtime import Control, JobPaused
from sync.agent.schedule import BackoffClock, seconds_to_next
from sync.agent.zdb import ZdbError
from sync.contract.spec import KernelsSpec, UsersSpec
from sync.contract.status import MasterIdentity

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


def seen_master(reporter: Reporter, identity: str | None = None) -> None:
    """Record that the master answered just now."""
    master = reporter.record.master
    reporter.update(
        master=MasterIdentity(
            source=master.source, identity=identity or master.identity, seen_at=utc_now()
        )
    )


def repeat(
    spec: UsersSpec | KernelsSpec,
    reporter: Reporter,
    control: Control,
    one_pass: Callable[[], None],
) -> None:
    """Run `one_pass` at the intervals of the spec until stopping.

    A pass that raises PassIncompleteError, HttpError or ZdbError is tried again after a back-off;
    one that raises JobPaused, or finds no space, after the time that it names. Any other
    exception ends the job's run.
    """
    clock = BackoffClock(spec.backoff)
    chance = SystemRandom()
    while not control.stopping():
        started = time.monotonic()
        reporter.update(
            phase="snapshot" if reporter.record.first_pass_at is None else reporter.record.phase,
            started_at=utc_now(),
        )
        wait = _attempt(reporter, clock, one_pass)
        if control.stopping():
            return
        if wait is None:
            elapsed = time.monotonic() - started
            wait = seconds_to_next(spec.schedule, elapsed, chance.random())
        reporter.update(next_at=utc_now() + timedelta(seconds=wait))
        control.wait(wait)


def _attempt(reporter: Reporter, clock: BackoffClock, one_pass: Callable[[], None]) -> float | None:
    """Run one pass; returns the seconds to wait after a failure, None after a success."""
    try:
        one_pass()
    except HttpStoppedError:
        return 0
    except JobPaused as pause:
        return _paused(reporter, str(pause), pause.retry_seconds)
    except HttpError as error:
        reporter.error(f"master: {error}")
        reporter.update(reason=str(error), retries=reporter.record.retries + 1)
        return clock.after_failure(error.retry_after_seconds)
    except (PassIncompleteError, ZdbError) as error:
        reporter.error(str(error))
        reporter.update(reason=str(error), retries=reporter.record.retries + 1)
        return clock.after_failure()
    except OSError as error:
        if not isinstance(error, NoSpaceError) and error.errno not in _FULL:
            raise
        return _paused(reporter, f"no space: {error}", _SPACE_RETRY_SECONDS)
    clock.after_success()
    now = utc_now()
    reporter.update(
        phase="idle",
        reason="",
        ended_at=now,
        last_success_at=now,
        first_pass_at=reporter.record.first_pass_at or now,
        eta_seconds=0,
    )
    return None


def _paused(reporter: Reporter, reason: str, retry_seconds: float) -> float:
    reporter.error(reason)
    reporter.update(phase="paused", reason=reason)
    return retry_seconds
