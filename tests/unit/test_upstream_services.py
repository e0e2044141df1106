"""The services of the mirror's images: hub (read-only and writable) and bootstrap."""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.sandbox import node
from tests.sandbox.flist import Flist
from tests.sandbox.host.ports import free_port
from tests.sandbox.services import tokens
from tests.sandbox.services.bootstrap import Bootstrap
from tests.sandbox.services.http import HttpServer, Request, Response
from tests.sandbox.services.hub import Hub
from tests.sandbox.services.hub_api import HubApi, HubOptions
from tests.sandbox.services.pyconfig import ConfigError, load
from tests.sandbox.services.zdb import Settings, Store, ZdbServer
from tests.sandbox.upstream import UpstreamModel, standard_world
from tests.sandbox.upstream.nodes import Link, Node, Tag
from tests.unit.zdb_wire import ended, started

PROJECT = Path(__file__).parents[2]
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
        "threebot-seed": SEED,
        "guest-token": "guest-token",
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
    running = HttpServer(Hub(_config(place, zdb.port))).start()
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


def _authorized(token: str = "") -> dict[str, str]:
    return {"Authorization": f"bearer {token or tokens.mint(SEED, 'alice.3bot')}"}


def _upload(hub: HttpServer, name: str, data: bytes, path: str = "upload") -> requests.Response:
    url = f"{hub.url}/api/flist/me/{path}"
    return requests.post(url, files={"file": (name, data)}, headers=_authorized(), timeout=30)


def _change(hub: HttpServer, path: str, method: str = "GET") -> requests.Response:
    url = f"{hub.url}/api/flist/me/{path}"
    return requests.request(method, url, headers=_authorized(), timeout=30)


def _listing(hub: HttpServer) -> dict[str, str]:
    entries = requests.get(f"{hub.url}/api/flist/alice.3bot", timeout=30).json()
    return {entry["name"]: entry.get("target", entry["type"]) for entry in entries}


# -- writable hub ------------------------------------------------------------------------------


def test_an_uploaded_directory_boots(hub: HttpServer, zdb: ZdbServer, source: Path) -> None:
    done = _upload(hub, "my-app.tar.gz", _archive(source))
    assert (done.status_code, done.json()["payload"]["name"]) == (200, "my-app.flist")
    names = node.Names()
    names.add("hub.example.org", 9900, f"127.0.0.1,{zdb.port}")
    mirror = node.Mirror(hub.url, plain_hub=hub.url, names=names)
    with node.Node(mirror) as client:
        assert client.boot("alice.3bot/my-app.flist", source).links == 1


def test_an_uploaded_flist_is_taken_only_with_its_chunks(
    hub: HttpServer, zdb: ZdbServer, source: Path
) -> None:
    _upload(hub, "app.tar.gz", _archive(source))
    flist = requests.get(f"{hub.url}/alice.3bot/app.flist", timeout=30).content
    assert _upload(hub, "copy.flist", flist, "upload-flist").status_code == 200
    for key in Flist.decode(flist).chunk_keys():
        zdb.store.delete(key)
    refused = _upload(hub, "broken.flist", flist, "upload-flist")
    assert refused.status_code == 500
    assert "not fully present" in refused.json()["message"]
    assert set(_listing(hub)) == {"app.flist", "copy.flist"}


def test_links_tags_renames_and_deletes(hub: HttpServer, place: Path, source: Path) -> None:
    _upload(hub, "app.tar.gz", _archive(source))
    for path in (
        "app/link/latest",
        "v1/app/tag/alice.3bot/app",
        "stable/crosstag/alice.3bot/v1",
        "copy/crosslink/alice.3bot/app",
        "copy/rename/renamed",
    ):
        assert _change(hub, path).status_code == 200, path
    users = place / "public" / "users" / "alice.3bot"
    shapes = {
        "latest.flist": "app.flist",
        ".tag-v1/app.flist": "../../alice.3bot/app.flist",
        "stable": "../alice.3bot/.tag-v1",
        "renamed.flist": "../alice.3bot/app.flist",
    }
    assert {name: str((users / name).readlink()) for name in shapes} == shapes
    assert (users / "renamed.flist").exists()
    assert _change(hub, "v1/app/tag/alice.3bot/app", "DELETE").status_code == 200
    assert not (users / ".tag-v1").exists()
    assert _change(hub, "app/link/renamed").status_code == 200
    for name in ("latest", "stable", "app"):
        assert _change(hub, name, "DELETE").status_code == 200, name
    assert _change(hub, "app", "DELETE").status_code == 404
    assert set(_listing(hub)) == {"renamed.flist"}


def test_archives_that_leave_their_directory_are_refused(hub: HttpServer, place: Path) -> None:
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
        refused = _upload(hub, "evil.tar.gz", out.getvalue())
        assert (refused.status_code, "leaves the archive" in refused.text) == (500, True)
    assert list(place.rglob("outside")) == []
    assert _upload(hub, "app.zip", b"").json()["message"] == "this file is not allowed"
    assert _upload(hub, "app.tar.gz", b"no archive").status_code == 500
    assert list((place / "work" / "distfiles").iterdir()) == []
    assert list((place / "work" / "temp").iterdir()) == []


def test_only_tokens_of_the_own_seed_open_the_hub(hub: HttpServer) -> None:
    url = f"{hub.url}/api/flist/me"
    assert requests.get(url, timeout=30).status_code == 401
    foreign = tokens.mint(bytes(32), "alice.3bot")
    assert requests.get(url, headers=_authorized(foreign), timeout=30).status_code == 401
    assert requests.get(url, headers={"Authorization": "basic x"}, timeout=30).status_code == 400
    own = requests.get(url, headers=_authorized(), timeout=30).json()
    assert own["payload"] == {"username": "alice.3bot"}
    guest = requests.get(url, headers=_authorized("guest-token"), timeout=30).json()
    assert guest["payload"] == {"username": "guest"}


def test_a_virtual_user_acts_for_its_owner(place: Path, zdb: ZdbServer) -> None:
    users_map = {"tf-zos": "alice.3bot", "tf-other": "bob.3bot"}
    config = _config(place, zdb.port, threebot_users_map=users_map)
    hub = HttpServer(Hub(config)).start()
    try:
        for virtual, seen in (("tf-zos", "tf-zos"), ("tf-other", "alice.3bot")):
            headers = {**_authorized(), "Cookie": f"a=b; active-user={virtual}"}
            answer = requests.get(f"{hub.url}/api/flist/me", headers=headers, timeout=30)
            assert answer.json()["payload"] == {"username": seen}
    finally:
        hub.stop()


# -- read-only hub -----------------------------------------------------------------------------


def test_a_read_only_hub_takes_nothing(place: Path, zdb: ZdbServer, source: Path) -> None:
    hub = HttpServer(Hub(_config(place, zdb.port, readonly=True))).start()
    try:
        refused = _upload(hub, "app.tar.gz", _archive(source))
        assert (refused.status_code, refused.json()["message"]) == (400, "readonly mode")
        assert _change(hub, "app", "DELETE").status_code == 400
        page = requests.get(f"{hub.url}/upload", allow_redirects=False, timeout=30)
        assert (page.status_code, page.headers["Location"]) == (302, "/readonly")
        repositories = requests.get(f"{hub.url}/api/repositories", timeout=30).json()
        assert [(r["name"], r["official"]) for r in repositories] == [("tf-zos", True)]
    finally:
        hub.stop()


def test_the_mirrors_disk_answers_as_the_masters_model(place: Path, zdb: ZdbServer) -> None:
    model = UpstreamModel()
    standard_world(model)
    model.put_node("alice.3bot", "dangling.flist", Link("../none/x.flist", 1))
    users = place / "public" / "users"
    for repository, held in model.repositories.items():
        _write_nodes(users / repository, held.nodes)
        os.utime(users / repository, (held.modified, held.modified))
    disk = Hub(_config(place, zdb.port, readonly=True))
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


# -- bootstrap ---------------------------------------------------------------------------------


@pytest.fixture
def bootstrap(tmp_path: Path) -> Iterator[HttpServer]:
    kernels = tmp_path / "kernels"
    (kernels / "net").mkdir(parents=True)
    (kernels / "a.efi").write_bytes(b"kernel a")
    (kernels / "net" / "prod.efi").symlink_to("../a.efi")
    config = {
        "api-token": "secret",
        "debug": False,
        "http-port": 0,
        "kernel-path": str(kernels),
        "kernel-net-path": str(kernels / "net"),
        "runmodes": {"prod": "production"},
    }
    running = HttpServer(Bootstrap(config)).start()
    yield running
    running.stop()


def test_kernels_and_net_links_come_from_the_directory(bootstrap: HttpServer) -> None:
    images = requests.get(f"{bootstrap.url}/api/images", timeout=30).json()
    assert [image["name"] for image in images] == ["a.efi"]
    for path in ("a.efi", "net/prod.efi"):
        assert requests.get(f"{bootstrap.url}/kernel/{path}", timeout=30).content == b"kernel a"
    assert requests.get(f"{bootstrap.url}/ipxe/prod/1", timeout=30).status_code == 200
    assert requests.get(f"{bootstrap.url}/kernel/%2e%2e/x", timeout=30).status_code == 404


def test_only_the_token_uploads_kernels(bootstrap: HttpServer, tmp_path: Path) -> None:
    url = f"{bootstrap.url}/api/kernel"
    files = {"kernel": ("../../b.efi", b"kernel b")}
    for cookies in ({}, {"token": "wrong"}):
        refused = requests.post(url, files=files, cookies=cookies, timeout=30)
        assert refused.json()["status"] == "error"
    cookies = {"token": "secret"}
    assert requests.post(url, files=files, cookies=cookies, timeout=30).json() == {
        "status": "success"
    }
    assert (tmp_path / "kernels" / "b.efi").read_bytes() == b"kernel b"
    assert not (tmp_path.parent / "b.efi").exists()
    link = f"{bootstrap.url}/api/symlink/now.efi/b.efi"
    assert requests.get(link, timeout=30).json()["status"] == "error"
    assert requests.get(link, cookies=cookies, timeout=30).json()["status"] == "success"
    assert requests.get(f"{bootstrap.url}/kernel/now.efi", timeout=30).content == b"kernel b"


# -- processes ---------------------------------------------------------------------------------


def _written(path: Path, config: dict[str, Any]) -> Path:
    path.write_text(f"# a comment\nconfig = {config!r}\n")
    return path


def _service(name: str, config: Path) -> list[str]:
    return [sys.executable, "-m", f"tests.sandbox.services.{name}", "--config", str(config)]


def test_a_hub_without_its_0_db_does_not_start(place: Path) -> None:
    config = _written(place / "config.py", _config(place, free_port()))
    done = subprocess.run(
        _service("hub", config), cwd=PROJECT, capture_output=True, timeout=30, check=False
    )
    assert done.returncode == 1
    assert b"does not answer" in done.stderr


def test_a_hub_starts_from_its_file_and_ends_on_sigterm(place: Path, zdb: ZdbServer) -> None:
    port = free_port()
    config = _written(place / "config.py", _config(place, zdb.port, listen_port=port))
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
