"""At every moment of a first sync, whatever is listed boots, with the master cut off."""

import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from sync.agent.job import PassIncompleteError
from sync.agent.master.client import EndpointLostError, HttpError
from sync.agent.zdb.errors import ZdbError
from sync.contract.spec import ZdbEndpoint
from tests.agent.hub.flists_of import small
from tests.agent.mirrors import UsersMirror, model_tree, users_mirror
from tests.sandbox.node import Mirror, Node, NodeError
from tests.sandbox.services.disk import DiskTree
from tests.sandbox.services.http import HttpServer
from tests.sandbox.services.hub_api import HubApi, HubOptions
from tests.sandbox.upstream import Fault, Upstream, UpstreamModel

OLD = 1_700_000_000.0
FLISTS = 12


def make_model(source: Path) -> UpstreamModel:
    """Flists of real directories, so that what boots can be compared byte for byte."""
    model = UpstreamModel()
    model.now = lambda: OLD
    for number in range(FLISTS):
        folder = source / f"app-{number}"
        (folder / "bin").mkdir(parents=True)
        for file in range(4):
            (folder / "bin" / f"f{file}").write_bytes(bytes([number, file]) * 4000)
        repository = "tf-zos" if number % 2 else "alice"
        model.add_flist(repository, f"app-{number}.flist", folder)
    model.set_link("alice", "latest.flist", "tf-zos/app-3.flist")
    model.set_tag(
        "tf-zos", "3", {"app.flist": "tf-zos/app-5.flist", "b.flist": "alice/app-2.flist"}
    )
    model.set_taglink("tf-zos", "production", "tf-zos", "3")
    return model


@contextmanager
def mirror_hub(mirror: UsersMirror) -> Iterator[Node]:
    """Serve the mirror's folder as its hub does; yields a node."""
    hub = HttpServer(HubApi(DiskTree(mirror.directories.public / "users"), HubOptions()))
    hub.start()
    try:
        with Node(Mirror(hub.url, plain_hub=hub.url)) as node:
            yield node
    finally:
        hub.stop()


@pytest.fixture
def source() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def own_backend(mirror: UsersMirror) -> ZdbEndpoint:
    return ZdbEndpoint(host=mirror.zdb.address, port=mirror.zdb.port)


def boot_all(node: Node, model: UpstreamModel) -> int:
    """Boot everything that the mirror lists; returns how much that was."""
    names = node.bootable()
    for name in names:
        node.boot(name, model.sources.get(name))
    return len(names)


def boot_while_it_changes(node: Node, name: str) -> None:
    """Boot; a flist that was replaced between its file and its MD5 is asked for again."""
    for _ in range(FLISTS):
        try:
            node.boot(name)
        except NodeError as error:
            if "the MD5 is not" not in str(error):
                raise
        else:
            return
    raise AssertionError(f"{name}: its MD5 is never that of its file")


@pytest.mark.parametrize("requests", [0, 1, 3, 8, 13, 20, 26])
def test_whatever_is_published_when_the_master_goes_boots(
    requests: int, source: Path, tmp_path: Path
) -> None:
    model = make_model(source)
    with Upstream(model) as upstream, users_mirror(tmp_path, upstream) as mirror:
        mirror.settings |= {"publish_backend": own_backend(mirror), "http": {"connections": 2}}
        upstream.hub_faults.add(Fault("reset", after=requests, at_byte=0))
        with suppress(EndpointLostError, HttpError, PassIncompleteError, ZdbError):
            mirror.one_pass()
        upstream.stop()
        with mirror_hub(mirror) as node:
            booted = boot_all(node, model)
    # The listing, the tag's contents and each of four links cost one request, every flist two.
    assert booted >= (requests - 6) // 2 - 1


def test_every_moment_of_a_first_sync_and_of_an_update_boots(source: Path, tmp_path: Path) -> None:
    model = make_model(source)
    with Upstream(model) as upstream, users_mirror(tmp_path, upstream) as mirror:
        mirror.settings |= {"publish_backend": own_backend(mirror), "http": {"connections": 1}}
        upstream.hub_faults.add(Fault("slow", r".*\.flist", bytes_per_second=20_000))
        failed: list[BaseException] = []

        def sync() -> None:
            try:
                mirror.one_pass()
                upstream.hub_faults.clear()
                for number in range(FLISTS):
                    repository = "tf-zos" if number % 2 else "alice"
                    model.change_flist(repository, f"app-{number}.flist", small(number))
                mirror.one_pass()
            except BaseException as error:  # noqa: BLE001 - raised by the test
                failed.append(error)

        running = threading.Thread(target=sync)
        running.start()
        counts = set()
        with mirror_hub(mirror) as node:
            while running.is_alive():
                names = node.bootable()
                counts.add(len(names))
                for name in names:
                    boot_while_it_changes(node, name)
            running.join()
            assert not failed
            assert boot_all(node, model) == FLISTS + 1 + 2
        assert len(counts) > 2, "it was watched while it grew"
        assert mirror.served().keys() == model_tree(model).keys()
