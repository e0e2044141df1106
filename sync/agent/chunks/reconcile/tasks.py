"""What the tasks of the reconcile thread have in common.

Each begins with the checkpoint as it was then and changes nothing that other threads see: what it
finds is reported, and applied by the one who owns the checkpoint.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from sync.agent.chunks.scan.ledger import Ledger
from sync.agent.job import Directories
from sync.agent.zdb.connection import ZdbConnection
from sync.agent.zdb.errors import ZdbError
from sync.contract import job_memory
from sync.contract.spec import FlistsSpec, ZdbEndpoint


class Stopped(Exception):  # noqa: N818 - not an error: the job is stopping
    """A task was stopped."""


@dataclass(frozen=True)
class Finding:
    """Something that a task found.

    changes: fields of the checkpoint. counts: to be added to the counters of the status record.
    kept_items: dropped keys that a flist names. look_in_seconds: when to compare the numbers of
    keys again. judge_in_seconds: when to judge dropped keys, whether or not the table is newer.
    """

    changes: Mapping[str, object] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    kept_items: int | None = None
    look_in_seconds: float | None = None
    judge_in_seconds: float | None = None


@dataclass(frozen=True)
class TaskContext:
    """What every task works with; report: takes what is found, from the task's thread."""

    spec: FlistsSpec
    directories: Directories
    ledger: Ledger
    report: Callable[[Finding], None]
    _stopping: threading.Event = field(init=False, default_factory=threading.Event)
    _open: list[ZdbConnection] = field(init=False, default_factory=list)

    @contextlib.contextmanager
    def connect(
        self, endpoint: ZdbEndpoint, password: str | None = None
    ) -> Iterator[ZdbConnection]:
        """Provide a connection that `stop` breaks. Raises ZdbError, Stopped."""
        timeout = self.spec.io_timeout_seconds
        try:
            with ZdbConnection.open(endpoint, password, timeout) as connection:
                connection.page_bytes = job_memory.largest_page_bytes(self.spec.memory_limit_mb)
                self._open.append(connection)
                try:
                    self.check_stop()
                    yield connection
                finally:
                    self._open.remove(connection)
        except ZdbError:
            self.check_stop()
            raise

    @contextlib.contextmanager
    def connections(self) -> Iterator[tuple[ZdbConnection, ZdbConnection]]:
        """Connect to the master and to the slave. Raises ZdbError, Stopped."""
        password = self.directories.zdb_admin_password()
        with (
            self.connect(self.spec.source) as master,
            self.connect(self.spec.local_zdb, password) as slave,
        ):
            yield master, slave

    def stop(self) -> None:
        """End the task that runs, also where it waits for a server that hangs."""
        self._stopping.set()
        for connection in tuple(self._open):
            connection.interrupt()

    def check_stop(self) -> None:
        """Raise Stopped when the job is stopping."""
        if self._stopping.is_set():
            raise Stopped
