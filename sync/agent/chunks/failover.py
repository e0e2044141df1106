"""The names of the master's 0-db: which of them answers, and when a better one is back.

A session works with one name from its start, where it finds out who answers there, to its end.
"""

import threading
from typing import Final

from sync.agent.digests import HASH_BYTES
from sync.agent.master.endpoints import MasterEndpoints
from sync.agent.zdb.connection import ZdbConnection
from sync.agent.zdb.errors import ZdbConnectionError, ZdbError
from sync.contract.spec import FlistsSpec, ZdbEndpoint

_LEAST_SECONDS: Final = 0.05
# Of several packets, whatever the MTU.
_LARGE_REQUEST: Final = [bytes(HASH_BYTES)] * 200


def silence(endpoint: ZdbEndpoint, timeout_seconds: float) -> str:
    """Say why no 0-db answers at an endpoint; empty where one does, whatever it says.

    What is wrong with an answer is reported by the session that gets it.
    """
    # A connect is not enough: a proxy before a dead 0-db accepts it too. Nor are small packets: a
    # way that loses large ones passes NSINFO, but neither listings nor requests for many chunks.
    try:
        with ZdbConnection.open(endpoint, None, timeout_seconds) as connection:
            connection.nsinfo()
            connection.scan()
            connection.exists(_LARGE_REQUEST)
    except ZdbConnectionError as error:
        return str(error)
    except ZdbError:
        return ""
    return ""


def answering(spec: FlistsSpec) -> FlistsSpec:
    """Return the spec with the first name that answers in use; as it is where none does."""
    for endpoint in spec.sources[:-1]:
        if not silence(endpoint, spec.io_timeout_seconds):
            return spec.at(endpoint)
    return spec.at(spec.sources[-1])


class Failback:
    """Tries the names that are preferred to the one in use, on a thread of its own.

    `due` is set once one of them answers. There is no thread where the first name is in use.
    """

    def __init__(self, sources: MasterEndpoints[ZdbEndpoint], timeout_seconds: float) -> None:
        self.due = threading.Event()
        self._sources = sources
        self._timeout_seconds = timeout_seconds
        self._stop = threading.Event()
        if sources.preferred():
            threading.Thread(target=self._try, name="failback", daemon=True).start()

    def close(self) -> None:
        """End the thread, not waiting for an attempt that is under way."""
        self._stop.set()

    def _try(self) -> None:
        while True:
            next_seconds = min(due_seconds for _, due_seconds in self._sources.preferred())
            if self._stop.wait(max(_LEAST_SECONDS, next_seconds)):
                return
            for endpoint, due_seconds in self._sources.preferred():
                if due_seconds > 0 or self._stop.is_set():
                    continue
                reason = silence(endpoint, self._timeout_seconds)
                if self._stop.is_set():
                    return
                self._sources.attempted(endpoint, reason)
                if not reason:
                    self.due.set()
                    return
