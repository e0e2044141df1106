"""Names as a hub can hold them: byte for byte, one path component, and harmless to look at."""

import os
import tempfile
import unicodedata
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sync.agent.hub.listing import Link, Name, TagName, page_path
from sync.agent.hub.tree import Tree, link_text, read_link_text
from sync.agent.status_writer import name_list
from sync.contract import names
from sync.contract.names import RefusedNameError
from tests.agent.hub.flists_of import small
from tests.agent.hub.test_hub_names import ODD_PARTS
from tests.agent.mirrors import UsersMirror, model_tree, users_mirror
from tests.sandbox.services.disk import DiskTree
from tests.sandbox.services.http import HttpServer
from tests.sandbox.services.hub_api import HubApi, HubOptions
from tests.sandbox.upstream import Upstream, UpstreamModel

OLD = 1_700_000_000.0
TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=90),
    st.text(max_size=6),
    st.text("./\\%? #\x00\x7f\x85\n\u202eé~-", max_size=12),
    st.sampled_from(ODD_PARTS),
)


def accepted(name: str) -> bool:
    try:
        return names.checked(name, "file") == name
    except RefusedNameError:
        return False


def is_safe(name: str) -> bool:
    """Say by the issue's words what a safe file name is."""
    try:
        data = name.encode()
    except UnicodeEncodeError:
        return False
    controls = any(unicodedata.category(one) == "Cc" for one in name)
    return 0 < len(data) <= 255 and not controls and "/" not in name and name[0] != "."


@given(TEXTS)
def test_rule_is_the_one_of_a_safe_file_name(name: str) -> None:
    assert accepted(name) == is_safe(name)


@given(TEXTS.filter(is_safe))
def test_accepted_name_is_one_component_below_its_folder(name: str) -> None:
    folder = Path("/srv/users/repo")
    assert (folder / name).parent == folder
    assert os.path.normpath(folder / name) == str(folder / name)
    assert os.fsencode(name) == name.encode()


@pytest.mark.parametrize("name", [None, 7, b"bytes", ["x"], {"y": 1}, True])
def test_what_is_no_text_is_refused(name: object) -> None:
    with pytest.raises(RefusedNameError, match=type(name).__name__):
        names.checked(name, "flist")


def test_longest_names_are_those_that_the_folder_can_hold() -> None:
    assert names.tag_directory("x" * 250) == ".tag-" + "x" * 250
    for bad in ("x" * 251, "é" * 126):
        with pytest.raises(RefusedNameError, match="250 bytes"):
            names.checked_tag(bad)
    assert names.checked_flist("x" * 249 + ".flist")
    with pytest.raises(RefusedNameError, match="255 bytes"):
        names.checked_flist("x" * 250 + ".flist")


@given(TEXTS)
def test_refusals_and_lists_never_write_to_a_terminal_what_it_obeys(name: str) -> None:
    assert names.shown(name).isprintable()
    assert all(one.isprintable() for one in name_list([name, f"{name}: reason"]).names)
    with pytest.raises(RefusedNameError) as refusal:
        names.checked(f"/{name}", "flist")
    assert str(refusal.value).isprintable()


def test_what_can_be_printed_is_shown_as_it_is() -> None:
    assert names.shown("café 日本 a b (1).flist") == "café 日本 a b (1).flist"
    assert names.shown("a\u202eb\x9b2J\ud800") == "a\\u202eb\\x9b2J\\ud800"


def test_repository_that_no_hub_can_serve_is_refused_and_named(
    upstream: Upstream, tmp_path: Path
) -> None:
    upstream.model.add_flist("static", "one.flist", small(1), OLD)
    with users_mirror(tmp_path, upstream) as mirror:
        record = mirror.one_pass()
    assert record.refused.names == [
        "refused repository name 'static': a hub has its own files there"
    ]


# Their URLs


@pytest.fixture(scope="module")
def hub() -> Iterator[tuple[Tree, str]]:
    """Serve a folder as a hub does."""
    with tempfile.TemporaryDirectory() as root:
        tree = Tree(Path(root))
        server = HttpServer(HubApi(DiskTree(tree.users), HubOptions()))
        server.start()
        try:
            yield tree, server.url
        finally:
            server.stop()


def fetched(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return bytes(answer.read())


@settings(max_examples=150, deadline=None)
@given(
    repository=TEXTS.filter(is_safe),
    file=TEXTS.map(lambda text: f"{text}.flist").filter(is_safe),
    tag=TEXTS.filter(lambda text: is_safe(text) and len(text.encode()) <= 250),
)
def test_accepted_names_come_back_through_their_urls(
    repository: str, file: str, tag: str, hub: tuple[Tree, str]
) -> None:
    tree, url = hub
    name, inside = Name(repository, file), Name(repository, file, tag)
    tree.make_repository(repository)
    tree.path(name).write_bytes(file.encode())
    link = Link(inside, name, 0)
    tree.show_tag(TagName(repository, tag), [link])
    assert page_path(name).isascii()
    assert fetched(url + page_path(name)) == file.encode()
    assert fetched(url + page_path(inside)) == file.encode()
    assert read_link_text(inside, link_text(link)) == name
    assert (repository, tag) in tree.tags()
    assert [path.name for path in tree.users.iterdir() if path.name == repository] == [repository]


# A mirror, and a mirror of that


def odd_model() -> UpstreamModel:
    """Give every odd part as a repository, flist, link, tag and taglink."""
    model = UpstreamModel()
    model.now = lambda: OLD
    for number, part in enumerate(ODD_PARTS):
        model.add_flist(part, f"{part}.flist", small(number % 5), OLD)
        model.add_flist("all", f"{part}.flist", small(number % 5), OLD)
        model.set_link("all", f"to {part}.flist", f"{part}/{part}.flist")
        model.set_tag("all", part, {f"{part}.flist": f"{part}/{part}.flist"})
        model.set_taglink(part, f"L{part}", "all", part)
    return model


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream(odd_model()) as running:
        yield running


def settings_of(url: str) -> dict[str, object]:
    return {"sources": [url], "removal_floor_items": 10_000}


def test_odd_names_are_mirrored_byte_for_byte_and_mirrored_again(
    upstream: Upstream, tmp_path: Path
) -> None:
    with users_mirror(tmp_path / "one", upstream) as one:
        record = one.one_pass()
        assert one.served() == model_tree(upstream.model)
        assert record.refused.count == record.broken.count == 0
        assert one.one_pass().details["master_requests"] == 1
        chained(one, upstream, tmp_path / "two")
        for name in list(upstream.model.repositories):
            upstream.model.delete_repository(name)
        upstream.model.add_flist("last", "one.flist", small(1), OLD)
        one.settings["removal_floor_items"] = 10_000
        one.one_pass()
        assert one.served() == model_tree(upstream.model)


def chained(one: UsersMirror, upstream: Upstream, root: Path) -> None:
    server = HttpServer(HubApi(DiskTree(one.directories.public / "users"), HubOptions()))
    server.start()
    try:
        with users_mirror(root, upstream, **settings_of(server.url)) as two:
            two.one_pass()
            assert two.served() == one.served()
    finally:
        server.stop()


@pytest.mark.parametrize("part", ["café", "e\u0301", "a b (1)", "%2e%2e", "a#b", "\u202egpj"])
def test_patterns_of_the_operator_see_names_as_they_are(
    part: str, upstream: Upstream, tmp_path: Path
) -> None:
    with users_mirror(tmp_path, upstream) as mirror:
        mirror.settings |= {
            "repositories": {"include": ["all", part]},
            "flists": {"include": [f"{part}/{part}.flist"]},
        }
        mirror.one_pass()
        assert f"{part}/{part}.flist" in mirror.served()
        assert f"all/.tag-{part}/{part}.flist" in mirror.served()
        assert f"all/{part}.flist" not in mirror.served()


def test_names_on_the_disk_that_are_no_utf8_stop_nothing(
    upstream: Upstream, tmp_path: Path
) -> None:
    """What some other program left there; a link goes, a file is left alone."""
    with users_mirror(tmp_path, upstream) as mirror:
        users = mirror.directories.public / "users"
        bad = os.fsdecode(b"caf\xe9.flist")
        for folder in (users / "all", users / "all" / ".tag-old", users / bad):
            folder.mkdir(parents=True)
            (folder / bad).symlink_to("/etc/passwd")
            (folder / f"2{bad}").write_bytes(b"x")
        mirror.one_pass()
        mirror.one_pass()
        assert not any(path.is_symlink() and bad in path.name for path in users.rglob("*"))
