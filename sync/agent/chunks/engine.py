"""The flists job: sessions of copying and following, one after the other."""

import contextlib
import errno
import logging
import time
from typing import Final, Self

from sync.agent.chunks.copying.writer import FULL, SlaveRefusedError
from sync.agent.chunks.failover import silence
from sync.agent.chunks.session import Session
from sync.agent.job import Control, Directories, JobFailed, JobPaused
from sync.agent.master.endpoints import MasterEndpoints
from sync.agent.status_writer import StatusWriter
from sync.agent.zdb.errors import (
    ZdbAuthError,
    ZdbConnectionError,
    ZdbProtocolError,
    ZdbReplyError,
)
from sync.contract.spec import FlistsSpec

_LOG = logging.getLogger(__name__)
_FULL_RETRY_SECONDS: Final = 10.0
_NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT)


class ChunksEngine:
    """The flists job of one spec: a session of copying and following after the other."""

    def __init__(
        self, spec: FlistsSpec, directories: Directories, status: StatusWriter, control: Control
    ) -> None:
        self._spec = spec
        self._directories = directories
        self._status = status
        self._control = control
        self._sources = MasterEndpoints("zdb", spec.sources, spec.backoff, status.sources)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is open between two sessions."""

    def one_pass(self) -> None:
        """Copy the master's namespace and follow it, by one of its names after the other.

        Returns when stopping. Raises ZdbConnectionError when it is time to wait, JobFailed (a
        person has to decide), JobPaused (no room, or too much would vanish).
        """
        sources = self._sources
        while not self._control.stopping():
            endpoint = sources.choose()
            session = Session(
                self._spec.at(endpoint), self._directories, self._status, self._control, sources
            )
            try:
                _run_session(session)
            except ZdbConnectionError as error:
                died = silence(endpoint, self._spec.io_timeout_seconds)
                others = bool(died) and sources.skip(endpoint, died)
                if others and (session.progressed or not session.met):
                    continue
                if died and not others and sources.count > 1:
                    raise ZdbConnectionError(sources.reasons()) from error
                raise


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
