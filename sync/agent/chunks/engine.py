"""The flists job: sessions of copying and following, one after the other until told to stop."""

import contextlib
import errno
import logging
import time
from typing import Final

from sync.agent.chunks.copying.writer import FULL, SlaveRefusedError
from sync.agent.chunks.failover import silence
from sync.agent.chunks.session import Session
from sync.agent.master.endpoints import Sources
from sync.agent.schedule import BackoffClock
from sync.agent.supervisor import Control, Directories, JobFailed, JobPaused, StatusWriter
from sync.agent.zdb.errors import (
    ZdbAuthError,
    ZdbConnectionError,
    ZdbProtocolError,
    ZdbReplyError,
)
from sync.contract.spec import FlistsSpec

_LOG = logging.getLogger(__name__)
_FULL_RETRY_SECONDS: Final = 10.0
_TOLD_SECONDS: Final = 1.0
_NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT)


def run(spec: FlistsSpec, directories: Directories, status: StatusWriter, control: Control) -> None:
    """Copy the master's namespace and follow it until `control` says stop.

    Raises JobFailed (a person has to decide), JobPaused (no room, or too much would vanish).
    """
    clock = BackoffClock(spec.backoff)
    caught_up_at: float | None = None
    sources = Sources("zdb", spec.sources, spec.backoff, status.sources)
    while not control.stopping():
        endpoint = sources.choose()
        session = Session(spec.at(endpoint), directories, status, control, sources)
        try:
            _run_session(session)
        except ZdbConnectionError as error:
            if session.progressed:
                clock.after_success()
            caught_up_at = session.caught_up_at or caught_up_at
            died = silence(endpoint, spec.io_timeout_seconds)
            others = bool(died) and sources.pass_over(endpoint, died)
            if others and (session.progressed or not session.met):
                continue
            told = sources.reasons() if died and not others and sources.count > 1 else str(error)
            status.error(told)
            status.update(retries=status.record.retries + 1, reason=told)
            _wait(clock.after_failure(), caught_up_at, status, control)


def _wait(
    seconds: float, caught_up_at: float | None, status: StatusWriter, control: Control
) -> None:
    """Wait, and tell all the while how far behind the mirror may be by now."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0 and not control.wait(min(left, _TOLD_SECONDS)):
        if caught_up_at is not None:
            behind = time.monotonic() - caught_up_at
            status.update(lag=status.record.lag.model_copy(update={"seconds": behind}))


def _run_session(session: Session) -> None:
    try:
        with contextlib.closing(session):
            started = time.monotonic()
            session.run()
            _LOG.info("session ended after %.1f s", time.monotonic() - started)
    except OSError as error:
        if error.errno not in _NO_SPACE:
            raise
        raise JobPaused(
            f"{error.filename or 'the state directory'}: {error.strerror}; "
            "add space, it goes on by itself",
            _FULL_RETRY_SECONDS,
        ) from error
    except SlaveRefusedError as error:
        raise JobFailed(
            f"the local 0-db refuses to store ({error}); "
            "check that /secrets/zdb-admin is its admin password"
        ) from error
    except ZdbAuthError as error:
        raise JobFailed(str(error)) from error
    except ZdbProtocolError as error:
        raise JobFailed(
            f"{error}; see what answers there in place of a 0-db, then restart this container"
        ) from error
    except ZdbReplyError as error:
        if error.reason in FULL:
            raise JobPaused(
                f"the local 0-db can not store more ({error}); add space, it goes on by itself",
                _FULL_RETRY_SECONDS,
            ) from error
        raise ZdbConnectionError(str(error)) from error
