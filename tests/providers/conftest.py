"""A mirror host for provider tests: Docker on this machine, reached locally or by SSH."""

import io
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import docker
import pytest
from docker.errors import ImageNotFound
from rich.console import Console

from sync.contract import layout
from sync.providers.base import HostInputs, Model
from sync.providers.host import cache
from sync.providers.host.connection import HostConnection
from sync.providers.preflight import probe
from tests.sandbox.host import dockerd, images, sshd
from tests.sandbox.services.zdb import Settings, Store, ZdbServer

ModelT = TypeVar("ModelT", bound=Model)
# What a diff's `changes` is where an input differs: the engine finds which, and shows no other.
ENGINE_COMPARES = None


@pytest.fixture(scope="session")
def engine_url() -> str:
    engine = dockerd.find()
    if engine is None:
        pytest.skip("no Docker Engine answers")
    return engine.url


@pytest.fixture(scope="session")
def helper_image(engine_url: str) -> str:
    python = images.reference("python")
    client = docker.DockerClient(base_url=engine_url, timeout=60)
    try:
        client.images.get(python)
    except ImageNotFound:
        images.ensure(engine_url, Console(file=io.StringIO()))
    finally:
        client.close()
    return python


@pytest.fixture
def local_host(engine_url: str, helper_image: str) -> dict[str, str]:
    return {"dockerHost": engine_url, "helperImage": helper_image}


@pytest.fixture
def data_root() -> Iterator[str]:
    # Passable for all, as /srv is: an unprivileged user reads the jobs' records below it. Pytest's
    # own temporary folders are closed, and closed again by every pytest that starts.
    with tempfile.TemporaryDirectory(
        prefix="gridhub-providers-", ignore_cleanup_errors=True
    ) as folder:
        Path(folder).chmod(0o755)
        yield f"{folder}/srv"


@pytest.fixture(autouse=True)
def nothing_remembered() -> Iterator[None]:
    yield
    cache.invalidate()


@pytest.fixture(scope="session")
def ssh_server(engine_url: str) -> Iterator[sshd.Sshd]:
    if reason := sshd.missing():
        pytest.skip(reason)
    socket_path = Path(engine_url.removeprefix("unix://"))
    if socket_path.resolve().stat().st_gid == 0:
        pytest.skip(f"{socket_path} belongs to group root: there is no docker group to join")
    member, stranger = f"hub-in-{os.getpid()}", f"hub-out-{os.getpid()}"
    with ExitStack() as stack:
        stack.enter_context(sshd.temporary_user(member, socket_path=socket_path))
        stack.enter_context(sshd.temporary_user(stranger, socket_path=None))
        settings = sshd.SshdSettings(("root", member, stranger), docker_host=engine_url)
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="gridhub-sshd-"))
        yield stack.enter_context(sshd.running(Path(directory), settings))


@pytest.fixture
def docker_member(ssh_server: sshd.Sshd) -> str:
    return next(name for name in ssh_server.users if name.startswith("hub-in-"))


@pytest.fixture
def stranger(ssh_server: sshd.Sshd) -> str:
    return next(name for name in ssh_server.users if name.startswith("hub-out-"))


def changed(model: ModelT, **changes: Any) -> ModelT:
    """Return a model with some fields changed; they are validated anew."""
    return type(model).model_validate({**dict(model), **changes})


def connection(host: Mapping[str, str]) -> HostConnection:
    """Return the connection that a resource's `host` input gives."""
    return HostInputs.model_validate({"host": host, "root": "/srv"}).host


def directories(host: Mapping[str, str], root: str) -> dict[str, Any]:
    """Return inputs of HostDirectories: the whole layout, numbers as the engine gives them."""
    listed = [
        {"path": entry.path, "uid": float(entry.uid), "mode": float(entry.mode)}
        for entry in layout.directories(hub_writes=False)
    ]
    return {"host": dict(host), "root": root, "directories": listed, "purge": True}


@pytest.fixture
def zdb() -> Iterator[ZdbServer]:
    """Provide a protected 0-db with 1234 keys."""
    server = ZdbServer(Store(Settings(admin="theirs", protect=True)))
    server.store.default.set_many([(b"%016d" % number, b"x", 1) for number in range(1234)])
    server.start()
    yield server
    server.stop()


def zdb_asked(zdb: ZdbServer, namespace: str = "default") -> probe.Upstream:
    """Return how preflight names a master's 0-db to the probe."""
    return {"name": "zdb", "host": zdb.address, "port": zdb.port, "namespace": namespace}
