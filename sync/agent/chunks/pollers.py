"""Threads that ask the two servers what a copy loop has no time to wait for."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sync.agent.chunks.checkpoint import END_SECONDS
from sync.agent.chunks.reconcile.crash_recovery import slave_end
from sync.agent.zdb.connection import ZdbConnection
from sync.agent.zdb.errors import ZdbConnectionError, ZdbError, ZdbTimeoutError
from sync.agent.zdb.namespace_info import NamespaceInfo
from sync.contract.spec import FlistsSpec, ZdbEndpoint

_SLAVE_SECONDS: Final = 1.0
_MASTER_SECONDS: Final = 5.0
_AGAIN_SECONDS: Final = 1.0
_SHORTEST_WAIT_SECONDS: Final = 1.0


@dataclass(frozen=True)
class Answer:
    """What a server said to a question of the (monotonic) time asked_at.

    boot: which start of which server it is (see boot_of). Of the slave only: keys counts those of
    all its namespaces, and end is how far its index went a while ago (see Checkpoint.slave_ends).
    """

    asked_at: float
    info: NamespaceInfo
    boot: str = ""
    keys: int = 0
    end: tuple[float, str] | None = None


class InfoPoller:
    """Asks a namespace for its NSINFO every few seconds; `latest` is the last answer."""

    def __init__(
        self, endpoint: ZdbEndpoint, password: str | None, timeout_seconds: float, *, slave: bool
    ) -> None:
        self.latest: Answer | None = None
        self._error: ZdbError | None = None
        self._endpoint = endpoint
        self._password = password
        self._timeout_seconds = timeout_seconds
        self._slave = slave
        self._stop = threading.Event()
        self._ask = threading.Event()
        threading.Thread(target=self._poll, name="info", daemon=True).start()

    def close(self) -> None:
        """End the thread, not waiting for an answer that is under way."""
        self._stop.set()
        self._ask.set()

    def ask_now(self) -> None:
        """Ask again without waiting for the interval."""
        self._ask.set()

    def check(self) -> None:
        """Raise what ended the polling, if anything did."""
        if self._error:
            raise self._error

    def _poll(self) -> None:
        try:
            with ZdbConnection.open(
                self._endpoint, self._password, self._timeout_seconds
            ) as connection:
                while not self._stop.is_set():
                    self.latest = self._answer(connection)
                    self._ask.wait(_SLAVE_SECONDS if self._slave else _MASTER_SECONDS)
                    self._ask.clear()
        except ZdbError as error:
            self._error = error

    def _answer(self, connection: ZdbConnection) -> Answer:
        asked_at = time.monotonic()
        info, boot = connection.nsinfo_and_boot()
        # A silent change of servers, over a connection that was renewed.
        if self.latest and boot != self.latest.boot:
            raise ZdbConnectionError(f"0-db {self._endpoint.address} was started anew")
        if not self._slave:
            return Answer(asked_at, info, boot)
        # All namespaces share one table of keys in memory (libzdb/api.c, zdb_index_init: branches).
        keys = connection.count_keys()
        end = self.latest.end if self.latest else None
        if end is None or time.time() - end[0] >= END_SECONDS:
            end = slave_end(connection)
        return Answer(asked_at, info, boot, keys, end)


class WriteWaiter:
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
        threading.Thread(target=self._wait, name="wait", daemon=True).start()

    def close(self) -> None:
        """End the thread, not waiting for a WAIT that is under way."""
        self._stop.set()

    def _wait(self) -> None:
        # zdbd refuses a WAIT of less than 100 ms (zdbd/commands.c, command_wait).
        least = max(0.1, min(_SHORTEST_WAIT_SECONDS, self._spec.poll_seconds))
        seconds, timeout = max(0.1, self._spec.poll_seconds), self._spec.io_timeout_seconds
        while not self._stop.is_set():
            # WAIT has a connection of its own: it answers nothing else meanwhile (zdbd/redis.c,
            # redis_client_set_watcher). An error is reported by the copy loop's own connections;
            # polling goes on meanwhile.
            try:
                with ZdbConnection.open(self._spec.source, None, timeout) as connection:
                    while not self._stop.is_set():
                        self._on_armed()
                        if connection.wait_for("SET", seconds):
                            self._on_write()
            except ZdbTimeoutError:
                # Perhaps NAT forgets a connection that is silent for so long.
                seconds = max(least, seconds / 2)
            except ZdbError:
                pass
            self._stop.wait(_AGAIN_SECONDS)
