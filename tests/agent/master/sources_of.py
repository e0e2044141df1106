"""Several names of one master, what a record says of them, and a job that runs meanwhile."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from sync.agent.job import Control, Directories
from sync.agent.status_writer import StatusWriter
from sync.agent.supervisor import EngineLoop
from sync.contract.spec import KernelsHttpLimits, KernelsSpec, Schedule, UsersSpec
from sync.contract.status import StatusRecord
from tests.agent.hub.flists_of import small
from tests.agent.hub.small_hub import DAY, OLD, small_model
from tests.agent.mirrors import make_status
from tests.sandbox.services.http import HttpServer
from tests.sandbox.upstream import UpstreamModel
from tests.sandbox.wan import Relay

LONGEST_WAIT_SECONDS = 60.0
OFTEN = Schedule(interval_seconds=0.05)
IMPATIENT = KernelsHttpLimits(connections=8, connect_timeout_seconds=0.5, read_timeout_seconds=0.5)


def url_of(server: HttpServer | Relay) -> str:
    """Return the base URL of a server, or of another name of it."""
    host, port = server.address if isinstance(server, Relay) else (server.address, server.port)
    return f"http://{host}:{port}"


def name_of(server: HttpServer) -> Relay:
    """Make another name of a server: an address that leads to it, and can be taken away."""
    return Relay((server.address, server.port))


def die(name: Relay, *, hang: bool = False) -> None:
    """Take a name away, with every connection that came by it."""
    name.refusing = True
    if hang:
        name.hang_all()
    else:
        name.reset_all()


def skipped(record: StatusRecord) -> dict[str, str]:
    """Return the names that are skipped, with the reasons."""
    return {use.name: use.reason for use in record.sources if use.reason}


def in_use(record: StatusRecord) -> list[str]:
    """Return the names in use, in the order of their services."""
    return [use.name for use in record.sources if use.in_use]


def stranger() -> UpstreamModel:
    """Return a hub and a bootstrap server that have nothing of small_model and kernels_model."""
    model = small_model()
    model.clear_repositories()
    for number in range(8):
        model.add_flist("tf-other", f"other-{number}.flist", small(60 + number), OLD)
        model.add_kernel(f"other-{number}.efi", b"MZ" + bytes(50_000 + number), OLD + number * DAY)
    return model


class RunningJob:
    """A users or kernels job on a thread of its own; `ended` is what it raised."""

    def __init__(self, spec: UsersSpec | KernelsSpec, directories: Directories) -> None:
        self.status: StatusWriter = make_status(spec.job, directories, spec.source)
        self.control = Control()
        self.ended: BaseException | None = None
        self._spec = spec
        self._directories = directories
        self.thread = threading.Thread(target=self._run, name=spec.job, daemon=True)

    def _run(self) -> None:
        try:
            EngineLoop(self._spec, self._directories, self.status, self.control).run()
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            self.ended = error

    def until(self, condition: Callable[[StatusRecord], bool]) -> StatusRecord:
        """Wait until the record is so; fail with it when the job ends before."""
        deadline = time.monotonic() + LONGEST_WAIT_SECONDS
        while not condition(record := self.status.record):
            assert self.ended is None, repr(self.ended)
            assert time.monotonic() < deadline, record
            time.sleep(0.01)
        return record

    def complete(self, source: str) -> StatusRecord:
        """Wait until a pass by this name is complete."""
        return self.until(
            lambda record: (
                record.phase == "idle"
                and record.master.source == source
                and source in in_use(record)
            )
        )

    def failure(self) -> BaseException:
        """Wait until the job has ended by itself; returns why."""
        self.thread.join(LONGEST_WAIT_SECONDS)
        assert self.ended is not None, self.status.record
        return self.ended


@contextlib.contextmanager
def running_job(spec: UsersSpec | KernelsSpec, directories: Directories) -> Iterator[RunningJob]:
    """Run a job until the end of the block."""
    job = RunningJob(spec, directories)
    job.thread.start()
    try:
        yield job
    finally:
        job.control.stop()
        job.thread.join(LONGEST_WAIT_SECONDS)
        job.status.close()
        assert not job.thread.is_alive()
