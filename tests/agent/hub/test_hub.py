"""The users job: one listing, exact decisions, content before what leads to it."""

import re
import time

import pytest

from tests.agent.hub.flists_of import small
from tests.agent.hub.small_hub import DAY, OLD
from tests.agent.mirrors import UsersMirror, model_tree
from tests.sandbox.upstream import Fault


def test_first_pass_mirrors_flists_links_tags_and_taglinks(mirror: UsersMirror) -> None:
    record = mirror.one_pass()
    model = mirror.upstream.model
    assert mirror.served() == model_tree(model)
    assert mirror.local_keys() == set(model.store.default.keys())
    assert (record.done, record.lag.items) == (record.total, 0)
    assert record.bootable_at is not None
    assert record.broken.count == record.refused.count == 0
    file = mirror.directories.public / "users" / "tf-zos" / "zos-2.flist"
    assert (file.stat().st_mode & 0o777, file.stat().st_mtime) == (0o644, OLD + 2 * DAY)


def test_unchanged_pass_is_one_request(mirror: UsersMirror) -> None:
    with mirror.engine() as (engine, _):
        engine.one_pass()
        before = engine._master.requests_sent
        engine.one_pass()
        assert engine._master.requests_sent - before == 1


def test_unchanged_pass_after_a_restart_is_one_request(mirror: UsersMirror) -> None:
    mirror.one_pass()
    record = mirror.one_pass()
    assert record.details["master_requests"] == 1
    assert mirror.served() == model_tree(mirror.upstream.model)


@pytest.mark.parametrize("modified", [OLD + 50 * DAY, OLD - 50 * DAY], ids=["newer", "older"])
@pytest.mark.parametrize("in_place", [True, False], ids=["in place", "by rename"])
def test_changed_flist_is_noticed_whatever_its_age(
    in_place: bool, modified: float, mirror: UsersMirror
) -> None:
    mirror.one_pass()
    model = mirror.upstream.model
    model.change_flist("alice", "blog.flist", small(99), in_place=in_place, modified=modified)
    mirror.one_pass()
    assert mirror.served() == model_tree(model)


def test_change_within_the_second_of_the_fetch_is_read_again(mirror: UsersMirror) -> None:
    model = mirror.upstream.model
    moment = float(int(time.time()))
    first = model.add_flist("alice", "fresh.flist", small(30), moment)
    mirror.one_pass()
    second = small(31).archive(model.backend)
    second += bytes(max(0, len(first) - len(second)))  # gzip readers ignore trailing zeros
    model.add_chunks(small(31).chunks)
    model.change_flist("alice", "fresh.flist", second, modified=moment)
    mirror.one_pass()
    assert mirror.served()["alice/fresh.flist"] == ("file", second)


def test_renamed_flist_and_repository_are_followed(mirror: UsersMirror) -> None:
    mirror.settings["removal_floor_items"] = 100
    mirror.one_pass()
    model = mirror.upstream.model
    model.rename_flist("alice", "blog.flist", "shop.flist")
    mirror.one_pass()
    assert mirror.served() == model_tree(model)
    model.rename_repository("alice", "alice-2")
    mirror.one_pass()
    assert mirror.served() == model_tree(model)
    assert not (mirror.directories.public / "users" / "alice").exists()


def test_retargeted_links_and_tags_are_followed(mirror: UsersMirror) -> None:
    mirror.one_pass()
    model = mirror.upstream.model
    model.set_link("tf-zos", "zos.flist", "zos-2.flist")
    model.retarget_tag("tf-zos", "3.1", "zos.flist", "tf-zos/zos-2.flist")
    model.set_tag("tf-zos", "3.2", {"zos.flist": "tf-zos/zos-0.flist"})
    model.set_taglink("tf-zos", "production", "tf-zos", "3.2")
    mirror.one_pass()
    assert mirror.served() == model_tree(model)


def test_names_that_change_their_kind_are_followed(mirror: UsersMirror) -> None:
    mirror.one_pass()
    model = mirror.upstream.model
    model.set_link("alice", "blog.flist", "shop.flist")
    model.add_flist("alice", "base.flist", small(40), OLD)
    mirror.one_pass()
    assert mirror.served() == model_tree(model)
    mirror.one_pass()
    assert mirror.served() == model_tree(model)


def test_deleted_flists_links_tags_and_repositories_go(mirror: UsersMirror) -> None:
    mirror.settings["removal_floor_items"] = 100
    mirror.one_pass()
    model = mirror.upstream.model
    model.delete_flist("alice", "zos")
    model.delete_flist("alice", "blog.flist")
    mirror.one_pass()
    assert mirror.served() == model_tree(model)
    model.delete_repository("alice")
    mirror.one_pass()
    assert mirror.served() == model_tree(model)


def test_flist_that_a_link_still_needs_is_not_removed(mirror: UsersMirror) -> None:
    """The master's link dangles; ours goes when the master says so, before what it leads to."""
    mirror.one_pass()
    model = mirror.upstream.model
    model.delete_flist("tf-zos", "zos-1.flist")
    mirror.upstream.hub_faults.add(Fault("status", r"/tf-zos/zos\.flist"))
    assert mirror.one_pass().details["held_for_links"] == 1
    assert "tf-zos/zos.flist" in mirror.served()
    mirror.upstream.hub_faults.clear()
    record = mirror.one_pass()
    assert record.broken.names == [
        "tf-zos/tags/3.1/zos.flist -> tf-zos/zos-1.flist: no such flist",
        "tf-zos/zos.flist -> tf-zos/zos-1.flist: no such flist",
    ]
    served = mirror.served()
    assert "tf-zos/zos.flist" not in served
    assert "tf-zos/zos-1.flist" not in served
    assert served["tf-zos/production"] == ("link", "../tf-zos/.tag-3.1")


def test_removed_flists_are_retained_with_their_chunks(mirror: UsersMirror) -> None:
    mirror.settings |= {"retention_days": 7, "removal_floor_items": 100}
    mirror.one_pass()
    model = mirror.upstream.model
    model.delete_flist("alice", "shop.flist")
    record = mirror.one_pass()
    assert record.details["retained"] == 1
    assert "alice/shop.flist" in mirror.served()
    assert small(21).chunks.keys() <= published_keys(mirror)
    model.add_flist("alice", "shop.flist", small(21), OLD)
    assert mirror.one_pass().details["retained"] == 0
    model.delete_flist("alice", "shop.flist")
    mirror.settings["retention_days"] = 0
    mirror.one_pass()
    assert "alice/shop.flist" not in mirror.served()
    assert not small(21).chunks.keys() & published_keys(mirror)


def published_keys(mirror: UsersMirror) -> set[bytes]:
    import sqlite3

    path = mirror.directories.state / "published.sqlite"
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
        keys = {row[0] for row in database.execute("SELECT key FROM chunk")}
    database.close()
    return keys


def test_published_keys_are_those_of_what_is_served(mirror: UsersMirror) -> None:
    import sqlite3

    started = time.time()
    mirror.one_pass()
    model = mirror.upstream.model
    assert published_keys(mirror) == set(model.store.default.keys())
    model.change_flist("alice", "blog.flist", small(50), modified=OLD + 60 * DAY)
    mirror.one_pass()
    keys = published_keys(mirror)
    assert small(50).chunks.keys() <= keys
    assert not small(20).chunks.keys() & keys
    with sqlite3.connect(mirror.directories.state / "published.sqlite") as database:
        meta = dict(database.execute("SELECT name, value FROM meta"))
    database.close()
    assert started <= meta["pass_started_at"] <= meta["pass_completed_at"] <= time.time()


# Subsets and order


def test_official_repositories_alone_need_only_their_own_chunks(mirror: UsersMirror) -> None:
    mirror.settings["repositories"] = {"include": ["tf-*"]}
    mirror.one_pass()
    expected = {
        name: node
        for name, node in model_tree(mirror.upstream.model).items()
        if name.startswith("tf-")
    }
    assert mirror.served() == expected
    wanted = [small(0), small(1), small(2), small(10)]
    assert mirror.local_keys() == {key for one in wanted for key in one.chunks}


def test_deselected_names_go_without_asking(mirror: UsersMirror) -> None:
    mirror.settings["removal_floor_items"] = 0
    mirror.one_pass()
    mirror.settings |= {"flists": {"include": ["tf-zos/*"]}, "removal_limit": 0}
    mirror.one_pass()
    assert {name.split("/")[0] for name in mirror.served()} == {"tf-zos"}


def test_flists_and_chunks_share_one_bandwidth_limit(mirror: UsersMirror) -> None:
    mirror.settings["bandwidth_bytes_per_second"] = 1 << 30
    with mirror.engine() as (engine, _):
        shared = engine._master._bandwidth
        assert shared is not None
        assert engine._chunks._bandwidth is shared


def test_official_and_newest_flists_are_fetched_first(mirror: UsersMirror) -> None:
    order: list[str] = []
    inner = mirror.upstream.hub_faults.deliver

    def note(connection: object, request: object, response: object) -> bool:
        path = str(getattr(request, "path", ""))
        if re.fullmatch(r"/[^/]+/[^/]+\.flist", path) and getattr(request, "method", "") == "GET":
            order.append(path)
        return bool(inner(connection, request, response))  # type: ignore[arg-type]

    mirror.upstream.hub.deliver = note
    mirror.settings["http"] = {"connections": 1}
    mirror.one_pass()
    assert order == [
        "/tf-zos/zos-2.flist",
        "/tf-zos/zos-1.flist",
        "/tf-zos/zos-0.flist",
        "/tf-bootable/debian.flist",
        "/alice/blog.flist",
        "/alice/shop.flist",
    ]
