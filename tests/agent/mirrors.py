"""A users or kernels mirror in a temporary directory, driven pass by pass by a test."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from sync.agent.hub.engine import UsersEngine
from sync.agent.job import Control, Directories
from sync.agent.status_writer import StatusWriter, first_record
from sync.contract.layout import Job
from sync.contract.spec import Backoff, KernelsHttpLimits, KernelsSpec, UsersSpec, ZdbEndpoint
from sync.contract.status import StatusRecord
from tests.sandbox.services.zdb import Settings, Store, ZdbServer
from tests.sandbox.upstream import Upstream, UpstreamModel
from tests.sandbox.upstream.nodes import File, Link, Tag

PASSWORD = "mirror-admin"
QUICK = Backoff(first_seconds=0.01, longest_seconds=0.05)
QUICK_HTTP = KernelsHttpLimits(connections=8, connect_timeout_seconds=2, read_timeout_seconds=2)
MIRROR = ZdbEndpoint(host="mirror.example", port=9900)

Served = tuple[str, bytes | str]


def make_directories(root: Path) -> Directories:
    """Make a job's directories below `root`."""
    names = ("spec", "state", "secrets", "public", "kernels", "users_state")
    for name in names:
        (root / name).mkdir(parents=True, exist_ok=True)
    directories = Directories(**{name: root / name for name in names})
    (directories.secrets / "zdb-admin").write_text(PASSWORD)
    return directories


def make_status(job: Job, directories: Directories, source: str) -> StatusWriter:
    """Return a status writer with a fresh record."""
    record = first_record(job, source, "test")
    return StatusWriter(directories.state / "status.json", record)


def served_tree(public: Path) -> dict[str, Served]:
    """Return all that a hub would serve from a folder: files with bytes, links with their text."""
    tree: dict[str, Served] = {}
    for folder, folders, files in os.walk(public / "users"):
        for name in [*folders, *files]:
            path = Path(folder, name)
            relative = str(path.relative_to(public / "users"))
            if path.is_symlink():
                tree[relative] = ("link", str(path.readlink()))
            elif path.is_file():
                tree[relative] = ("file", path.read_bytes())
    return tree


def names_in(folder: Path) -> list[str]:
    """Return the names in a folder, sorted."""
    return sorted(path.name for path in folder.iterdir())


def model_tree(model: UpstreamModel) -> dict[str, Served]:
    """Return what a perfect mirror of the model serves (its backend not rewritten)."""
    tree: dict[str, Served] = {}
    with model.lock:
        for repository, found in model.repositories.items():
            for name, node in found.nodes.items():
                if isinstance(node, Tag):
                    for inner, link in node.links.items():
                        tree[f"{repository}/{name}/{inner}"] = ("link", link.target)
                elif isinstance(node, Link):
                    tree[f"{repository}/{name}"] = ("link", node.target)
                elif isinstance(node, File) and name.endswith(".flist"):
                    tree[f"{repository}/{name}"] = ("file", node.data)
    return tree


@dataclass
class UsersMirror:
    """A mirror of an upstream's hub with a 0-db of its own."""

    directories: Directories
    upstream: Upstream
    zdb: ZdbServer
    settings: dict[str, Any] = field(default_factory=dict)
    control: Control = field(default_factory=Control)

    def spec(self) -> UsersSpec:
        hub, zdb = self.upstream.hub, self.upstream.zdb
        values: dict[str, Any] = {
            "stack": "test",
            "sources": [f"http://{hub.address}:{hub.port}"],
            "sources_zdb": [ZdbEndpoint(host=zdb.address, port=zdb.port)],
            "local_zdb": ZdbEndpoint(host=self.zdb.address, port=self.zdb.port),
            "backoff": QUICK,
            "http": QUICK_HTTP,
            "free_space_floor_bytes": 0,
        }
        return UsersSpec(**(values | self.settings))

    @contextmanager
    def engine(self) -> Iterator[tuple[UsersEngine, StatusWriter]]:
        """Yield an engine as a fresh process would have it."""
        spec = self.spec()
        status = make_status("users", self.directories, spec.source)
        try:
            with UsersEngine(spec, self.directories, status, self.control) as engine:
                yield engine, status
        finally:
            status.close()

    def one_pass(self) -> StatusRecord:
        """Run one pass in a fresh engine; returns the record."""
        with self.engine() as (engine, status):
            engine.one_pass()
            return status.record

    def served(self) -> dict[str, Served]:
        return served_tree(self.directories.public)

    def local_keys(self) -> set[bytes]:
        return set(self.zdb.store.default.keys())

    def close(self) -> None:
        self.zdb.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def dangling(mirror: UsersMirror) -> list[str]:
    """Return the served links that lead nowhere."""
    users = mirror.directories.public / "users"
    return [str(path) for path in users.rglob("*") if path.is_symlink() and not path.exists()]


def users_mirror(root: Path, upstream: Upstream, **settings: Any) -> UsersMirror:
    """Return a new, empty mirror below `root`."""
    zdb = ZdbServer(Store(Settings(admin=PASSWORD, protect=True)))
    zdb.start()
    return UsersMirror(make_directories(root), upstream, zdb, settings)


def kernels_spec(upstream: Upstream, **settings: Any) -> KernelsSpec:
    """Return a kernels spec for an upstream."""
    bootstrap = upstream.bootstrap
    values: dict[str, Any] = {
        "stack": "test",
        "sources": [f"http://{bootstrap.address}:{bootstrap.port}"],
        "backoff": QUICK,
        "http": QUICK_HTTP,
        "free_space_floor_bytes": 0,
    }
    return KernelsSpec(**(values | settings))
