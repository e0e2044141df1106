"""A master, a slave and the flists job between them, for tests that break one of the three."""

import contextlib
import hashlib
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

from sync.agent.chunks.engine import ChunksEngine
from sync.agent.job import Control, Directories, JobFailed, JobPaused
from sync.agent.status_writer import StatusWriter, read_status
from sync.agent.supervisor import EngineLoop
from sync.agent.zdb.connection import ZdbConnection
from sync.contract import pinned_chunks
from sync.contract.pinned_chunks import PinnedChunks
from sync.contract.spec import Backoff, FlistsSpec, ZdbEndpoint, canonical
from sync.contract.status import StatusRecord
from tests.agent.mirrors import make_directories, make_status
from tests.bench.servers import ZdbProcess

PASSWORD = "mirror-admin"
LONGEST_WAIT_SECONDS = 60.0

Content = dict[bytes, tuple[bytes | None, int]]


def key_of(payload: bytes) -> bytes:
    """Return the key that a payload proves."""
    return hashlib.blake2b(payload, digest_size=16).digest()


def chunks(count: int, seed: int, size: int = 700) -> list[tuple[bytes, bytes, int | None]]:
    """Make `count` chunks with true keys and distinct timestamps."""
    source = random.Random(seed)
    made: list[tuple[bytes, bytes, int | None]] = []
    for number in range(count):
        # Never so short that two are alike: 0-db keeps the first timestamp of equal payloads.
        payload = source.randbytes(source.randrange(16, 2 * size + 16))
        made.append((key_of(payload), payload, 1_600_000_000 + number))
    return made


def content(connection: ZdbConnection) -> dict[bytes, tuple[bytes | None, int]]:
    """Read a whole namespace: payload and timestamp by key."""
    found: dict[bytes, tuple[bytes | None, int]] = {}
    cursor = None
    while page := connection.scan(cursor):
        cursor = page.cursor
        payloads = connection.mget([entry[0] for entry in page.entries])
        for (key, _, timestamp), payload in zip(page.entries, payloads, strict=True):
            found[key] = (payload, int(timestamp))
    return found


def write_published(directory: Path, keys: list[bytes], started_at: float) -> None:
    """Write the users job's table: the chunks that flists name, and when its pass began."""
    (directory / pinned_chunks.FILE).unlink(missing_ok=True)
    with PinnedChunks(directory) as table:
        table.add(keys)
        table.completed(started_at, started_at + 1)


class Job:
    """The flists job on a thread; `ended` holds what it raised."""

    def __init__(self, spec: FlistsSpec, directories: Directories) -> None:
        self.spec = spec
        self.status: StatusWriter = make_status("flists", directories, str(spec.source))
        self.control = Control()
        self.ended: BaseException | None = None
        self._directories = directories
        self._thread = threading.Thread(target=self._run, name="flists", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run(self) -> None:
        try:
            _Loop(self, self._directories).run()
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            self.ended = error

    def stop(self) -> None:
        """Stop it and wait for it."""
        self.control.stop()
        self._thread.join(LONGEST_WAIT_SECONDS)
        assert not self._thread.is_alive(), "the job did not stop"
        self.status.close()

    @property
    def record(self) -> StatusRecord:
        return self.status.record

    def wait(self, condition: Callable[[StatusRecord], bool], what: str = "") -> StatusRecord:
        """Wait until the status record is so; fail with the record when the job ends before."""
        deadline = time.monotonic() + LONGEST_WAIT_SECONDS
        while not condition(self.record):
            assert self.ended is None or isinstance(self.ended, JobPaused), repr(self.ended)
            assert time.monotonic() < deadline, f"not {what}: {self.record}"
            time.sleep(0.01)
        return self.record

    def wait_for_end(self) -> None:
        """Wait until it has raised something: a failure or a pause."""
        deadline = time.monotonic() + LONGEST_WAIT_SECONDS
        while self.ended is None:
            assert time.monotonic() < deadline, f"still running: {self.record}"
            time.sleep(0.02)

    def failure(self) -> JobFailed:
        """Wait until it has failed; returns why."""
        self._thread.join(LONGEST_WAIT_SECONDS)
        assert isinstance(self.ended, JobFailed), f"ended with {self.ended!r}; {self.record}"
        return self.ended


class _Loop(EngineLoop):
    def __init__(self, job: Job, directories: Directories) -> None:
        super().__init__(job.spec, directories, job.status, job.control)
        self._job = job

    def make_engine(self) -> "_Impatient":
        return _Impatient(self._job, self._directories)


class _Impatient(ChunksEngine):
    """The engine of a job, whose pauses are short and noted in `ended`."""

    def __init__(self, job: Job, directories: Directories) -> None:
        super().__init__(job.spec, directories, job.status, job.control)
        self._job = job

    def one_pass(self) -> None:
        try:
            super().one_pass()
        except JobPaused as pause:
            self._job.ended = pause
            raise JobPaused(str(pause), 0.3) from pause


class FlistsMirror:
    """Both servers and the job's directories; jobs are started by `job()`."""

    def __init__(self, root: Path, *, stand_in: bool = False) -> None:
        self.master = ZdbProcess(root / "master", stand_in=stand_in)
        self.slave = ZdbProcess(root / "slave", admin=PASSWORD, stand_in=stand_in)
        self.directories = make_directories(root / "job")
        self.overrides: dict[str, object] = {}
        self.source: ZdbEndpoint | None = None
        self.sources: list[ZdbEndpoint] = []

    def spec(self, **changes: object) -> FlistsSpec:
        quick: dict[str, object] = {
            "stack": "test",
            "sources": self.sources or [self.source or self.master.endpoint],
            "local_zdb": self.slave.endpoint,
            "backoff": Backoff(first_seconds=0.05, longest_seconds=0.3),
            "delete_check_seconds": 0.3,
            "poll_seconds": 0.5,
            "io_timeout_seconds": 5,
            "connections": 3,
            "free_space_floor_bytes": 0,
        }
        return FlistsSpec.model_validate(quick | self.overrides | changes)

    def job(self, **changes: object) -> Job:
        return Job(self.spec(**changes), self.directories)

    def fill(self, count: int = 3000, seed: int = 1, size: int = 700) -> list[bytes]:
        """Store chunks on the master; returns their keys."""
        made = chunks(count, seed, size)
        with self.master.connect() as master:
            master.set_many(made)
        return [key for key, _, _ in made]

    def published(self, keys: list[bytes], started_at: float | None = None) -> None:
        """Let the users job have finished a pass that began now."""
        begun = time.time() if started_at is None else started_at
        write_published(self.directories.users_state, keys, begun)

    def same(self) -> bool:
        """Return whether both sides have the same keys, payloads and timestamps."""
        return self.contents()[0] == self.contents()[1]

    def contents(self) -> tuple[dict[bytes, tuple[bytes | None, int]], ...]:
        """Everything on the master and everything on the slave."""
        with self.master.connect() as master, self.slave.connect() as slave:
            return content(master), content(slave)

    def await_same(self, job: "Job | AgentProcess") -> None:
        """Wait until both sides are equal."""
        deadline = time.monotonic() + LONGEST_WAIT_SECONDS
        while True:
            master, slave = self.contents()
            if master == slave:
                return
            lacking, extra = len(master.keys() - slave.keys()), len(slave.keys() - master.keys())
            wrong = [key for key in master if key in slave and master[key] != slave[key]]
            if not lacking and not extra and all(_same_name(master, slave, key) for key in wrong):
                return
            shown = [(key, master[key], slave[key]) for key in wrong[:3]]
            seen = f"{lacking} lacking, {extra} extra, wrong: {shown}; {job.record}"
            assert time.monotonic() < deadline, seen
            time.sleep(0.1)


def _same_name(master: Content, slave: Content, key: bytes) -> bool:
    """Return whether a plain key has the same payload on both sides.

    When it is overwritten between listing and MGET, the payload comes with the listed timestamp,
    and 0-db keeps that when the same payload is set again with the right one.
    """
    return len(key) != 16 and master[key][0] == slave[key][0]


@contextlib.contextmanager
def running(root: Path, *, stand_in: bool = False) -> Iterator[FlistsMirror]:
    """Start both servers; end them with the block."""
    mirror = FlistsMirror(root, stand_in=stand_in)
    with mirror.master, mirror.slave:
        yield mirror


def following(record: StatusRecord) -> bool:
    return record.phase == "following"


class AgentProcess:
    """The agent's own command line as a process, to be killed at any moment."""

    def __init__(self, mirror: FlistsMirror, **changes: object) -> None:
        self._directories = mirror.directories
        self._process: subprocess.Popen[bytes] | None = None
        (mirror.directories.spec / "spec.json").write_bytes(canonical(mirror.spec(**changes)))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(20)

    def start(self) -> None:
        """Start it."""
        command = [sys.executable, "-m", "sync.agent", "run", "flists"]
        for name in ("spec", "state", "secrets", "users_state"):
            folder = getattr(self._directories, name)
            command += [f"--{name.replace('_', '-')}-dir", str(folder)]
        log = (self._directories.state.parent / "agent.log").open("ab")
        with log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)

    def kill(self) -> None:
        """End it as kill -9 does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    @property
    def record(self) -> StatusRecord | None:
        """The status record that it wrote last."""
        return read_status(self._directories.state / "status.json")

    def log(self) -> str:
        """Return what it said."""
        return (self._directories.state.parent / "agent.log").read_text()
