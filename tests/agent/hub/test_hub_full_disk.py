"""A record that can not be written: what the running job believes is what the disk says."""

import itertools
import sqlite3
import threading
import time
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest

from sync.agent import durable
from sync.agent.flist.keys import KeyGroup
from sync.agent.hub import verify
from sync.agent.hub.chunk_store import ChunkStore, Missing, Route
from sync.agent.hub.engine import UsersEngine
from sync.agent.hub.state_db import HubStateDb
from sync.agent.job import VerifyOptions
from sync.agent.zdb.errors import ZdbConnectionError
from tests.agent.hub.flists_of import small
from tests.agent.mirrors import UsersMirror, dangling, model_tree, users_mirror
from tests.sandbox.upstream import Upstream, UpstreamModel

OLD = 1_700_000_000.0


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[UsersMirror]:
    model = UpstreamModel()
    model.now = lambda: OLD
    for number, name in enumerate("abc"):
        model.add_flist("alice", f"{name}.flist", small(number), OLD + number)
    model.set_link("alice", "link.flist", "a.flist")
    model.set_tag("alice", "1", {"x.flist": "alice/c.flist"})
    model.now = time.time
    with Upstream(model) as upstream, users_mirror(tmp_path, upstream) as made:
        made.settings["removal_floor_items"] = 100
        yield made


def pass_on_full_disk(engine: UsersEngine, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """Make a pass that ends as the record, written by `method`, is too large for the disk."""

    def full(*_: object) -> None:
        monkeypatch.undo()
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(HubStateDb, method, full)
    with pytest.raises(sqlite3.OperationalError):
        engine.one_pass()


def test_link_that_was_served_without_its_record_is_not_left_dangling(
    mirror: UsersMirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = mirror.upstream.model
    with mirror.engine() as (engine, _):
        engine.one_pass()
        model.set_link("alice", "new.flist", "b.flist")
        pass_on_full_disk(engine, monkeypatch, "put_link")
        assert "alice/new.flist" in mirror.served()
        model.delete_flist("alice", "new.flist")
        model.delete_flist("alice", "b.flist")
        engine.one_pass()
        assert not dangling(mirror)
        assert mirror.served() == model_tree(model)


def test_record_tells_in_the_next_pass_what_was_served_without_it(
    mirror: UsersMirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = mirror.upstream.model
    with mirror.engine() as (engine, _):
        engine.one_pass()
        model.set_link("alice", "new.flist", "b.flist")
        pass_on_full_disk(engine, monkeypatch, "put_link")
        engine.one_pass()
    assert verify(mirror.spec(), mirror.directories, VerifyOptions(chunks=True)).problems == ()


def test_flist_that_a_link_without_record_leads_to_stays(
    mirror: UsersMirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The link's record is lost, and the master's next state can not be followed at once."""
    model = mirror.upstream.model
    with mirror.engine() as (engine, _):
        engine.one_pass()
        model.set_link("alice", "link.flist", "b.flist")
        pass_on_full_disk(engine, monkeypatch, "put_link")
        model.add_flist("alice", "late.flist", small(9), OLD)
        for key in small(9).chunks:
            model.drop_chunk(key)
        model.set_link("alice", "link.flist", "late.flist")
        model.delete_flist("alice", "b.flist")
        engine.one_pass()
        assert not dangling(mirror)
        assert mirror.served()["alice/link.flist"] == ("link", "b.flist")


@pytest.mark.parametrize(
    ("name", "method"), [("link.flist", "delete_link"), ("b.flist", "delete_flist")]
)
def test_name_that_was_removed_without_its_record_comes_back(
    name: str, method: str, mirror: UsersMirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = mirror.upstream.model
    node = model.repositories["alice"].nodes[name]
    with mirror.engine() as (engine, _):
        engine.one_pass()
        model.delete_flist("alice", name)
        pass_on_full_disk(engine, monkeypatch, method)
        assert f"alice/{name}" not in mirror.served()
        model.put_node("alice", name, node)
        engine.one_pass()
        assert mirror.served() == model_tree(model)


def test_flist_that_was_served_without_its_record_is_fetched_anew(
    mirror: UsersMirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The master goes back to the file that the record still names; here is the other one."""
    model = mirror.upstream.model
    old, new = (small(number).archive(model.backend) for number in (1, 30))
    size = max(len(old), len(new))  # gzip readers ignore trailing zeros
    model.add_chunks(small(30).chunks)
    model.add_flist("alice", "b.flist", old.ljust(size, b"\0"), OLD)
    first = model.repositories["alice"].nodes["b.flist"]
    with mirror.engine() as (engine, _):
        engine.one_pass()
        data = new.ljust(size, b"\0")
        model.change_flist("alice", "b.flist", data, modified=OLD + 99)
        pass_on_full_disk(engine, monkeypatch, "put_flist")
        assert mirror.served()["alice/b.flist"] == ("file", data)
        model.put_node("alice", "b.flist", first)
        engine.one_pass()
        assert mirror.served() == model_tree(model)


def test_what_was_renamed_when_the_folder_can_not_be_synced_is_known_in_the_next_pass(
    mirror: UsersMirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = mirror.upstream.model
    with mirror.engine() as (engine, _):
        engine.one_pass()

        def broken(_: Path) -> None:
            raise OSError("I/O error")

        model.set_link("alice", "new.flist", "b.flist")
        model.delete_flist("alice", "c.flist")
        monkeypatch.setattr(durable, "sync", broken)
        with pytest.raises(OSError, match="I/O error"):
            engine.one_pass()
        monkeypatch.undo()
        assert "alice/new.flist" in mirror.served()
        engine.one_pass()
        names = {str(name) for name in engine._publisher.links}
        assert "alice/new.flist" in names
        assert not dangling(mirror)
    assert verify(mirror.spec(), mirror.directories, VerifyOptions(chunks=True)).problems == ()


def model_with_many(mirror: UsersMirror, count: int) -> UpstreamModel:
    """Give the master so many small flists of one repository more; returns its model."""
    model = mirror.upstream.model
    for number in range(count):
        model.add_flist("bob", f"{number}.flist", small(number), OLD + number)
    return model


def staged(mirror: UsersMirror) -> list[str]:
    """Name what is left in staging."""
    return [path.name for path in (mirror.directories.public / durable.STAGING).iterdir()]


def test_pass_that_is_given_up_leaves_nothing_in_staging_and_no_thread(
    mirror: UsersMirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_with_many(mirror, 30)

    def broken(*_: object) -> None:
        raise ZdbConnectionError("connection lost")

    with mirror.engine() as (engine, _):
        monkeypatch.setattr(ChunkStore, "fetch_groups", broken)
        with pytest.raises(ZdbConnectionError):
            engine.one_pass()
        assert staged(mirror) == []
        names = [thread.name for thread in threading.enumerate()]
        assert [name for name in names if name.startswith(("fetch_", "prepare_"))] == []
        monkeypatch.undo()
        engine.one_pass()
        assert mirror.served() == model_tree(model)


def test_what_is_prepared_or_waits_when_another_flist_fails_is_discarded(
    mirror: UsersMirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    model_with_many(mirror, 100)
    calls, lock, failed = itertools.count(), threading.Lock(), threading.Event()
    fetch = ChunkStore.fetch_groups

    def one_fails(self: ChunkStore, route: Route, groups: Collection[KeyGroup]) -> Missing:
        with lock:
            call = next(calls)
        if call == 10:
            failed.set()
            raise ZdbConnectionError("connection lost")
        if call > 10:
            failed.wait(10)
        return fetch(self, route, groups)

    with mirror.engine() as (engine, _):
        monkeypatch.setattr(ChunkStore, "fetch_groups", one_fails)
        with pytest.raises(ZdbConnectionError):
            engine.one_pass()
        assert staged(mirror) == []
