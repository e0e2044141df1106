"""Threads that ask the two servers what a copy loop has no time to wait for."""

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Final

from sync.agent.chunks.checkpoint import MARK_SECONDS
from sync.agent.chunks.reconcile.crash_recovery import newest
from sync.agent.zdb import NamespaceInfo, ZdbConnection, ZdbError
from sync.contract.spec import FlistsSpec, ZdbEndpoint

_INFO_SECONDS: Final = 1.0
_MASTER_INFO_SECONDS: Final = 5.0
_AGAIN_SECONDS: Final = 1.0


class InfoWatcher:
    """Asks a namespace for its NSINFO every `interval_seconds`; `info` is the last answer.

    local: it is the mirror's own; `keys` counts all its namespaces, and `mark` is how far its index
    went a while ago (see FlistsState.marks).
    """

    def __init__(
        self,
        endpoint: ZdbEndpoint,
        password: str | None,
        interval_seconds: float,
        timeout_seconds: float,
        *,
        local: bool = False,
    ) -> None:
        self.info: NamespaceInfo | None = None
        self.mark: tuple[float, str] | None = None
        self.keys: int | None = None
        self._local = local
        self.answers = 0
        self.error: ZdbError | None = None
        self._endpoint = endpoint
        self._password = password
        self._interval_seconds = interval_seconds
        self._timeout_seconds = timeout_seconds
        self._stop = threading.Event()
        self._ask = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="info", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread, not waiting for an answer that is under way."""
        self._stop.set()
        self._ask.set()

    def ask_now(self) -> None:
        """Ask again without waiting for the interval."""
        self._ask.set()

    def _watch(self) -> None:
        try:
            with ZdbConnection.open(
                self._endpoint, self._password, self._timeout_seconds
            ) as connection:
                while not self._stop.is_set():
                    self.info = connection.nsinfo()
                    if self._local:
                        self.keys = connection.count_keys()
                    self.answers += 1
                    if self._local:
                        self._note_mark(connection)
                    self._ask.wait(self._interval_seconds)
                    self._ask.clear()
        except ZdbError as error:
            self.error = error

    def _note_mark(self, connection: ZdbConnection) -> None:
        if self.mark is None or time.time() - self.mark[0] >= MARK_SECONDS:
            cursor = newest(connection)
            self.mark = (time.time(), cursor)


def watch_master(spec: FlistsSpec) -> InfoWatcher:
    """Watch the master's namespace."""
    return InfoWatcher(spec.source, None, _MASTER_INFO_SECONDS, spec.io_timeout_seconds)


def watch_slave(spec: FlistsSpec, password: str | None) -> InfoWatcher:
    """Watch the slave's namespace."""
    return InfoWatcher(spec.local_zdb, password, _INFO_SECONDS, spec.io_timeout_seconds, local=True)


class WriteWatcher:
    """Waits for writes on the master with WAIT; calls `on_write` soon after each.

    A write in the moment between two WAITs is not seen; `on_armed` is called each time a WAIT was
    sent, so that the follower looks once more after it.
    """

    def __init__(
        self, spec: FlistsSpec, on_write: Callable[[], None], on_armed: Callable[[], None]
    ) -> None:
        self._spec = spec
        self._on_write = on_write
        self._on_armed = on_armed
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="wait", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread, not waiting for a WAIT that is under way."""
        self._stop.set()

    def _watch(self) -> None:
        seconds = max(0.1, self._spec.poll_seconds)
        while not self._stop.is_set():
            # What is wrong, the copy loop's own connections tell; polling goes on meanwhile.
            with contextlib.suppress(ZdbError):
                self._wait_for_writes(seconds)
            self._stop.wait(_AGAIN_SECONDS)

    def _wait_for_writes(self, seconds: float) -> None:
        timeout = self._spec.io_timeout_seconds
        with ZdbConnection.open(self._spec.source, None, timeout) as connection:
            while not self._stop.is_set():
                self._on_armed()
                if connection.wait_for("SET", seconds):
                    self._on_write()
