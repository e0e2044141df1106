"""What the release before wrote to a host is taken over: nothing is fetched again or removed."""

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from sync.agent.status_writer import read_status
from sync.contract import pinned_chunks
from sync.contract.layout import JOBS, Job, job_spec_dir, job_state_dir
from sync.contract.status import StatusRecord
from tests.agent.chunks.chunks_mirror import PASSWORD, content
from tests.agent.mirrors import Served, served_tree
from tests.bench.servers import ZdbProcess
from tests.sandbox.host.processes import wait_until
from tests.sandbox.services.http import Connection, HttpServer, Request, Response
from tests.sandbox.upstream import Upstream, UpstreamModel
from tests.sandbox.upstream.nodes import File, Link, Node, Tag

STATES: Final = Path(__file__).parents[1] / "golden" / "states"
LINKED_AT: Final = 1_700_000_000.0  # tar keeps no times of links
LONGEST_WAIT_SECONDS: Final = 60.0


@dataclass
class Stack:
    """A data root of the release before, with its master. asked: (method, path) of requests."""

    root: Path
    master: ZdbProcess
    slave: ZdbProcess
    asked: list[tuple[str, str]]

    def state(self, job: Job) -> Path:
        return self.root / job_state_dir(job)

    def record(self, job: Job) -> StatusRecord:
        record = read_status(self.state(job) / "status.json")
        assert record is not None, f"the record of {job} cannot be read"
        return record

    def served(self) -> dict[str, Served]:
        """Return all that a node can get: flists, links, kernels."""
        kernels = self.root / "0-bootstrap" / "kernels"
        found: dict[str, Served] = dict(served_tree(self.root / "0-hub_public"))
        for path in kernels.rglob("*"):
            if path.is_symlink():
                found[f"kernel {path.relative_to(kernels)}"] = ("link", str(path.readlink()))
            elif path.is_file():
                found[f"kernel {path.relative_to(kernels)}"] = ("file", path.read_bytes())
        return found

    def pinned(self) -> set[bytes]:
        with closing(sqlite3.connect(self.state("users") / pinned_chunks.FILE)) as database:
            return {key for (key,) in database.execute("SELECT key FROM chunk")}

    def next_pass(self, job: Job) -> StatusRecord:
        """Run the agent of today until a pass is complete; returns the record of then."""
        before = self.record(job).last_success_at
        assert before is not None
        command = [sys.executable, "-m", "sync.agent", "run", job]
        for name, folder in {
            "spec": job_spec_dir(job),
            "state": job_state_dir(job),
            "secrets": f"secrets/{job}",
            "public": "0-hub_public",
            "kernels": "0-bootstrap/kernels",
            "users-state": job_state_dir("users"),
        }.items():
            command += [f"--{name}-dir", str(self.root / folder)]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            try:
                return self._await_pass(job, before)
            finally:
                process.terminate()

    def _await_pass(self, job: Job, before: object) -> StatusRecord:
        wait_until(
            lambda: self.record(job).last_success_at != before,
            f"a pass of {job}",
            LONGEST_WAIT_SECONDS,
        )
        return self.record(job)


def node_at(path: Path) -> Node:
    """Return what the master has where the mirror has this."""
    if path.is_symlink():
        return Link(str(path.readlink()), LINKED_AT)
    modified = path.stat().st_mtime
    if path.is_dir():
        return Tag(
            {entry.name: Link(str(entry.readlink()), LINKED_AT) for entry in path.iterdir()},
            modified,
        )
    return File(path.read_bytes(), modified)


def master_of(root: Path) -> UpstreamModel:
    """Return a master that has just what a data root serves."""
    model = UpstreamModel()
    for path in (root / "0-hub_public" / "users").glob("*/*"):
        model.put_node(path.parent.name, path.name, node_at(path))
    kernels = root / "0-bootstrap" / "kernels"
    for path in kernels.iterdir():
        if path.is_file() and not path.is_symlink():
            model.add_kernel(path.name, path.read_bytes(), path.stat().st_mtime)
    for path in kernels.iterdir():
        if path.is_symlink():
            model.set_kernel_link(path.name, str(path.readlink()))
    for path in (kernels / "net").iterdir():
        model.set_net_link(path.stem, path.readlink().name)
    return model


def unpack(archive: Path, root: Path) -> None:
    shutil.unpack_archive(archive, root)
    for path in root.rglob("*"):
        if path.is_symlink():
            os.utime(path, (LINKED_AT, LINKED_AT), follow_symlinks=False)


def rename_ports(root: Path, ports: dict[str, int]) -> None:
    """Let specs and states name the servers by the ports that they have now."""
    before: dict[str, int] = json.loads((root / "ports.json").read_text())
    new = {str(port): str(ports[name]) for name, port in before.items()}
    for path in (root / "sync").rglob("*.json"):
        text = path.read_text()
        path.write_text(re.sub(r"\d+", lambda found: new.get(found[0], found[0]), text))


def note_requests(server: HttpServer, asked: list[tuple[str, str]]) -> None:
    inner = server.deliver

    def deliver(connection: Connection, request: Request, response: Response) -> bool:
        asked.append((request.method, request.path))
        return bool(inner(connection, request, response))

    server.deliver = deliver


@pytest.fixture(params=sorted(STATES.glob("*.tar.gz")), ids=lambda path: path.name)
def stack(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stack]:
    unpack(request.param, tmp_path)
    with ExitStack() as servers:
        upstream = servers.enter_context(Upstream(master_of(tmp_path)))
        master, slave = (
            servers.enter_context(ZdbProcess(tmp_path / name, admin=admin, stand_in=True))
            for name, admin in (("master-0-db", None), ("0-db", PASSWORD))
        )
        ports = {"hub": upstream.hub.port, "bootstrap": upstream.bootstrap.port}
        rename_ports(tmp_path, {**ports, "master-0-db": master.port, "0-db": slave.port})
        made = Stack(tmp_path, master, slave, [])
        for server in (upstream.hub, upstream.bootstrap):
            note_requests(server, made.asked)
        yield made


def test_the_data_root_of_the_release_before_is_taken_over(stack: Stack) -> None:
    served, pinned = stack.served(), stack.pinned()
    reached = {job: stack.record(job) for job in JOBS}
    with stack.slave.connect() as slave:
        stored = content(slave)
    for job in JOBS:
        record = stack.next_pass(job)
        assert record.first_pass_at == reached[job].first_pass_at
        assert record.bootable_at == reached[job].bootable_at
        assert (record.done, record.lag.items) == (reached[job].done, 0)
        assert (record.errors, record.refused, record.broken) == (
            [],
            reached[job].refused,
            reached[job].broken,
        )
        assert record.master.identity == reached[job].master.identity
        assert record.details.get("received_bytes", 0) == 0
        assert record.details.get("copied_items", 0) == 0
    assert stack.served() == served
    assert stack.pinned() == pinned
    with stack.slave.connect() as slave:
        assert content(slave) == stored
    assert {("GET", "/api/fileslist"), ("GET", "/api/images")} <= {*stack.asked}
    files = [path for method, path in stack.asked if method == "GET" and "/api/" not in path]
    assert files == []
