"""Kills and faults while everything changes: nothing wrong is ever served, and it converges."""

import contextlib
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from sync.agent.hub import verify
from sync.agent.job import VerifyOptions
from sync.agent.status_writer import read_status
from sync.contract import spec as contract
from tests.agent.hub.storm import Reader, World, digest
from tests.agent.mirrors import UsersMirror, model_tree, users_mirror
from tests.sandbox.services.zdb import ZdbServer
from tests.sandbox.upstream import Fault, FaultKind, Upstream, UpstreamModel
from tests.sandbox.upstream.nodes import File

CONVERGE_SECONDS = 60
_HTTP_KINDS: tuple[FaultKind, ...] = (
    *("status", "truncate", "flip", "reset", "hang", "html", "redirect-loop", "endless"),
)
# Passes without a pause, short patience, and a guard that lets everything go.
RESTLESS: Final[dict[str, Any]] = {
    "schedule": {"interval_seconds": 0.05},
    "http": {"connections": 6, "connect_timeout_seconds": 1, "read_timeout_seconds": 0.5},
    "max_flist_bytes": 1 << 20,
    "removal_limit": 1,
}
_PATHS = (r"/api/fileslist", r".*/light", r"/[^/]+/[^/]+\.flist", r".*/tags/.*", r".*")


@dataclass
class Storm:
    """The agent as a process of its own, and what is done to it."""

    mirror: UsersMirror
    world: World
    chance: random.Random
    process: subprocess.Popen[bytes] | None = None
    events: dict[str, int] = field(default_factory=dict)

    def start(self) -> None:
        directories = self.mirror.directories
        (directories.spec / "spec.json").write_bytes(contract.canonical(self.mirror.spec()))
        command = [sys.executable, "-m", "sync.agent", "run", "users"]
        for name in ("spec", "state", "secrets", "public"):
            command += [f"--{name}-dir", str(getattr(directories, name))]
        log = (directories.state / "log").open("ab")
        self.process = subprocess.Popen(command, stdout=log, stderr=log)
        log.close()

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.start()

    def terminate(self) -> None:
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def http_fault(self) -> None:
        kind = self.chance.choice(_HTTP_KINDS)
        self.events[kind] = self.events.get(kind, 0) + 1
        status = self.chance.choice([404, 200, 500]) if kind == "html" else 500
        fault = Fault(
            kind,
            self.chance.choice(_PATHS),
            after=self.chance.randrange(4),
            times=self.chance.randrange(1, 6),
            status=status,
            at_byte=self.chance.choice([None, 0, 1, -1]),
        )
        self.mirror.upstream.hub_faults.add(fault)

    def disk_full(self) -> None:
        """Let no file of the process grow beyond a size, as a full disk does in mid-write."""
        assert self.process is not None
        unlimited = resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE)
        size = self.chance.choice([0, 500, 4096, 20_000])
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (size, unlimited[1]))
            time.sleep(self.chance.uniform(0.05, 0.3))
            resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, unlimited)

    def chunk_fault(self) -> None:
        """Let the master's 0-db answer nothing for a moment."""
        server = self.mirror.upstream.zdb
        server.hang.set()
        time.sleep(self.chance.uniform(0.05, 0.2))
        server.hang.clear()

    def event(self) -> None:
        kinds: list[Callable[[], None]] = [self.kill, self.http_fault, self.http_fault]
        kinds += [self.disk_full, self.chunk_fault, self.mirror.upstream.hub_faults.clear]
        kind = self.chance.choice(kinds)
        self.events[kind.__name__] = self.events.get(kind.__name__, 0) + 1
        kind()
        for _ in range(self.chance.randrange(4)):
            self.world.edit()
            time.sleep(self.chance.uniform(0, 0.05))
        time.sleep(self.chance.uniform(0, 0.5))

    def converge(self) -> bool:
        """End all faults and edits; True once the mirror serves just what the master has."""
        self.mirror.upstream.hub_faults.clear()
        deadline = time.monotonic() + CONVERGE_SECONDS
        while time.monotonic() < deadline:
            if self.mirror.served() == self.expected():
                return True
            time.sleep(0.1)
        return False

    def expected(self) -> dict[str, tuple[str, bytes | str]]:
        tree = model_tree(self.world.model)
        return {name: node for name, node in tree.items() if name in self.world.now}


def storm(tmp_path: Path, events: int, seed: int) -> None:
    chance = random.Random(seed)
    model = UpstreamModel()
    world = World(model, chance)
    with Upstream(model) as upstream, users_mirror(tmp_path, upstream) as mirror:
        mirror.settings |= RESTLESS
        directories = mirror.directories
        reader = Reader(world, directories.public / "users", directories.state, mirror.zdb)
        (mirror.directories.public / "users").mkdir()
        running = Storm(mirror, world, chance)
        running.start()
        reader.start()
        try:
            reader.await_first_tag()
            for _ in range(events):
                running.event()
                reader.await_look()
            converged = running.converge()
        finally:
            running.terminate()
            reader.stop()
        record = read_status(mirror.directories.state / "status.json")
        assert reader.faults == [], f"seed {seed}, {running.events}, {reader.faults[:9]}"
        assert converged, f"seed {seed}, {running.events}, {record}"
        assert reader.names_seen > 20 * events
        assert reader.tags_seen > events
        assert verify(mirror.spec(), mirror.directories, VerifyOptions(chunks=True)).problems == ()


def test_world_of_the_storm_has_no_two_contents_of_one_time() -> None:
    """No listing could tell them apart, and no answer about a link either."""
    contents: dict[float, set[bytes]] = {}
    model = UpstreamModel()
    world = World(model, random.Random(1))
    for _ in range(300):
        world.edit()
        for found in model.repositories.values():
            for node in found.nodes.values():
                if isinstance(node, File):
                    contents.setdefault(node.modified, set()).add(node.data)
    assert len(contents) > 50
    assert {len(alike) for alike in contents.values()} == {1}


def test_reader_of_the_storm_never_takes_a_link_for_the_file_that_it_replaced(
    tmp_path: Path,
) -> None:
    world = World(UpstreamModel(), random.Random(1))
    name = next(name for name in sorted(world.allowed) if name.endswith("/f1.flist"))
    file = world.model.repositories[name.split("/")[0]].nodes["f1.flist"]
    assert isinstance(file, File)
    world.allowed[name].add(digest("f0.flist"))
    served = tmp_path / "users" / name
    served.parent.mkdir(parents=True)
    other = served.with_name("f0.flist")
    other.write_bytes(b"what the link leads to")
    world.allowed[str(other.relative_to(tmp_path / "users"))] = {digest(other.read_bytes())}
    reader = Reader(world, tmp_path / "users", tmp_path, ZdbServer(world.model.store))
    done = threading.Event()

    def replace() -> None:
        while not done.is_set():
            (tmp_path / "next").write_bytes(file.data)
            (tmp_path / "next").replace(served)
            (tmp_path / "next").symlink_to("f0.flist")
            (tmp_path / "next").replace(served)

    replacing = threading.Thread(target=replace)
    replacing.start()
    for _ in range(2000):
        reader.walk()
    done.set()
    replacing.join()
    assert reader.faults == []
    assert reader.names_seen > 2000


def test_20_kills_and_faults_with_a_reader_that_sees_everything(tmp_path: Path) -> None:
    storm(tmp_path, events=20, seed=1)


@pytest.mark.soak
def test_300_kills_and_faults_with_a_reader_that_sees_everything(tmp_path: Path) -> None:
    storm(tmp_path, events=300, seed=int(time.time()))
