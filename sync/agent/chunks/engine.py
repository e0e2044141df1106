"""The flists job: sessions of copying and following, one after the other."""

import contextlib
import errno
from collections.abc import Iterator
from typing import Final

from sync.agent.chunks.copying.writer import FULL, SlaveRefusedError
from sync.agent.chunks.failover import silence
from sync.agent.chunks.session import Session, open_session
from sync.agent.job import Control, Directories, Engine, JobFailed, JobPaused
from sync.agent.master.endpoints import MasterEndpoints
from sync.agent.status_writer import StatusWriter
from sync.agent.zdb.errors import ZdbAuthError, ZdbConnectionError, ZdbProtocolError, ZdbReplyError
from sync.agent.zdb.key_room import RETRY_SECONDS
from sync.contract.spec import FlistsSpec

_NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT)


class ChunksEngine(Engine[FlistsSpec]):
    """The flists job of one spec: a session of copying and following after the other."""

    def __init__(
        self, spec: FlistsSpec, directories: Directories, status: StatusWriter, control: Control
    ) -> None:
        super().__init__(spec, directories, status, control)
        self._sources = MasterEndpoints("zdb", spec.sources, spec.backoff, status.sources)

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
                with _outcomes(), opened as session:
                    session.run(self._control)
            except ZdbConnectionError as error:
                died = silence(endpoint, self._spec.io_timeout_seconds)
                others = bool(died) and sources.skip(endpoint, died)
                # A name that died before the handshake, or after some good, costs no wait.
                if others and (session is None or session.progressed):
                    continue
                if died and not others and sources.count > 1:
                    raise ZdbConnectionError(sources.reasons()) from error
                raise


@contextlib.contextmanager
def _outcomes() -> Iterator[None]:
    """Translate the errors of a session to outcomes of the job."""
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
                f"the local 0-db cannot store more ({error}); add space, it goes on by itself",
                RETRY_SECONDS,
            ) from error
        # Such as a namespace that is frozen for a while (zdbd/commands.c, command_error_frozen).
        raise ZdbConnectionError(str(error)) from error
