"""The services of the mirror's images: hub (read-only and writable) and bootstrap."""

import io
import json
import os
import signal
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.sandbox import node
from tests.sandbox.host.ports import free_port
from tests.sandbox.services import tokens, zflist
from tests.sandbox.services.disk import DiskTree
from tests.sandbox.services.http import HttpServer, Request, Response
from tests.sandbox.services.hub import Hub
from tests.sandbox.services.hub_api import HubApi, HubOptions
from tests.sandbox.services.pyconfig import ConfigError, load
from tests.sandbox.services.zdb import Settings, Store, ZdbServer
from tests.sandbox.tests.servers import ended, started
from tests.sandbox.upstream import UpstreamModel, standard_world
from tests.sandbox.upstream.nodes import Link, Node, Tag

PROJECT = Path(__file__).parents[3]
SEED = bytes(range(32))
ADMIN = "zdb-admin"


def _config(place: Path, zdb_port: int, **changes: Any) -> dict[str, Any]:
    config = {
        "backend-internal-host": "127.0.0.1",
        "backend-internal-port": zdb_port,
        "backend-internal-pass": ADMIN,
        "backend-internal-name": "default",
        "backend-public-host": "hub.example.org",
        "backend-public-port": 9900,
        "backend-public-name": "default",
        "public-website": "https://hub.example.org",
        "listen-addr": "127.0.0.1",
        "listen-port": 0,
        "official-repositories": ["tf-zos"],
        "userdata-root-path": str(place / "public"),
        "workdir-root-path": str(place / "work"),
        "readonly": False,
        "authentication": True,
        "iyo-callback": "",
        "iyo-clientid": "",
        "iyo-secret": "",
        "threebot-appid": "hub.example.org",
        "threebot-privatekey": "",
        "threebot-seed": SEED,
        "threebot-users-map": {},
        "guest-token": None,
        "debug": False,
    }
    return config | {name.replace("_", "-"): value for name, value in changes.items()}


@pytest.fixture
def zdb() -> Iterator[ZdbServer]:
    running = ZdbServer(Store(Settings(admin=ADMIN, protect=True))).start()
    yield running
    running.stop()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "public" / "users" / "tf-zos").mkdir(parents=True)
    (tmp_path / "work").mkdir()
    return tmp_path


@pytest.fixture
def hub(place: Path, zdb: ZdbServer) -> Iterator[HttpServer]:
    running = HttpServer(Hub(_config(place, zdb.port), zflist.run)).start()
    yield running
    running.stop()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "source"
    (root / "etc").mkdir(parents=True)
    (root / "etc" / "hostname").write_text("node\n")
    (root / "link").symlink_to("etc/hostname")
    return root


def _archive(source: Path) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        tar.add(source, arcname=".")
    return out.getvalue()


def _upload(hub: HttpServer, name: str, data: bytes) -> requests.Response:
    url, token = f"{hub.url}/api/flist/me/upload", tokens.mint(SEED, "alice.3bot")
    headers = {"Authorization": f"bearer {token}"}
    return requests.post(url, files={"file": (name, data)}, headers=headers, timeout=30)


# -- writable hub ------------------------------------------------------------------------------


def test_an_uploaded_directory_boots(hub: HttpServer, zdb: ZdbServer, source: Path) -> None:
    done = _upload(hub, "my-app.tar.gz", _archive(source))
    assert (done.status_code, done.json()["payload"]["name"]) == (200, "my-app.flist")
    names = node.Names()
    names.add("hub.example.org", 9900, f"127.0.0.1,{zdb.port}")
    mirror = node.Mirror(hub.url, plain_hub=hub.url, names=names)
    with node.Node(mirror) as client:
        assert client.boot("alice.3bot/my-app.flist", source).links == 1


def test_nothing_of_an_archive_comes_to_stand_outside(hub: HttpServer, place: Path) -> None:
    link, hard = tarfile.TarInfo("link"), tarfile.TarInfo("hard")
    link.type, link.linkname = tarfile.SYMTYPE, str(place)
    hard.type, hard.linkname = tarfile.LNKTYPE, "../../config.py"
    through = tarfile.TarInfo("link/outside")
    evil = ([tarfile.TarInfo("../outside")], [tarfile.TarInfo("/outside")], [link, through], [hard])
    for members in evil:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w:gz") as tar:
            for member in members:
                tar.addfile(member)
        assert _upload(hub, "evil.tar.gz", out.getvalue()).status_code == 200
    assert list(place.rglob("outside")) == []
    assert list((place / "work" / "distfiles").iterdir()) == []
    assert list((place / "work" / "temp").iterdir()) == []


# -- read-only hub -----------------------------------------------------------------------------


def test_the_mirrors_disk_answers_as_the_masters_model(place: Path, zdb: ZdbServer) -> None:
    model = UpstreamModel()
    standard_world(model)
    model.put_node("alice.3bot", "dangling.flist", Link("../none/x.flist", 1))
    users = place / "public" / "users"
    for repository, held in model.repositories.items():
        _write_nodes(users / repository, held.nodes)
        os.utime(users / repository, (held.modified, held.modified))
    disk = Hub(_config(place, zdb.port, readonly=True), zflist.run)
    master = HubApi(model.tree, HubOptions(official=("tf-zos",)))
    paths = ["/api/flist", "/api/fileslist", "/api/repositories", "/api/flist/none"]
    for repository, held in model.repositories.items():
        paths.append(f"/api/flist/{repository}")
        for name in held.nodes:
            paths += [f"/api/flist/{repository}/{name}/{kind}" for kind in ("light", "taglink")]
            paths += [f"/{repository}/{name}", f"/{repository}/{name}.md5"]
            tag = name.removeprefix(".tag-")
            paths += [f"/api/flist/{repository}/tags/{tag}", f"/{repository}/tags/{tag}/base.flist"]
    for path in paths:
        ours, theirs = (hub(Request("GET", path)) for hub in (disk, master))
        assert ours.status == theirs.status, path
        assert ours.headers == theirs.headers, path
        assert _body(ours) == _body(theirs), path


def test_one_name_that_vanishes_fails_the_whole_list(place: Path, monkeypatch: Any) -> None:
    tree = DiskTree(place / "public" / "users")
    monkeypatch.setattr(tree, "names", lambda _: ["gone.flist"])
    request = Request("GET", "/api/fileslist")
    assert HubApi(tree)(request).status == 500


def _body(response: Response) -> Any:
    data = response.content.read()
    if response.headers["Content-Type"] != "application/json":
        return data
    found = json.loads(data)
    lists = found.values() if isinstance(found, dict) else [found]
    for entry in [entry for entries in lists if isinstance(entries, list) for entry in entries]:
        if isinstance(entry, dict) and entry.get("type") == "taglink":
            entry["size"] = ""  # of a directory: the file system's own affair
    return found


def _write_nodes(directory: Path, nodes: dict[str, Node]) -> None:
    directory.mkdir(exist_ok=True)
    for name, found in nodes.items():
        place = directory / name
        if isinstance(found, Tag):
            _write_nodes(place, dict(found.links))
        elif isinstance(found, Link):
            place.symlink_to(found.target)
        else:
            place.write_bytes(found.data)
        os.utime(place, (found.modified, found.modified), follow_symlinks=False)


# -- processes ---------------------------------------------------------------------------------


def _written(path: Path, config: dict[str, Any]) -> Path:
    path.write_text(f"# a comment\nconfig = {config!r}\n")
    return path


def _service(name: str, config: Path) -> list[str]:
    return [sys.executable, "-m", f"tests.sandbox.services.{name}", "--config", str(config)]


def test_a_hub_starts_from_its_file_and_ends_on_sigterm(place: Path, zdb: ZdbServer) -> None:
    port = free_port()
    program = place / "zflist"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m tests.sandbox.services.zflist "$@"\n')
    program.chmod(0o755)
    changes = {"listen_port": port, "zflist_bin": str(program)}
    config = _written(place / "config.py", _config(place, zdb.port, **changes))
    process = started(_service("hub", config), port, PROJECT)
    try:
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    finally:
        ended(process)


def test_configuration_errors_are_named(tmp_path: Path, place: Path, zdb: ZdbServer) -> None:
    config = _config(place, zdb.port)
    del config["threebot-seed"]
    with pytest.raises(ConfigError, match="threebot-seed"):
        Hub(load(_written(tmp_path / "a.py", config)))
    (tmp_path / "b.py").write_text("config = open('x')")
    with pytest.raises(ConfigError, match="literal"):
        load(tmp_path / "b.py")
    (tmp_path / "c.py").write_text("other = {}")
    with pytest.raises(ConfigError, match="no `config"):
        load(tmp_path / "c.py")
