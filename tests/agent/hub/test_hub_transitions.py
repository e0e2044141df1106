"""Names that change their kind, target or owner: old or new at every moment, never gone."""

import shutil
import time
from collections.abc import Iterator
from hashlib import md5
from pathlib import Path

import pytest

from sync.agent.hub.listing import Target
from sync.agent.hub.tree import Tree
from sync.agent.job import PassIncompleteError
from sync.contract.spec import ZdbEndpoint
from tests.agent.hub.flists_of import small
from tests.agent.mirrors import UsersMirror, dangling, model_tree, users_mirror
from tests.agent.scripted import Answer, ScriptedServer
from tests.sandbox.flist import Backend as PackedBackend
from tests.sandbox.services.zdb import Settings, Store, ZdbServer
from tests.sandbox.upstream import Fault, Upstream, UpstreamModel

OLD = 1_700_000_000.0
DAY = 86_400.0


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    model = UpstreamModel()
    model.now = lambda: OLD
    for number, name in enumerate("abc"):
        model.add_flist("alice", f"{name}.flist", small(number), OLD + number * DAY)
    with Upstream(model) as running:
        yield running


def withhold(model: UpstreamModel, name: str, number: int) -> None:
    """Give alice a flist, one of whose chunks the master lacks."""
    model.add_flist("alice", name, small(number), OLD + number * DAY)
    model.drop_chunk(min(model.chunk_keys("alice", name)))


def test_link_to_a_link_that_is_served_already_is_published(mirror: UsersMirror) -> None:
    model = mirror.upstream.model
    model.set_link("alice", "first.flist", "a.flist")
    mirror.one_pass()
    model.set_link("alice", "second.flist", "first.flist")
    mirror.one_pass()
    assert mirror.served() == model_tree(model)


def test_link_stays_until_the_flist_that_takes_its_name_is_there(mirror: UsersMirror) -> None:
    model = mirror.upstream.model
    model.set_link("alice", "name.flist", "a.flist")
    mirror.one_pass()
    withhold(model, "name.flist", 40)
    for _ in range(2):
        mirror.one_pass()
        assert mirror.served()["alice/name.flist"] == ("link", "a.flist")


def test_flist_stays_until_the_link_that_takes_its_name_can_be_followed(
    mirror: UsersMirror,
) -> None:
    model = mirror.upstream.model
    mirror.one_pass()
    before = mirror.served()["alice/b.flist"]
    withhold(model, "z.flist", 41)
    model.set_link("alice", "b.flist", "z.flist")
    for _ in range(2):
        mirror.one_pass()
        assert mirror.served()["alice/b.flist"] == before


def test_link_that_another_served_link_needs_stays(mirror: UsersMirror) -> None:
    model = mirror.upstream.model
    model.set_link("alice", "first.flist", "a.flist")
    model.set_link("alice", "second.flist", "first.flist")
    mirror.one_pass()
    withhold(model, "z.flist", 42)
    model.set_link("alice", "second.flist", "z.flist")
    model.delete_flist("alice", "first.flist")
    mirror.one_pass()
    assert not dangling(mirror)
    assert "alice/second.flist" in mirror.served()


def test_tag_that_a_served_taglink_needs_stays(mirror: UsersMirror) -> None:
    model = mirror.upstream.model
    model.set_tag("alice", "1", {"x.flist": "alice/a.flist"})
    model.set_taglink("alice", "latest", "alice", "1")
    mirror.one_pass()
    model.set_tag("alice", "2", {"x.flist": "alice/b.flist"})
    model.set_taglink("alice", "latest", "alice", "2")
    model.delete_flist("alice", ".tag-1")
    mirror.upstream.hub_faults.add(Fault("status", r"/api/flist/alice/tags/2"))
    with pytest.raises(PassIncompleteError):
        mirror.one_pass()
    assert not dangling(mirror)
    assert (mirror.directories.public / "users" / "alice" / "latest" / "x.flist").is_file()
    mirror.upstream.hub_faults.clear()
    mirror.one_pass()
    assert mirror.served() == model_tree(model)


def test_name_that_the_master_lists_twice_makes_no_loop(tmp_path: Path) -> None:
    rows = [
        {"name": "x.flist", "type": "regular", "size": "1.00 KB", "updated": OLD},
        {"name": "y.flist", "type": "symlink", "target": "eve/x.flist", "linktime": OLD},
        {"name": "x.flist", "type": "symlink", "target": "eve/y.flist", "linktime": OLD},
    ]
    with Upstream(UpstreamModel()) as upstream, users_mirror(tmp_path, upstream) as mirror:
        data = upstream.model.add_flist("eve", "x.flist", small(3), OLD)
        with ScriptedServer() as server:
            server.put_json("/api/fileslist", {"eve": rows})
            light = {
                "type": "regular",
                "size": len(data),
                "md5": md5(data).hexdigest(),
                "updated": int(OLD),
            }
            server.put_json("/api/flist/eve/x.flist/light", light)
            server.pages["/eve/x.flist"] = Answer(data)
            mirror.settings["sources"] = [server.url]
            record = mirror.one_pass()
        assert not dangling(mirror)
        assert mirror.served()["eve/x.flist"] == ("file", data)
        assert record.refused.count == 1


def test_flist_is_tried_again_when_its_backend_comes_on_the_allow_list(
    mirror: UsersMirror,
) -> None:
    model = mirror.upstream.model
    source = small(50)
    other = ZdbServer(Store(Settings()))
    other.start()
    try:
        rows = [(key, payload, int(time.time())) for key, payload in source.chunks.items()]
        other.store.default.set_many(rows)
        backend = PackedBackend(other.address, other.port)
        model.change_flist("alice", "a.flist", source.archive(backend), modified=OLD + 70 * DAY)
        assert mirror.one_pass().broken.count == 1
        allowed = ZdbEndpoint(host=other.address, port=other.port)
        mirror.settings["allowed_backends"] = [allowed]
        assert mirror.one_pass().broken.count == 0
    finally:
        other.stop()
    assert mirror.served()["alice/a.flist"] == model_tree(model)["alice/a.flist"]


def test_flist_that_a_kill_left_unrecorded_goes_when_the_master_drops_it(
    mirror: UsersMirror,
) -> None:
    mirror.one_pass()
    path = mirror.directories.public / "users" / "alice" / "a.flist"
    shutil.copy(path.with_name("b.flist"), path)  # renamed into place, then killed
    path.write_bytes(path.read_bytes() + bytes(10))
    mirror.upstream.model.delete_flist("alice", "a.flist")
    mirror.one_pass()
    assert mirror.served() == model_tree(mirror.upstream.model)


def test_tag_has_the_master_s_time_only_when_it_is_whole(mirror: UsersMirror) -> None:
    """A mirror of this mirror reads a tag again when its time changes."""
    model = mirror.upstream.model
    withhold(model, "late.flist", 60)
    model.set_tag("alice", "1", {"x.flist": "alice/a.flist", "y.flist": "alice/late.flist"})
    mirror.one_pass()
    tag = mirror.directories.public / "users" / "alice" / ".tag-1"
    assert not tag.exists()
    model.add_chunks(small(60).chunks)
    mirror.one_pass()
    assert (tag / "y.flist").exists()
    assert int(tag.stat().st_mtime) == OLD
    withhold(model, "later.flist", 61)
    model.now = lambda: OLD + DAY
    model.set_tag("alice", "1", {"x.flist": "alice/later.flist"})
    mirror.one_pass()
    assert int(tag.stat().st_mtime) == OLD, "its old state is served"
    model.add_chunks(small(61).chunks)
    mirror.one_pass()
    assert int(tag.stat().st_mtime) == OLD + DAY


def test_links_to_what_the_operator_deselects_go_without_asking(mirror: UsersMirror) -> None:
    model = mirror.upstream.model
    for number in range(12):
        model.set_link("tf-zos", f"{number}.flist", "alice/a.flist")
    mirror.one_pass()
    mirror.settings["repositories"] = {"include": ["tf-*"]}
    for _ in range(3):
        mirror.one_pass()
    assert mirror.served() == {}


def test_links_that_go_together_go_before_what_they_lead_to(
    mirror: UsersMirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chain of links, a link inside a tag and taglinks to it: none ever dangles."""
    model = mirror.upstream.model
    mirror.settings |= {"removal_floor_items": 100}
    model.set_link("alice", "k.flist", "a.flist")
    model.set_link("alice", "l.flist", "k.flist")
    model.set_link("alice", "j.flist", "l.flist")
    model.set_tag("alice", "1", {"x.flist": "alice/j.flist"})
    model.set_taglink("alice", "latest", "alice", "1")
    model.set_taglink("alice", "a-first", "alice", "1")
    mirror.one_pass()
    assert mirror.served() == model_tree(model)
    for name in ("j.flist", "k.flist", "l.flist", ".tag-1", "latest", "a-first"):
        model.delete_flist("alice", name)
    order: list[str] = []
    remove = Tree.remove

    def watched(tree: Tree, name: Target) -> None:
        remove(tree, name)
        order.append(str(name))
        assert not dangling(mirror), f"after {order}"

    monkeypatch.setattr(Tree, "remove", watched)
    mirror.one_pass()
    assert order[:2] == ["alice/latest", "alice/a-first"]
    assert order[2:] == ["alice/tags/1", "alice/j.flist", "alice/l.flist", "alice/k.flist"]
    assert mirror.served() == model_tree(model)
