"""A link is served once the master confirmed it by its own name: no damaged page leads astray."""

import json
import threading
from collections import Counter
from pathlib import Path

import pytest

from sync.agent.budget import Budget
from sync.agent.hub.links import TagState, judge
from sync.agent.hub.listing import Link, Listing, Name, Regular, Tag, TagName
from sync.agent.hub.publisher import Publisher
from sync.agent.hub.state_db import DATABASE, FlistRow, HubStateDb
from sync.agent.hub.tree import Tree
from sync.agent.job import PassIncompleteError
from sync.agent.name_room import NameRoom
from sync.contract.pinned_chunks import PinnedChunks
from tests.agent.hub.flists_of import small
from tests.agent.hub.small_hub import DAY, OLD, corrupt, small_model
from tests.agent.mirrors import UsersMirror, dangling, model_tree, users_mirror
from tests.sandbox.services.http import Connection, Request, Response
from tests.sandbox.services.hub_api import HubOptions
from tests.sandbox.upstream import Fault, Upstream

ELSEWHERE = "not followed yet: on the master it leads elsewhere than is listed"
UNKNOWN = "not followed yet: the master does not answer for it"
TAG_PAGE = "/api/flist/tf-zos/tags/3.1"


def mend(mirror: UsersMirror) -> None:
    """Let the master send its pages as they are."""
    mirror.upstream.hub.deliver = mirror.upstream.hub_faults.deliver


def asked_paths(mirror: UsersMirror) -> list[tuple[str, str]]:
    """Return a list that takes method and path of every request from now on."""
    asked: list[tuple[str, str]] = []
    inner = mirror.upstream.hub.deliver

    def note(connection: Connection, request: Request, response: Response) -> bool:
        asked.append((request.method, request.path))
        return bool(inner(connection, request, response))

    mirror.upstream.hub.deliver = note
    return asked


# Damaged listings


@pytest.mark.parametrize("served_before", [False, True])
def test_link_that_a_damaged_listing_leads_to_another_flist_is_not_served(
    served_before: bool, mirror: UsersMirror
) -> None:
    if served_before:
        mirror.one_pass()
    corrupt(mirror.upstream.hub, "/api/fileslist", b'"zos-1.flist"}', b'"zos-0.flist"}')
    for _ in range(2):
        record = mirror.one_pass()
        link = mirror.served().get("tf-zos/zos.flist")
        assert link == (("link", "zos-1.flist") if served_before else None)
        assert record.broken.names == [f"tf-zos/zos.flist: {ELSEWHERE}"]
    mend(mirror)
    assert mirror.one_pass().broken.count == 0
    assert mirror.served() == model_tree(mirror.upstream.model)


def test_link_that_a_damaged_listing_leads_to_another_tag_is_not_served(
    mirror: UsersMirror,
) -> None:
    model = mirror.upstream.model
    model.set_tag("tf-zos", "3.2", {"zos.flist": "tf-zos/zos-2.flist"})
    mirror.one_pass()
    model.set_taglink("tf-zos", "testing", "tf-zos", "3.1")
    corrupt(mirror.upstream.hub, "/api/fileslist", b"tags/3.1", b"tags/3.2")
    record = mirror.one_pass()
    assert "tf-zos/testing" not in mirror.served()
    assert mirror.served()["alice/zos"] == ("link", "../tf-zos/.tag-3.1")
    assert f"tf-zos/testing: {ELSEWHERE}" in record.broken.names
    mend(mirror)
    mirror.one_pass()
    assert mirror.served() == model_tree(model)


def test_new_name_that_a_damaged_listing_gives_a_link_is_not_served(mirror: UsersMirror) -> None:
    mirror.one_pass()
    mirror.upstream.model.set_link("alice", "new.flist", "shop.flist")
    corrupt(mirror.upstream.hub, "/api/fileslist", b'"new.flist"', b'"nev.flist"')
    record = mirror.one_pass()
    assert "alice/nev.flist" not in mirror.served()
    assert record.broken.names == [f"alice/nev.flist: {UNKNOWN}"]
    mend(mirror)
    mirror.one_pass()
    assert mirror.served() == model_tree(mirror.upstream.model)


def test_link_to_a_link_waits_for_the_other_s_confirmation(mirror: UsersMirror) -> None:
    """Through the old link it would lead to what it never led to on the master."""
    model = mirror.upstream.model
    mirror.one_pass()
    model.set_link("tf-zos", "zos.flist", "zos-2.flist")
    model.set_link("alice", "zos.flist", "tf-zos/zos.flist")
    mirror.upstream.hub_faults.add(Fault("status", r"/tf-zos/zos\.flist"))
    with pytest.raises(PassIncompleteError, match=r"tf-zos/zos\.flist"):
        mirror.one_pass()
    served = mirror.served()
    assert served["tf-zos/zos.flist"] == ("link", "zos-1.flist")
    assert "alice/zos.flist" not in served
    mirror.upstream.hub_faults.clear()
    mirror.one_pass()
    assert mirror.served() == model_tree(model)


def test_links_that_change_places_never_lead_to_each_other(mirror: UsersMirror) -> None:
    model = mirror.upstream.model
    model.set_link("alice", "a.flist", "shop.flist")
    model.set_link("alice", "b.flist", "a.flist")
    mirror.one_pass()
    model.set_link("alice", "a.flist", "b.flist")
    model.set_link("alice", "b.flist", "shop.flist")
    mirror.upstream.hub_faults.add(Fault("status", r"/alice/b\.flist"))
    with pytest.raises(PassIncompleteError):
        mirror.one_pass()
    assert not dangling(mirror)
    mirror.upstream.hub_faults.clear()
    mirror.one_pass()
    assert mirror.served() == model_tree(model)


@pytest.mark.parametrize("etag", [False, True])
def test_damaged_listing_is_not_taken_for_the_unchanged_one(etag: bool, tmp_path: Path) -> None:
    """A listing is asked for conditionally once it was read twice alike."""
    options = HubOptions(fileslist_conditional=True, etag=etag)
    with (
        Upstream(small_model(), hub_options=options) as upstream,
        users_mirror(tmp_path, upstream) as mirror,
        mirror.engine() as (engine, _),
    ):
        corrupt(upstream.hub, "/api/fileslist", b'"zos-1.flist"}', b'"zos-0.flist"}')
        engine.one_pass()
        mend(mirror)
        engine.one_pass()
        assert mirror.served() == model_tree(upstream.model)
        engine.one_pass()
        master = engine._master
        before = (master.requests_sent + 1, master.bytes_received)
        engine.one_pass()
        assert engine._source._conditions
        assert (master.requests_sent, master.bytes_received) == before


# Damaged pages of tags


def test_link_in_a_damaged_tag_is_not_served_and_the_tag_is_read_again(
    mirror: UsersMirror,
) -> None:
    corrupt(mirror.upstream.hub, TAG_PAGE, b"zos-1.flist", b"zos-0.flist")
    record = mirror.one_pass()
    assert not (mirror.directories.public / "users" / "tf-zos" / ".tag-3.1").exists()
    waits = f"waits for zos.flist -> tf-zos/zos-0.flist: {ELSEWHERE}"
    assert f"tf-zos/tags/3.1: not served, {waits}" in record.broken.names
    mend(mirror)
    mirror.one_pass()
    assert mirror.served() == model_tree(mirror.upstream.model)
    assert mirror.one_pass().details["master_requests"] == 1


def test_taglink_waits_for_a_doubted_link_in_its_tag(mirror: UsersMirror) -> None:
    """It would lead from a whole tag to one that lacks a link."""
    model = mirror.upstream.model
    mirror.one_pass()
    model.set_tag("tf-zos", "3.2", {"zos.flist": "tf-zos/zos-2.flist"})
    model.set_taglink("tf-zos", "production", "tf-zos", "3.2")
    corrupt(mirror.upstream.hub, "/api/flist/tf-zos/tags/3.2", b"zos-2.flist", b"zos-0.flist")
    mirror.one_pass()
    assert mirror.served()["tf-zos/production"] == ("link", "../tf-zos/.tag-3.1")
    mend(mirror)
    mirror.one_pass()
    assert mirror.served() == model_tree(model)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"zos.flist"', b'"zos.flisu"'),
        (b'"symlink"', b'"symlinj"'),
        (b'"linktime"', b'"linktimf"'),
        (b'"more.flist"', b'"zos.flist"'),
        (b"tf-zos/zos-1.flist", b"tf-zos/zos-q.flist"),
    ],
    ids=["no flist", "no link", "no time", "listed twice", "dangling"],
)
def test_damaged_page_of_a_tag_is_read_again_although_the_tag_stays(
    old: bytes, new: bytes, mirror: UsersMirror
) -> None:
    model = mirror.upstream.model
    model.now = lambda: OLD
    links = {"more.flist": "tf-zos/zos-2.flist", "zos.flist": "tf-zos/zos-1.flist"}
    model.set_tag("tf-zos", "3.1", links)
    corrupt(mirror.upstream.hub, TAG_PAGE, old, new)
    mirror.one_pass()
    assert mirror.served() != model_tree(model)
    mend(mirror)
    mirror.one_pass()
    assert mirror.served() == model_tree(model)
    mirror.one_pass()
    assert mirror.one_pass().details["master_requests"] == 1


def test_served_link_that_a_damaged_page_lost_has_the_tag_read_again(mirror: UsersMirror) -> None:
    model = mirror.upstream.model
    mirror.one_pass()
    model.now = lambda: OLD + DAY
    model.retarget_tag("tf-zos", "3.1", "more.flist", "tf-zos/zos-2.flist")
    page = mirror.upstream.hub_api(Request("GET", TAG_PAGE, {})).content.read()
    rows = [row for row in json.loads(page) if row["name"] != "zos.flist"]
    corrupt(mirror.upstream.hub, TAG_PAGE, page, json.dumps(rows).encode())
    record = mirror.one_pass()
    told = "waits for zos.flist: not listed any more, but still served by the master"
    assert record.broken.names == [f"tf-zos/tags/3.1: its old state stays, {told}"]
    assert "tf-zos/.tag-3.1/more.flist" not in mirror.served()
    mend(mirror)
    assert mirror.one_pass().broken.count == 0
    assert mirror.served() == model_tree(model)


def test_tag_of_which_something_is_refused_is_not_shown_and_read_in_each_pass(
    mirror: UsersMirror,
) -> None:
    model = mirror.upstream.model
    corrupt(mirror.upstream.hub, TAG_PAGE, b"[", b'[{"type": "symlink", "name": "../x"}, ')
    asked = asked_paths(mirror)
    folder = mirror.directories.public / "users" / "tf-zos" / ".tag-3.1"
    for reads in (1, 2, 3):
        assert mirror.one_pass().refused.count == 1
        assert asked.count(("GET", TAG_PAGE)) == reads
        assert not folder.exists(), "it would lack what is refused"
    mend(mirror)
    mirror.one_pass()
    assert mirror.served() == model_tree(model)
    assert mirror.one_pass().details["master_requests"] == 1


def test_dangling_link_of_a_tag_is_asked_for_once_by_a_process(mirror: UsersMirror) -> None:
    model = mirror.upstream.model
    model.now = lambda: OLD
    model.set_tag("tf-zos", "3.1", {"zos.flist": "tf-zos/none.flist"})
    asked = asked_paths(mirror)
    with mirror.engine() as (engine, _):
        for _ in range(3):
            engine.one_pass()
    assert Counter(asked)["HEAD", "/tf-zos/tags/3.1/zos.flist"] == 1
    assert asked.count(("GET", TAG_PAGE)) == 1


def test_tag_is_read_again_after_a_kill_before_it_could_be_doubted(mirror: UsersMirror) -> None:
    corrupt(mirror.upstream.hub, TAG_PAGE, b"zos-1.flist", b"zos-q.flist")
    with mirror.engine() as (engine, _):
        room = NameRoom.of(Budget.of(mirror.spec()))
        engine._tags.read(engine._source.listing(room, {}), room)
    mend(mirror)
    mirror.one_pass()
    assert mirror.served() == model_tree(mirror.upstream.model)


# Who is asked, and how often


def test_each_new_or_changed_link_costs_one_request_and_an_unchanged_pass_none(
    mirror: UsersMirror,
) -> None:
    model = mirror.upstream.model
    asked = asked_paths(mirror)
    with mirror.engine() as (engine, _):
        engine.one_pass()
        links = [
            ("GET", "/api/flist/alice/zos/taglink"),
            ("GET", "/api/flist/tf-zos/production/taglink"),
            ("HEAD", "/alice/base.flist"),
            ("HEAD", "/tf-zos/tags/3.1/zos.flist"),
            ("HEAD", "/tf-zos/zos.flist"),
        ]
        flists = [path for path in asked if path[1].endswith(("/light", ".flist"))]
        assert Counter(asked) & Counter(links) == Counter(links)
        assert len(asked) == 1 + 1 + len(links) + 12
        assert len(flists) == 12 + 3
        asked.clear()
        engine.one_pass()
        assert asked == [("GET", "/api/fileslist")]
        model.set_link("tf-zos", "zos.flist", "zos-2.flist")
        engine.one_pass()
        assert asked[1:] == [("GET", "/api/fileslist"), ("HEAD", "/tf-zos/zos.flist")]


def test_link_to_a_withheld_flist_is_not_asked_for(mirror: UsersMirror) -> None:
    model = mirror.upstream.model
    model.add_flist("alice", "half.flist", small(60), OLD)
    key = min(small(60).chunks)
    model.drop_chunk(key)
    model.set_link("alice", "link.flist", "half.flist")
    mirror.one_pass()
    assert mirror.one_pass().details["master_requests"] == 1
    model.add_chunks({key: small(60).chunks[key]})
    mirror.one_pass()
    assert mirror.served() == model_tree(model)


def test_many_links_are_asked_for_at_once(mirror: UsersMirror) -> None:
    model = mirror.upstream.model
    for number in range(24):
        model.set_link("alice", f"link-{number}.flist", "shop.flist")
    inner = mirror.upstream.hub.deliver
    together = threading.Barrier(8)

    def wait(connection: Connection, request: Request, response: Response) -> bool:
        if request.method == "HEAD" and "link-" in request.path:
            together.wait(20)
        return bool(inner(connection, request, response))

    mirror.upstream.hub.deliver = wait
    mirror.one_pass()
    assert mirror.served() == model_tree(model)
    assert together.n_waiting == 0


def test_links_are_served_while_other_flists_are_still_fetched(mirror: UsersMirror) -> None:
    users = mirror.directories.public / "users"
    inner = mirror.upstream.hub.deliver
    seen: list[bool] = []

    def slow(connection: Connection, request: Request, response: Response) -> bool:
        if request.method == "GET" and request.path == "/alice/shop.flist":
            for _ in range(400):
                if (users / "alice" / "base.flist").exists():
                    break
                threading.Event().wait(0.02)
            seen.append((users / "alice" / "base.flist").exists())
        return bool(inner(connection, request, response))

    mirror.upstream.hub.deliver = slow
    mirror.one_pass()
    assert seen == [True]


def test_link_that_can_not_be_asked_for_blocks_nothing_else(mirror: UsersMirror) -> None:
    model = mirror.upstream.model
    mirror.upstream.hub_faults.add(Fault("status", r"/tf-zos/zos\.flist"))
    with pytest.raises(PassIncompleteError, match=r"tf-zos/zos\.flist"):
        mirror.one_pass()
    expected = model_tree(model)
    del expected["tf-zos/zos.flist"]
    assert mirror.served() == expected


def test_taglink_that_was_not_confirmed_is_not_served_with_the_last_link_of_its_tag(
    mirror: UsersMirror,
) -> None:
    path = "/api/flist/tf-zos/production/taglink"
    corrupt(mirror.upstream.hub, path, b"tags/3.1", b"tags/3.2")
    record = mirror.one_pass()
    served = mirror.served()
    assert "tf-zos/.tag-3.1/zos.flist" in served
    assert "alice/zos" in served
    assert "tf-zos/production" not in served
    assert record.broken.names == [f"tf-zos/production: {ELSEWHERE}"]


def test_only_links_that_were_confirmed_in_this_pass_are_served(tmp_path: Path) -> None:
    """A taglink comes due only when its tag's last link is served: it is not served unasked."""
    flist, tag = Name("r", "f.flist"), TagName("r", "1")
    inside, taglink = Link(Name("r", "x.flist", "1"), flist, 0), Link(Name("r", "l"), tag, 0)
    listing = Listing({"r"}, {flist: Regular(flist, "1.00 KB", 0)}, {taglink.name: taglink})
    listing.tags[tag] = Tag(tag, 0)
    with HubStateDb(tmp_path / DATABASE) as state_db, PinnedChunks(tmp_path) as published:
        publisher = Publisher(Tree(tmp_path), state_db, published)
        publisher.flists[flist] = FlistRow(flist, 0, "1.00 KB", 1024, b"", 1024, b"", "")
        both = {inside.name, taglink.name}
        passes: list[tuple[list[Link], set[Name]]] = [
            ([], set()),
            ([inside], {inside.name}),
            ([], {inside.name}),
            ([taglink], both),
        ]
        states = {tag: TagState({inside.name: inside})}
        for confirmed, served in passes:
            publisher.follow(listing, judge(listing, [inside]), states)
            publisher.confirm(confirmed)
            publisher.link_all()
            assert publisher.served_links().keys() == served
