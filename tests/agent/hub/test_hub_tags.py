"""A tag is whole, or it is not shown, and no taglink moves to it before."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from sync.agent.hub import verify
from sync.agent.job import PassIncompleteError, VerifyOptions
from sync.contract.status import StatusRecord
from tests.agent.hub.flists_of import small
from tests.agent.hub.small_hub import DAY, OLD, corrupt
from tests.agent.hub.tagged_hub import THREE, move_to_2, tagged_model, users
from tests.agent.hub.test_hub import published_keys
from tests.agent.mirrors import UsersMirror, dangling, model_tree, names_in, users_mirror
from tests.sandbox.upstream import Fault, Upstream

KEY = min(small(2).chunks)


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream(tagged_model()) as running:
        yield running


@pytest.fixture
def mirror(upstream: Upstream, tmp_path: Path) -> Iterator[UsersMirror]:
    with users_mirror(tmp_path, upstream, removal_floor_items=100) as made:
        yield made


def tries(mirror: UsersMirror) -> StatusRecord:
    """Make a pass, which may fail in part; returns the record."""
    with mirror.engine() as (engine, status):
        with suppress(PassIncompleteError):
            engine.one_pass()
        return status.record


def line(record: StatusRecord, name: str) -> str:
    """Return the line of the broken ones that is about a name."""
    found = [text for text in record.broken.names if text.startswith(f"{name}: ")]
    assert len(found) == 1, record.broken.names
    return found[0]


# ZOS' case


def test_taglink_stays_until_the_withheld_flist_of_its_new_tag_comes(mirror: UsersMirror) -> None:
    model = mirror.upstream.model
    mirror.one_pass()
    model.drop_chunk(KEY)
    model.change_flist("tf-auto", "store.flist", small(2), modified=OLD + 9 * DAY)
    model.drop_chunk(KEY)
    mirror.zdb.store.delete(KEY)
    move_to_2(model)
    for _ in range(2):
        record = mirror.one_pass()
        served = mirror.served()
        assert served["tf-zos/production"] == ("link", "../tf-zos/.tag-1")
        assert not (users(mirror) / "tf-zos" / ".tag-2").exists()
        told = line(record, "tf-zos/tags/2")
        assert "not served, waits for store.flist -> tf-auto/store.flist: withheld, 1 of" in told
        told = line(record, "tf-zos/production")
        assert told.endswith("stays at tf-zos/tags/1, waits for tf-zos/tags/2")
        assert record.details["tags_waiting"] == 1
    model.add_chunks(small(2).chunks)
    assert mirror.one_pass().broken.count == 0
    assert mirror.served() == model_tree(model)


def test_new_state_of_a_tag_waits_and_what_only_the_old_one_names_stays(
    mirror: UsersMirror,
) -> None:
    model = mirror.upstream.model
    mirror.one_pass()
    model.drop_chunk(KEY)
    mirror.zdb.store.delete(KEY)
    model.change_flist("tf-auto", "store.flist", small(2), modified=OLD + 9 * DAY)
    model.drop_chunk(KEY)
    model.delete_flist("tf-auto", "old.flist")
    model.now = lambda: OLD + DAY
    model.set_tag("tf-zos", "1", THREE)
    for _ in range(3):
        record = mirror.one_pass()
        assert "its old state stays, waits for" in line(record, "tf-zos/tags/1")
        assert names_in(users(mirror) / "tf-zos" / ".tag-1") == ["base.flist"]
        old = (users(mirror) / "tf-zos" / "production" / "base.flist").read_bytes()
        assert old == (users(mirror) / "tf-auto" / "old.flist").read_bytes()
        assert small(3).chunks.keys() <= published_keys(mirror)
        assert record.details["held_for_links"] == 1
    model.add_chunks(small(2).chunks)
    assert mirror.one_pass().broken.count == 0
    assert mirror.served() == model_tree(model)
    assert not small(3).chunks.keys() & published_keys(mirror)


def test_taglink_does_not_move_to_a_tag_whose_flist_has_a_newer_state_that_is_withheld(
    mirror: UsersMirror,
) -> None:
    """A node that installs the older one compares tags afterwards, and does not come back."""
    model = mirror.upstream.model
    model.set_tag("tf-zos", "2", THREE)
    mirror.one_pass()
    model.change_flist("tf-auto", "net.flist", small(50), modified=OLD + 50 * DAY)
    key = min(small(50).chunks)
    model.drop_chunk(key)
    model.set_taglink("tf-zos", "production", "tf-zos", "2")
    record = mirror.one_pass()
    assert mirror.served()["tf-zos/production"] == ("link", "../tf-zos/.tag-1")
    assert "served, waits for net.flist" in line(record, "tf-zos/tags/2")
    model.add_chunks({key: small(50).chunks[key]})
    mirror.one_pass()
    assert mirror.served() == model_tree(model)


# Other reasons

Prepare = Callable[[UsersMirror], None]


def answers_500(mirror: UsersMirror) -> None:
    mirror.upstream.hub_faults.add(Fault("status", r"/tf-auto/net\.flist"))


def answers_404_and_lists_it(mirror: UsersMirror) -> None:
    mirror.upstream.hub_faults.add(Fault("html", r"/tf-auto/net\.flist(\.md5)?", status=404))


def has_another_md5(mirror: UsersMirror) -> None:
    mirror.upstream.hub_faults.add(Fault("flip", r"/tf-auto/net\.flist"))


def is_no_flist(mirror: UsersMirror) -> None:
    mirror.upstream.model.change_flist("tf-auto", "net.flist", b"<html>", modified=OLD + 30 * DAY)


def deselected(mirror: UsersMirror) -> None:
    mirror.settings["flists"] = {"exclude": ["tf-auto/net.flist"]}


def refused_name(mirror: UsersMirror) -> None:
    page = "/api/flist/tf-zos/tags/2"
    corrupt(mirror.upstream.hub, page, b'"name": "net.flist"', b'"name": "../net.flist"')


def refused_shape(mirror: UsersMirror) -> None:
    corrupt(mirror.upstream.hub, "/api/flist/tf-zos/tags/2", b"tf-auto/net", b"tf-auto/net/net")


def unconfirmed(mirror: UsersMirror) -> None:
    corrupt(mirror.upstream.hub, "/api/flist/tf-zos/tags/2", b"tf-auto/net", b"tf-auto/base")


def can_not_be_asked_for(mirror: UsersMirror) -> None:
    mirror.upstream.hub_faults.add(Fault("status", r"/tf-zos/tags/2/net\.flist"))


def can_not_be_read(mirror: UsersMirror) -> None:
    mirror.upstream.hub_faults.add(Fault("status", "/api/flist/tf-zos/tags/2"))


def only_the_listing_lacks_it(mirror: UsersMirror) -> None:
    corrupt(mirror.upstream.hub, "/api/fileslist", b'"net.flist"', b'"nex.flist"')


REASONS: dict[Prepare, str] = {
    answers_500: "net.flist -> tf-auto/net.flist: could not be fetched",
    answers_404_and_lists_it: "net.flist -> tf-auto/net.flist: could not be fetched",
    has_another_md5: "net.flist -> tf-auto/net.flist: could not be fetched",
    is_no_flist: "net.flist -> tf-auto/net.flist: withheld, gzip",
    deselected: "net.flist -> tf-auto/net.flist is deselected by the operator's patterns",
    refused_name: "refused flist name '../net.flist': starts with a dot",
    refused_shape: "refused link tf-zos/tags/2/net.flist: target 'tf-auto/net/net.flist'",
    unconfirmed: "net.flist -> tf-auto/base.flist: not followed yet: on the master it leads else",
    can_not_be_asked_for: "net.flist -> tf-auto/net.flist: /tf-zos/tags/2/net.flist: 500",
    can_not_be_read: "could not be read: /api/flist/tf-zos/tags/2: 500",
    only_the_listing_lacks_it: "net.flist -> tf-auto/net.flist: no such flist; not listed any more",
}


@pytest.mark.parametrize("prepare", REASONS, ids=lambda one: one.__name__)
def test_tag_and_its_taglink_wait_and_the_reason_is_named(
    prepare: Prepare, mirror: UsersMirror
) -> None:
    model = mirror.upstream.model
    move_to_2(model)
    prepare(mirror)
    # The taglink led elsewhere before, and a mirror in the middle of its life knows 1.
    for _ in range(2):
        record = tries(mirror)
        assert f"not served, waits for {REASONS[prepare]}" in line(record, "tf-zos/tags/2")
        assert "waits for tf-zos/tags/2" in line(record, "tf-zos/production")
        assert not (users(mirror) / "tf-zos" / ".tag-2").exists()
        assert "tf-zos/production" not in mirror.served()
        assert (users(mirror) / "tf-zos" / ".tag-1" / "base.flist").exists()
    mirror.upstream.hub_faults.clear()
    mirror.upstream.hub.deliver = mirror.upstream.hub_faults.deliver
    mirror.settings.pop("flists", None)
    model.change_flist("tf-auto", "net.flist", small(1), modified=OLD + 40 * DAY)
    for _ in range(2):
        tries(mirror)
    assert mirror.served() == model_tree(model)


def test_lines_about_a_tag_are_short_however_much_it_waits_for(mirror: UsersMirror) -> None:
    model = mirror.upstream.model
    names = [f"{'x' * 200}-{number}.flist" for number in range(40)]
    for name in names:
        model.add_flist("tf-auto", name, b"<html>", OLD)
    move_to_2(model, {name: f"tf-auto/{name}" for name in names})
    told = line(mirror.one_pass(), "tf-zos/tags/2")
    assert told.endswith("; and more")
    assert len(told) < 1000


@pytest.mark.parametrize("moved", [False, True], ids=["new tag", "new state"])
def test_entry_that_the_master_itself_answers_404_for_does_not_count(
    moved: bool, mirror: UsersMirror
) -> None:
    model = mirror.upstream.model
    if moved:
        model.set_tag("tf-zos", "2", THREE)
        mirror.one_pass()
    model.delete_flist("tf-auto", "net.flist")
    move_to_2(model)
    with mirror.engine() as (engine, reporter):
        engine.one_pass()
        assert mirror.served()["tf-zos/production"] == ("link", "../tf-zos/.tag-2")
        shown = names_in(users(mirror) / "tf-zos" / ".tag-2")
        assert shown == ["base.flist", "store.flist"]
        assert reporter.record.broken.names == [
            "tf-zos/tags/2/net.flist -> tf-auto/net.flist: no such flist",
        ]
        before = engine._master.requests_sent
        engine.one_pass()
        assert engine._master.requests_sent - before == 1, "it is remembered"
    model.add_flist("tf-auto", "net.flist", small(1), OLD)
    mirror.one_pass()
    assert mirror.served() == model_tree(model)


def test_deselected_entries_are_not_asked_for(mirror: UsersMirror) -> None:
    model = mirror.upstream.model
    mirror.settings["repositories"] = {"include": ["tf-zos"]}
    model.set_tag("tf-zos", "2", {**THREE, "none.flist": "tf-auto/none.flist"})
    record = mirror.one_pass()
    assert "deselected" in line(record, "tf-zos/tags/2")
    assert mirror.one_pass().details["master_requests"] == 1


def test_waiting_tag_costs_no_request_for_what_it_could_serve(mirror: UsersMirror) -> None:
    model = mirror.upstream.model
    model.change_flist("tf-auto", "net.flist", b"<html>")
    move_to_2(model)
    mirror.one_pass()
    assert mirror.one_pass().details["master_requests"] == 1


def test_tag_whose_flist_the_operator_deselects_goes_whole_with_its_taglink(
    mirror: UsersMirror,
) -> None:
    model = mirror.upstream.model
    move_to_2(model)
    mirror.one_pass()
    mirror.settings |= {"flists": {"exclude": ["tf-auto/net.flist"]}, "removal_floor_items": 0}
    record = mirror.one_pass()
    served = mirror.served()
    assert not (users(mirror) / "tf-zos" / ".tag-2").exists()
    assert {"tf-zos/production", "tf-auto/net.flist"}.isdisjoint(served)
    assert "tf-auto/base.flist" in served
    assert not dangling(mirror)
    assert "deselected" in line(record, "tf-zos/tags/2")


def test_link_to_a_link_waits_for_it_and_a_tag_for_both(mirror: UsersMirror) -> None:
    model = mirror.upstream.model
    mirror.one_pass()
    model.add_flist("tf-auto", "late.flist", small(60), OLD)
    key = min(small(60).chunks)
    model.drop_chunk(key)
    model.set_link("tf-auto", "one.flist", "late.flist")
    model.set_link("tf-zos", "two.flist", "tf-auto/one.flist")
    move_to_2(model, {"a.flist": "tf-zos/two.flist", "b.flist": "tf-auto/base.flist"})
    record = mirror.one_pass()
    for name in ("tf-auto/one.flist", "tf-zos/two.flist", "tf-zos/tags/2"):
        assert "tf-auto/late.flist: withheld" in line(record, name)
    assert line(record, "tf-zos/production").endswith("waits for tf-zos/tags/2")
    assert mirror.served()["tf-zos/production"] == ("link", "../tf-zos/.tag-1")
    model.add_chunks({key: small(60).chunks[key]})
    mirror.one_pass()
    assert mirror.served() == model_tree(model)


# States follow each other in one step


def test_entry_that_the_master_takes_out_of_a_tag_goes_with_the_next_state(
    mirror: UsersMirror,
) -> None:
    model = mirror.upstream.model
    move_to_2(model)
    mirror.one_pass()
    before = (users(mirror) / "tf-zos" / ".tag-2").stat().st_ino
    model.now = lambda: OLD + DAY
    model.set_tag("tf-zos", "2", {"base.flist": "tf-auto/store.flist"})
    mirror.one_pass()
    assert mirror.served() == model_tree(model)
    assert (users(mirror) / "tf-zos" / ".tag-2").stat().st_ino != before
    assert (users(mirror) / "tf-zos" / ".tag-2").stat().st_mtime == OLD + DAY


def test_too_many_entries_that_a_tag_loses_at_once_pause_the_job(mirror: UsersMirror) -> None:
    model = mirror.upstream.model
    many = {f"{number}.flist": "tf-auto/base.flist" for number in range(30)}
    move_to_2(model, many)
    mirror.one_pass()
    mirror.settings["removal_floor_items"] = 5
    model.now = lambda: OLD + DAY
    model.set_tag("tf-zos", "2", {"0.flist": "tf-auto/net.flist"})
    before = mirror.served()
    with pytest.raises(Exception, match="no longer lists 29"):
        mirror.one_pass()
    assert mirror.served() == before
    mirror.settings["removal_confirmation"] = 1
    mirror.one_pass()
    assert mirror.served() == model_tree(model)


def test_unchanged_tags_are_not_touched(mirror: UsersMirror) -> None:
    move_to_2(mirror.upstream.model)
    mirror.one_pass()
    before = (users(mirror) / "tf-zos" / ".tag-2").stat()
    mirror.one_pass()
    after = (users(mirror) / "tf-zos" / ".tag-2").stat()
    # Not the time of reading: a file system with relatime sets it at the first look.
    assert (after.st_ino, after.st_ctime_ns) == (before.st_ino, before.st_ctime_ns)


def test_emptied_and_removed_tags_are_followed(mirror: UsersMirror) -> None:
    model = mirror.upstream.model
    move_to_2(model)
    mirror.one_pass()
    model.now = lambda: OLD + DAY
    model.set_tag("tf-zos", "2", {})
    mirror.one_pass()
    assert names_in(users(mirror) / "tf-zos" / ".tag-2") == []
    model.delete_flist("tf-zos", "production")
    model.delete_flist("tf-zos", ".tag-2")
    model.delete_flist("tf-zos", ".tag-1")
    mirror.one_pass()
    assert names_in(users(mirror) / "tf-zos") == []


# What is on the disk already


def test_partial_tag_of_an_earlier_release_becomes_whole_or_is_named(mirror: UsersMirror) -> None:
    model = mirror.upstream.model
    model.set_tag("tf-zos", "2", THREE)
    mirror.one_pass()
    tag = users(mirror) / "tf-zos" / ".tag-2"
    (tag / "net.flist").unlink()
    (tag / "stray.flist").write_bytes(b"no link")
    model.set_taglink("tf-zos", "production", "tf-zos", "2")
    model.change_flist("tf-auto", "net.flist", b"<html>")
    record = mirror.one_pass()
    assert "its old state stays" in line(record, "tf-zos/tags/2")
    assert mirror.served()["tf-zos/production"] == ("link", "../tf-zos/.tag-1")
    assert names_in(tag) == ["base.flist", "store.flist", "stray.flist"]
    model.change_flist("tf-auto", "net.flist", small(1))
    mirror.one_pass()
    assert mirror.served() == model_tree(model)


@pytest.mark.parametrize("record_too", [False, True])
def test_folder_without_a_record_is_taken_over(record_too: bool, mirror: UsersMirror) -> None:
    move_to_2(mirror.upstream.model)
    mirror.one_pass()
    shutil.rmtree(users(mirror) / "tf-zos" / ".tag-2")
    shutil.copytree(
        users(mirror) / "tf-zos" / ".tag-1", users(mirror) / "tf-zos" / ".tag-2", symlinks=True
    )
    if record_too:
        for path in mirror.directories.state.iterdir():
            path.unlink()
    mirror.one_pass()
    assert mirror.served() == model_tree(mirror.upstream.model)
    options = VerifyOptions(chunks=True)
    assert verify(mirror.spec(), mirror.directories, options).problems == ()


@pytest.mark.parametrize("what", ["file", "link"])
def test_what_has_the_place_of_a_tag_gives_way(what: str, mirror: UsersMirror) -> None:
    mirror.one_pass()
    place = users(mirror) / "tf-zos" / ".tag-2"
    if what == "file":
        place.write_bytes(b"x")
    else:
        place.symlink_to("/etc")
    move_to_2(mirror.upstream.model)
    mirror.one_pass()
    assert mirror.served() == model_tree(mirror.upstream.model)
    assert not place.is_symlink()


def test_tag_that_is_served_is_not_named_for_each_flist_that_is_late(mirror: UsersMirror) -> None:
    model = mirror.upstream.model
    move_to_2(model)
    mirror.one_pass()
    model.change_flist("tf-auto", "net.flist", b"<html>")
    assert mirror.one_pass().broken.count == 1
