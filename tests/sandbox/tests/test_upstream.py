"""The master stand-in shows what a real hub and bootstrap server show, and every edit of it."""

import hashlib
import re
import socket
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.sandbox.flist import Flist, pack_directory
from tests.sandbox.services.bootstrap_api import BootstrapOptions
from tests.sandbox.services.hub_api import HubOptions
from tests.sandbox.services.zdb_client import ErrorReply, Wire
from tests.sandbox.upstream import Fault, Upstream, UpstreamModel, standard_world
from tests.sandbox.upstream.nodes import File, Link

MOMENT = 1_700_000_000.75


@pytest.fixture(scope="module")
def filled() -> UpstreamModel:
    model = UpstreamModel()
    standard_world(model)
    return model


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "source"
    root.mkdir()
    (root / "file").write_bytes(b"content" * 100)
    return root


@pytest.fixture
def upstream(source: Path) -> Iterator[Upstream]:
    model = UpstreamModel()
    model.add_flist("repo", "one.flist", source, MOMENT)
    model.set_link("repo", "link.flist", "one.flist")
    model.set_link("other", "cross.flist", "repo/one.flist")
    model.set_tag("repo", "v1", {"a.flist": "repo/one.flist"})
    model.set_taglink("other", "stable", "repo", "v1")
    model.add_kernel("old.efi", b"old kernel", MOMENT)
    model.add_kernel("new.efi", b"new kernel", MOMENT + 100)
    model.set_net_link("prod", "old.efi")
    with Upstream(model) as running:
        yield running


def _json(url: str) -> Any:
    answer = requests.get(url, timeout=10)
    assert answer.status_code == 200, url
    assert answer.headers["Content-Type"] == "application/json"
    return answer.json()


def _entries(upstream: Upstream, repository: str = "repo") -> dict[str, Any]:
    listing = _json(f"{upstream.hub.url}/api/fileslist")
    return {entry["name"]: entry for entry in listing.get(repository, [])}


# -- the standard world ------------------------------------------------------------------------


def test_the_world_has_what_a_mirror_must_cope_with(filled: UpstreamModel) -> None:
    nodes = [node for held in filled.repositories.values() for node in held.nodes.values()]
    links = [node for node in nodes if isinstance(node, Link)]
    assert len(filled.flists()) >= 12
    assert len(filled.repositories) == 5
    assert any("/.tag-" in link.target for link in links)
    assert any(link.target.startswith("../") and "/.tag-" not in link.target for link in links)
    assert len(filled.kernels) == 8
    assert sorted(filled.net_links) == ["dev", "prod", "qa", "test"]


def test_every_chunk_that_the_world_names_is_there_and_proves_itself(filled: UpstreamModel) -> None:
    default = filled.store.default
    for path in filled.flists():
        for key in filled.chunk_keys(*path.split("/")):
            payload = default.payload(key)
            assert payload is not None
            assert hashlib.blake2b(payload, digest_size=16).digest() == key


# -- hub ---------------------------------------------------------------------------------------


def test_fileslist_describes_the_four_kinds(upstream: Upstream) -> None:
    entries = _entries(upstream)
    size = f"{len(upstream.model.repositories['repo'].nodes['one.flist'].data) / 1024:.2f} KB"  # type: ignore[union-attr]
    assert entries["one.flist"] == {
        "name": "one.flist",
        "size": size,
        "updated": int(MOMENT),
        "type": "regular",
    }
    assert entries["link.flist"]["target"] == "one.flist"
    assert entries["link.flist"]["updated"] == int(MOMENT)
    assert entries["link.flist"]["linktime"] > MOMENT
    assert entries["v1"]["type"] == "tag"
    others = _entries(upstream, "other")
    assert others["cross.flist"]["target"] == "repo/one.flist"
    assert others["stable"]["type"] == "taglink"
    assert others["stable"]["target"] == "repo/tags/v1"


def test_light_gives_exact_size_and_md5(upstream: Upstream) -> None:
    data = requests.get(f"{upstream.hub.url}/repo/one.flist", timeout=10).content
    for name in ("one.flist", "one", "link.flist"):
        light = _json(f"{upstream.hub.url}/api/flist/repo/{name}/light")
        assert light["size"] == len(data)
        assert light["md5"] == hashlib.md5(data).hexdigest()
    digest = requests.get(f"{upstream.hub.url}/repo/link.flist.md5", timeout=10).text
    assert digest == hashlib.md5(data).hexdigest() + "\n"


def test_tags_and_taglinks(upstream: Upstream) -> None:
    url = upstream.hub.url
    assert [e["target"] for e in _json(f"{url}/api/flist/repo/tags/v1")] == ["repo/one.flist"]
    assert _json(f"{url}/api/flist/other/stable/taglink") == {"target": "repo/tags/v1"}
    assert requests.get(f"{url}/repo/tags/v1/a.flist", timeout=10).status_code == 200
    assert requests.get(f"{url}/repo/tags/v1/a.flist.md5", timeout=10).status_code == 404


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/repo/none.flist", 404),
        ("/none/one.flist", 404),
        ("/repo/one.json", 500),
        ("/api/flist/none", 404),
        ("/api/flist/repo/none/light", 404),
        ("/api/flist/repo/one/taglink", 404),
    ],
)
def test_failures_are_upstreams(upstream: Upstream, path: str, status: int) -> None:
    assert requests.get(upstream.hub.url + path, timeout=10).status_code == status


def test_the_parent_directory_is_listed(upstream: Upstream) -> None:
    with socket.create_connection(("127.0.0.1", upstream.hub.port), 10) as sock:
        sock.sendall(b"GET /api/flist/.. HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = sock.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(b"\r\n\r\n[]\n")


def test_conditional_and_ranged_downloads(upstream: Upstream) -> None:
    url = f"{upstream.hub.url}/repo/one.flist"
    whole = requests.get(url, timeout=10)
    since = {"If-Modified-Since": whole.headers["Last-Modified"]}
    assert requests.get(url, headers=since, timeout=10).status_code == 304
    part = requests.get(url, headers={"Range": "bytes=10-19"}, timeout=10)
    assert (part.status_code, part.content) == (206, whole.content[10:20])
    assert part.headers["Content-Range"] == f"bytes 10-19/{len(whole.content)}"
    stale = {"Range": "bytes=10-", "If-Range": "Mon, 01 Jan 2001 00:00:00 GMT"}
    assert requests.get(url, headers=stale, timeout=10).content == whole.content
    beyond = requests.get(url, headers={"Range": "bytes=999999-"}, timeout=10)
    assert (beyond.status_code, beyond.headers["Content-Range"]) == (
        416,
        f"bytes */{len(whole.content)}",
    )
    head = requests.head(url, timeout=10)
    assert (head.content, head.headers["Content-Length"]) == (b"", str(len(whole.content)))
    assert "ETag" not in whole.headers


def test_a_newer_hub_has_etags_and_a_conditional_compressed_list(source: Path) -> None:
    model = UpstreamModel()
    model.add_flist("repo", "one.flist", source)
    options = HubOptions(etag=True, fileslist_conditional=True, fileslist_gzip=True)
    with Upstream(model, hub_options=options) as upstream:
        listing = requests.get(f"{upstream.hub.url}/api/fileslist", timeout=10)
        assert listing.headers["Content-Encoding"] == "gzip"
        known = {"If-None-Match": listing.headers["ETag"]}
        url = f"{upstream.hub.url}/api/fileslist"
        assert requests.get(url, headers=known, timeout=10).status_code == 304
        model.delete_flist("repo", "one.flist")
        assert requests.get(url, headers=known, timeout=10).status_code == 200


def test_requests_are_counted_by_endpoint(upstream: Upstream) -> None:
    with requests.Session() as session:
        for _ in range(3):
            session.get(f"{upstream.hub.url}/repo/one.flist", timeout=10)
        session.get(f"{upstream.hub.url}/api/fileslist", timeout=10)
    assert upstream.hub.requests == {"/REPO/F.flist": 3, "/api/fileslist": 1}


# -- edits -------------------------------------------------------------------------------------


def test_an_overwrite_in_place_leaves_the_directorys_time(upstream: Upstream, source: Path) -> None:
    held = upstream.model.repositories["repo"]
    held.modified = MOMENT
    before = _entries(upstream)["one.flist"]
    (source / "file").write_bytes(b"other")
    upstream.model.change_flist("repo", "one.flist", source)
    assert held.modified == MOMENT
    assert _entries(upstream)["one.flist"] != before
    upstream.model.change_flist("repo", "one.flist", source, in_place=False, modified=MOMENT - 9)
    assert held.modified > MOMENT
    assert _entries(upstream)["one.flist"]["updated"] == int(MOMENT - 9)


def test_renames_deletes_and_retargets_show(upstream: Upstream, source: Path) -> None:
    model = upstream.model
    model.add_flist("repo", "two.flist", source)
    model.retarget_tag("repo", "v1", "a.flist", "repo/two.flist")
    tag = _json(f"{upstream.hub.url}/api/flist/repo/tags/v1")
    assert tag[0]["target"] == "repo/two.flist"
    model.rename_flist("repo", "two.flist", "three.flist")
    model.rename_repository("other", "another")
    model.delete_flist("repo", "link.flist")
    assert set(_entries(upstream)) == {"one.flist", "three.flist", "v1"}
    assert set(_json(f"{upstream.hub.url}/api/fileslist")) == {"another", "repo"}
    model.clear_repositories()
    assert _json(f"{upstream.hub.url}/api/fileslist") == {}


def test_a_dangling_link_is_listed_but_not_served(upstream: Upstream) -> None:
    upstream.model.delete_flist("repo", "one.flist")
    assert _entries(upstream)["link.flist"]["size"] == "0.01 KB"
    light = _json(f"{upstream.hub.url}/api/flist/repo/link.flist/light")
    assert light["md5"] is None
    assert requests.get(f"{upstream.hub.url}/repo/link.flist", timeout=10).status_code == 404


def test_hostile_names_are_listed_as_they_are(upstream: Upstream) -> None:
    names = ["../../etc/cron.d/x.flist", "/etc/passwd", "a\0b.flist", "x" * 300 + ".flist", ".."]
    for name in names:
        upstream.model.put_node("repo", name, File(b"evil", MOMENT))
    upstream.model.put_node("../outside", "x.flist", Link("/etc/passwd", MOMENT))
    upstream.model.put_node("repo", "loop.flist", Link("loop.flist", MOMENT))
    listing = _json(f"{upstream.hub.url}/api/fileslist")
    assert set(names) < {entry["name"] for entry in listing["repo"]}
    assert listing["../outside"][0]["target"] == "/etc/passwd"
    assert requests.get(f"{upstream.hub.url}/repo/loop.flist", timeout=10).status_code == 404


def test_a_chain_of_links_ends_as_on_a_file_system(upstream: Upstream) -> None:
    upstream.model.set_link("repo", "l1.flist", "one.flist")
    for number in range(2, 42):
        upstream.model.set_link("repo", f"l{number}.flist", f"l{number - 1}.flist")
    for name, status in (("l40", 200), ("l41", 404)):
        answer = requests.head(f"{upstream.hub.url}/repo/{name}.flist", timeout=10)
        assert answer.status_code == status


def test_rewind_and_change_of_identity_reach_every_service(
    upstream: Upstream, source: Path
) -> None:
    model = upstream.model
    before = model.snapshot()
    listed = _json(f"{upstream.hub.url}/api/fileslist")
    (source / "file").write_bytes(b"more")
    model.add_flist("repo", "later.flist", source)
    model.add_kernel("later.efi", b"later")
    with Wire(upstream.zdb.port) as wire:
        later = wire.ask("DBSIZE")
    model.rewind(before)
    assert _json(f"{upstream.hub.url}/api/fileslist") == listed
    assert len(_json(f"{upstream.bootstrap.url}/api/images")) == 2
    with Wire(upstream.zdb.port) as wire:
        assert wire.ask("DBSIZE") == later - 1
        first = wire.ask("SCAN")[1][0]
        cursor = wire.ask("SCAN")[0]
        model.change_identity()
        assert wire.ask("SCAN")[1][0] != first
        assert wire.ask("SCAN", cursor) == ErrorReply("Invalid key format")


def test_chunks_can_be_damaged_and_dropped(upstream: Upstream) -> None:
    key = next(iter(upstream.model.chunk_keys("repo", "one.flist")))
    with Wire(upstream.zdb.port) as wire:
        whole = wire.ask("GET", key)
        upstream.model.corrupt_chunk(key)
        damaged = wire.ask("GET", key)
        assert len(damaged) == len(whole)
        assert damaged != whole
        upstream.model.drop_chunk(key)
        assert wire.ask("GET", key) is None


def test_a_published_flist_wakes_who_waits_for_chunks(upstream: Upstream, source: Path) -> None:
    (source / "new").write_bytes(b"new content")
    with Wire(upstream.zdb.port) as wire:
        wire.socket.sendall(b"*3\r\n$4\r\nWAIT\r\n$3\r\nSET\r\n$5\r\n20000\r\n")
        assert wire.ask("PING") == "PONG"
        upstream.model.add_flist("repo", "new.flist", source)
        assert wire.read() == "SET"


# -- bootstrap ---------------------------------------------------------------------------------


def test_images_are_listed_newest_first(upstream: Upstream) -> None:
    images = _json(f"{upstream.bootstrap.url}/api/images")
    assert [image["name"] for image in images] == ["new.efi", "old.efi"]
    assert images[1] == {
        "name": "old.efi",
        "release": "old",
        "timestamp": int(MOMENT),
        "updated": "2023-11-14, 22:13:20 (UTC)",
    }
    page = requests.get(f"{upstream.bootstrap.url}/images", timeout=10).text
    assert re.findall(r'href="/kernel/([^"]+)">([^<]+)<', page) == [
        ("new.efi", "new"),
        ("old.efi", "old"),
    ]


def test_an_older_server_has_only_the_page() -> None:
    with Upstream(bootstrap_options=BootstrapOptions(revision="2023-10")) as upstream:
        url = upstream.bootstrap.url
        assert requests.get(f"{url}/api/images", timeout=10).status_code == 404
        assert requests.get(f"{url}/images", timeout=10).status_code == 200


def test_net_links_follow_their_kernel(upstream: Upstream) -> None:
    url = f"{upstream.bootstrap.url}/kernel/net/prod.efi"
    assert requests.get(url, timeout=10).content == b"old kernel"
    upstream.model.set_net_link("prod", "new.efi")
    assert requests.get(url, timeout=10).content == b"new kernel"
    upstream.model.delete_kernel("new.efi")
    assert requests.get(url, timeout=10).status_code == 404


def test_boot_scripts_name_the_net_link(upstream: Upstream) -> None:
    url = upstream.bootstrap.url
    script = requests.get(f"{url}/ipxe/prod/123/console=ttyS0___x", timeout=10).text
    assert script.startswith("#!ipxe")
    assert "/kernel/net/prod.efi nomodeset version=v3 runmode=prod" in script
    assert "farmer_id=123 console=ttyS0/x" in script
    assert requests.get(f"{url}/ipxe/none/1", timeout=10).status_code == 401
    assert requests.get(f"{url}/ipxe/qa/1", timeout=10).status_code == 404


# -- faults ------------------------------------------------------------------------------------


def test_faults_strike_the_named_requests_and_no_others(upstream: Upstream) -> None:
    upstream.hub_faults.add(Fault("status", r"/repo/.*\.flist", after=1, times=2, status=503))
    url = f"{upstream.hub.url}/repo/one.flist"
    assert [requests.get(url, timeout=10).status_code for _ in range(4)] == [200, 503, 503, 200]
    assert upstream.hub_faults.struck == {"status": 2}


def test_retry_after_and_pages_instead_of_files(upstream: Upstream) -> None:
    url = f"{upstream.hub.url}/repo/one.flist"
    upstream.hub_faults.add(Fault("status", times=1, status=429, retry_after="7"))
    assert requests.get(url, timeout=10).headers["Retry-After"] == "7"
    upstream.hub_faults.add(Fault("html", times=1, status=200))
    page = requests.get(url, timeout=10)
    assert (page.status_code, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")


def test_a_flipped_byte_keeps_the_length(upstream: Upstream) -> None:
    url = f"{upstream.hub.url}/repo/one.flist"
    whole = requests.get(url, timeout=10).content
    upstream.hub_faults.add(Fault("flip", at_byte=-1))
    flipped = requests.get(url, timeout=10).content
    assert flipped[:-1] == whole[:-1]
    assert flipped[-1] == whole[-1] ^ 1


@pytest.mark.parametrize("kind", ["truncate", "reset"])
def test_a_body_that_ends_early_is_an_error(upstream: Upstream, kind: Any) -> None:
    upstream.hub_faults.add(Fault(kind))
    with pytest.raises(requests.RequestException):
        requests.get(f"{upstream.hub.url}/repo/one.flist", timeout=10)


def test_a_redirect_loop_never_ends(upstream: Upstream) -> None:
    upstream.hub_faults.add(Fault("redirect-loop"))
    with pytest.raises(requests.TooManyRedirects):
        requests.get(f"{upstream.hub.url}/repo/one.flist", timeout=10)


def test_a_hang_lasts_until_it_is_cleared(upstream: Upstream) -> None:
    upstream.hub_faults.add(Fault("hang"))
    with pytest.raises(requests.ReadTimeout):
        requests.get(f"{upstream.hub.url}/repo/one.flist", timeout=0.2)
    upstream.hub_faults.clear()
    assert requests.get(f"{upstream.hub.url}/repo/one.flist", timeout=10).status_code == 200


def test_an_endless_body_has_no_length_and_no_end(upstream: Upstream) -> None:
    upstream.hub_faults.add(Fault("endless"))
    with requests.get(f"{upstream.hub.url}/repo/one.flist", stream=True, timeout=10) as answer:
        assert "Content-Length" not in answer.headers
        blocks = islice(answer.iter_content(1 << 16), 64)
        assert sum(map(len, blocks)) > 1 << 20


def test_a_slow_body_arrives_whole(upstream: Upstream) -> None:
    url = f"{upstream.hub.url}/repo/one.flist"
    whole = requests.get(url, timeout=10).content
    upstream.hub_faults.add(Fault("slow", bytes_per_second=len(whole) * 4))
    assert requests.get(url, timeout=10).content == whole


# -- life --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["slow", "truncate"])
def test_a_faulty_answer_to_head_has_no_body(kind: Any, upstream: Upstream) -> None:
    upstream.hub_faults.add(Fault(kind))
    with socket.create_connection((upstream.hub.address, upstream.hub.port), 10) as connection:
        request = f"HEAD /repo/one.flist HTTP/1.1\r\nHost: {upstream.hub.address}\r\n\r\n"
        connection.sendall(request.encode())
        connection.settimeout(1)
        answer = b""
        with suppress(TimeoutError):
            while data := connection.recv(1 << 16):
                answer += data
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(b"\r\n\r\n")


def test_both_families_serve_the_same_master(source: Path) -> None:
    model = UpstreamModel()
    data = model.add_flist("repo", "one.flist", source)
    with Upstream(model, ("127.0.0.1", "::1")) as upstream:
        for host in ("127.0.0.1", "[::1]"):
            url = f"http://{host}:{upstream.hub.port}/repo/one.flist"
            assert requests.get(url, timeout=10).content == data
        for address in ("127.0.0.1", "::1"):
            with Wire(upstream.zdb.port, address) as wire:
                assert wire.ask("DBSIZE") == 1


def test_a_stopped_master_is_gone(source: Path) -> None:
    with Upstream() as upstream:
        session = requests.Session()
        assert session.get(upstream.hub.url, timeout=10).status_code == 200
    with pytest.raises(requests.ConnectionError):
        session.get(upstream.hub.url, timeout=10)
    for port in (upstream.bootstrap.port, upstream.zdb.port):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), 10)
    with upstream.again() as back:
        assert back.hub.port == upstream.hub.port
        assert session.get(upstream.hub.url, timeout=10).status_code == 200


def test_bytes_are_taken_as_they_are(upstream: Upstream, source: Path) -> None:
    packed = pack_directory(source)
    without = Flist(packed.flist.entries).encode()
    upstream.model.add_flist("repo", "no-backend.flist", without)
    answer = requests.get(f"{upstream.hub.url}/repo/no-backend.flist", timeout=10)
    assert Flist.decode(answer.content).backend is None
