"""The flists job: sessions of copying and following, one after the other."""

import contextlib
import errno
from collections.abc import Iterator
from typing import Final

from sync.agent.budget import OverBudgetError
from sync.agent.chunks.copying.writer import FULL, SlaveRefusedError
from sync.agent.chunks.failover import silence
from sync.agent.chunks.session import Session, open_session
from sync.agent.job import Control, Directories, Engine, JobFailed, JobPaused
from sync.agent.master.endpoints import MasterEndpoints
from sync.agent.status_writer import StatusWriter
from sync.agent.zdb.errors import ZdbAuthError, ZdbConnectionError, ZdbProtocolError, ZdbReplyError
from sync.agent.zdb.key_room import RETRY_SECONDS
from sync.contract.spec import FlistsSpec, ZdbEndpoint

_NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT)
_REMEDY: Final = "see what answers there in place of a 0-db, then restart this container"


class _MasterIsNoZdbError(Exception):
    """What answers by a name of the master is no 0-db, or sends what no 0-db does."""


class ChunksEngine(Engine[FlistsSpec]):
    """The flists job of one spec: a session of copying and following after the other."""

    def __init__(
        self, spec: FlistsSpec, directories: Directories, status: StatusWriter, control: Control
    ) -> None:
        super().__init__(spec, directories, status, control)
        self._sources = MasterEndpoints("zdb", spec.sources, spec.backoff, status.sources)
        # Names by which something answered last that is no 0-db.
        self._no_zdbs: set[ZdbEndpoint] = set()

    def one_pass(self) -> None:
        """Copy the master's namespace and follow it, by one of its names after the other.

        Returns when stopping. Raises ZdbConnectionError when it is time to wait, JobFailed (a
        person has to decide), JobPaused (no room, or too much would vanish).
        """
        sources = self._sources
        while not self._control.stopping():
            endpoint = sources.choose()
            session: Session | None = None
            try:
                spec = self._spec.at(endpoint)
                opened = open_session(spec, self._directories, self._status, sources)
                with _outcomes(endpoint, self._spec.local_zdb.address), opened as session:
                    session.run(self._control)
            except _MasterIsNoZdbError as error:
                self._leave(endpoint, error)
            except ZdbConnectionError as error:
                self._no_zdbs.discard(endpoint)
                died = silence(endpoint, self._spec.io_timeout_seconds)
                others = bool(died) and sources.skip(endpoint, died)
                # A name that died before the handshake, or after some good, costs no wait.
                if others and (session is None or session.progressed):
                    continue
                if died and not others and sources.count > 1:
                    raise ZdbConnectionError(sources.reasons()) from error
                raise

    def _leave(self, endpoint: ZdbEndpoint, error: _MasterIsNoZdbError) -> None:
        """Go on by another name, if one is left. Raises ZdbConnectionError, JobFailed."""
        sources = self._sources
        self._no_zdbs.add(endpoint)
        # Left alone for long: it may answer well when it is merely asked who it is.
        if sources.skip(endpoint, str(error), self._spec.backoff.longest_seconds):
            return
        if self._no_zdbs.issuperset(self._spec.sources):
            reasons = sources.reasons() if sources.count > 1 else str(error)
            raise JobFailed(f"{reasons}; {_REMEDY}") from error
        raise ZdbConnectionError(sources.reasons()) from error


@contextlib.contextmanager
def _outcomes(master: ZdbEndpoint, local: str) -> Iterator[None]:
    """Translate the errors of a session with a name of the master to outcomes of the job.

    local: HOST:PORT of our own 0-db.
    """
    try:
        yield
    # The job's own files, on another disk than 0-db's perhaps.
    except OSError as error:
        if error.errno not in _NO_SPACE:
            raise
        raise JobPaused(
            f"{error.filename or 'the state directory'}: {error.strerror}; "
            "add space, it goes on by itself",
            RETRY_SECONDS,
        ) from error
    except OverBudgetError as error:
        raise JobFailed(str(error)) from error
    except SlaveRefusedError as error:
        raise JobFailed(
            f"the local 0-db refuses to store ({error}); "
            "check that /secrets/zdb-admin is its admin password"
        ) from error
    except ZdbAuthError as error:
        raise JobFailed(str(error)) from error
    except ZdbProtocolError as error:
        if error.at != local:
            raise _MasterIsNoZdbError(str(error) if error.at else f"{master}: {error}") from error
        raise JobFailed(f"{error}; {_REMEDY}") from error
    except ZdbReplyError as error:
        if error.reason in FULL:
            raise JobPaused(
                f"the local 0-db cannot store more ({error}); add space, it goes on by itself",
                RETRY_SECONDS,
            ) from error
        # Such as a namespace that is frozen for a while (zdbd/commands.c, command_error_frozen).
        raise ZdbConnectionError(str(error)) from error
