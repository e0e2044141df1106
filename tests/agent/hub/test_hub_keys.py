"""No flist is served whose chunks may be deleted, whoever put it there and whatever was lost."""

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from sync.agent.hub import repair
from sync.agent.hub.state_db import DATABASE
from sync.agent.job import JobPaused, PassIncompleteError, VerifyOptions
from sync.agent.master.client import EndpointLostError, HttpError
from sync.contract.pinned_chunks import FILE, PinnedChunks, PinnedChunksReader
from sync.contract.state_db import StateDb
from tests.agent.hub.flists_of import small
from tests.agent.hub.kill_at import Killed, kill_at
from tests.agent.hub.served_keys import may_be_deleted, pinned_keys, served_keys
from tests.agent.hub.small_hub import DAY, OLD
from tests.agent.mirrors import UsersMirror, users_mirror
from tests.sandbox.upstream import Fault, Upstream
from tests.sandbox.upstream.nodes import File

SHOP = "alice/shop.flist"


def flists(mirror: UsersMirror) -> Path:
    return mirror.directories.public / "users"


def put(mirror: UsersMirror, name: str, data: bytes, modified: float = OLD) -> None:
    """Serve a flist that the job did not publish, as an upstream mirror or an upload left it."""
    path = flists(mirror) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    os.utime(path, (modified, modified))


def put_shop(mirror: UsersMirror) -> frozenset[bytes]:
    """Serve a flist that the master has, and return its keys."""
    node = mirror.upstream.model.repositories["alice"].nodes["shop.flist"]
    assert isinstance(node, File)
    put(mirror, SHOP, node.data)
    return served_keys(mirror.directories.public)[SHOP]


def some_pass(mirror: UsersMirror) -> None:
    """Run a pass that may end early."""
    with contextlib.suppress(PassIncompleteError, JobPaused, HttpError, EndpointLostError):
        mirror.one_pass()


def reader(mirror: UsersMirror) -> PinnedChunksReader:
    return PinnedChunksReader(mirror.directories.state)


def retained(mirror: UsersMirror) -> None:
    mirror.settings["retention_days"] = 30.0
    mirror.upstream.model.delete_flist("alice", "shop.flist")


def unreadable_by_now(mirror: UsersMirror) -> None:
    mirror.upstream.model.put_node("alice", "shop.flist", File(b"no flist at all", OLD + DAY))


def too_large_by_now(mirror: UsersMirror) -> None:
    mirror.settings["max_flist_bytes"] = 50_000
    big = File(os.urandom(60_000), OLD + DAY)
    mirror.upstream.model.put_node("alice", "shop.flist", big)


def without_chunks_by_now(mirror: UsersMirror) -> None:
    model = mirror.upstream.model
    model.add_flist("alice", "shop.flist", small(77), OLD + DAY)
    model.drop_chunk(min(model.chunk_keys("alice", "shop.flist")))


def not_delivered(mirror: UsersMirror) -> None:
    mirror.upstream.hub_faults.add(Fault("status", r"/alice/shop\.flist"))


def not_described(mirror: UsersMirror) -> None:
    mirror.upstream.hub_faults.add(Fault("status", r".*/alice/shop\.flist/light"))


def still_answered_for(mirror: UsersMirror) -> None:
    """Let the list lose it, while the master does not say that it is gone."""
    mirror.upstream.model.delete_flist("alice", "shop.flist")
    mirror.upstream.hub_faults.add(Fault("status", r"/alice/shop\.flist"))


def led_to(mirror: UsersMirror) -> None:
    """Let a link lead to it that waits for its new target."""
    model = mirror.upstream.model
    (flists(mirror) / "alice" / "kept.flist").symlink_to("shop.flist")
    model.add_flist("alice", "late.flist", small(78), OLD + DAY)
    model.drop_chunk(min(model.chunk_keys("alice", "late.flist")))
    model.set_link("alice", "kept.flist", "late.flist")
    model.delete_flist("alice", "shop.flist")


STAYS: dict[str, Callable[[UsersMirror], None]] = {
    "retained": retained,
    "withheld: unreadable": unreadable_by_now,
    "withheld: too large": too_large_by_now,
    "withheld: lacks chunks": without_chunks_by_now,
    "fails": not_delivered,
    "not described": not_described,
    "not confirmed": still_answered_for,
    "held for a link": led_to,
}


@pytest.mark.parametrize("case", STAYS)
def test_flist_that_somebody_else_left_keeps_its_chunks_while_it_is_served(
    case: str, mirror: UsersMirror
) -> None:
    keys = put_shop(mirror)
    STAYS[case](mirror)
    for _ in range(4):
        some_pass(mirror)
        assert SHOP in mirror.served()
        assert may_be_deleted(mirror.directories) == {}
    assert keys <= pinned_keys(mirror.directories.state)
    assert reader(mirror).unread() == 0


def test_flists_that_wait_for_the_operators_word_keep_their_chunks(mirror: UsersMirror) -> None:
    """The pass is paused before it ends: what is served is pinned all the same."""
    keys = put_shop(mirror)
    mirror.settings |= {"removal_limit": 0, "removal_floor_items": 0}
    mirror.upstream.model.delete_flist("alice", "shop.flist")
    with pytest.raises(JobPaused):
        mirror.one_pass()
    assert keys <= pinned_keys(mirror.directories.state)
    assert may_be_deleted(mirror.directories) == {}


# Flists that no row can be of

STRAYS: Final = {
    "a link of a tag that a copy made a file": "tf-zos/.tag-3.1/zos.flist",
    "another file in a tag": "tf-zos/.tag-3.1/own.flist",
    "hidden": "alice/.own.flist",
    "with a control character": "alice/o\twn.flist",
    "of no UTF-8": os.fsdecode(b"alice/\xff.flist"),
    "in a repository of such a name": "al\tice/own.flist",
    "in the hub's own folder": "static/own.flist",
}


@pytest.mark.parametrize("place", STRAYS.values(), ids=STRAYS)
def test_flist_that_no_row_can_be_of_keeps_its_chunks_while_it_is_served(
    place: str, mirror: UsersMirror
) -> None:
    one, other = small(90), small(91)
    put(mirror, place, one.archive(mirror.upstream.model.backend))
    mirror.upstream.hub_faults.add(Fault("status", r"/api/flist/tf-zos/tags/3\.1"))
    for _ in range(3):
        some_pass(mirror)
        assert (flists(mirror) / place).is_file()
        pinned = pinned_keys(mirror.directories.state)
        assert one.chunks.keys() <= pinned or reader(mirror).unread()
    assert one.chunks.keys() <= pinned_keys(mirror.directories.state)
    assert reader(mirror).pass_started_at() is not None
    # Another file, as a hub that could write left it.
    put(mirror, place, other.archive(mirror.upstream.model.backend))
    some_pass(mirror)
    pinned = pinned_keys(mirror.directories.state)
    assert other.chunks.keys() <= pinned
    assert not one.chunks.keys() & pinned
    # Gone: by the operator, or with the tag as it is shown anew.
    if "/.tag-" in place:
        mirror.upstream.hub_faults.clear()
        mirror.settings["removal_floor_items"] = 100  # another spec: it is tried again at once
        some_pass(mirror)
    else:
        (flists(mirror) / place).unlink()
    assert not (flists(mirror) / place).is_file() or (flists(mirror) / place).is_symlink()
    some_pass(mirror)
    assert not other.chunks.keys() & pinned_keys(mirror.directories.state)
    assert reader(mirror).unread() == 0


def test_stray_flist_that_cannot_be_read_holds_all_deletes_until_it_is_gone(
    mirror: UsersMirror,
) -> None:
    place = flists(mirror) / "tf-zos" / ".tag-3.1" / "own.flist"
    put(mirror, "tf-zos/.tag-3.1/own.flist", b"\x1f\x8b and no more")
    mirror.upstream.hub_faults.add(Fault("status", r"/api/flist/tf-zos/tags/3\.1"))
    with mirror.engine() as (engine, status):
        for _ in range(2):
            with contextlib.suppress(PassIncompleteError):
                engine.one_pass()
            assert reader(mirror).unread() == 1
        assert any(
            "own.flist: its chunks are not known" in one for one in status.record.broken.names
        )
        place.unlink()
        engine.one_pass()
        assert reader(mirror).unread() == 0


# States that were lost, or are of another time


def lose(*names: str) -> Callable[[UsersMirror, Path], None]:
    def change(mirror: UsersMirror, _: Path) -> None:
        for name in names:
            for path in mirror.directories.state.glob(f"{name}*"):
                path.unlink()

    return change


def restore(name: str) -> Callable[[UsersMirror, Path], None]:
    def change(mirror: UsersMirror, backup: Path) -> None:
        lose(name)(mirror, backup)
        for path in backup.glob(f"{name}*"):
            shutil.copy(path, mirror.directories.state)

    return change


def rows_and_tree_of_a_backup(mirror: UsersMirror, backup: Path) -> None:
    """Let the table alone be of now: it has let go of what the flists of then name."""
    restore(DATABASE)(mirror, backup)
    shutil.rmtree(flists(mirror))
    shutil.copytree(backup / "users", flists(mirror), symlinks=True)


def of_another_mirror(mirror: UsersMirror, _: Path) -> None:
    lose(FILE)(mirror, mirror.directories.state)
    with PinnedChunks(mirror.directories.state) as table:
        table.add([b"a chunk of others"])
        table.completed(OLD, OLD + 1)


def uploaded(mirror: UsersMirror, _: Path) -> None:
    """Let the stack have been `detached`: its hub took uploads over what was mirrored."""
    packed = small(80)
    data = packed.archive(mirror.upstream.model.backend)
    mirror.upstream.model.add_chunks(packed.chunks)
    put(mirror, SHOP, data, OLD + DAY)
    put(mirror, "carol/own.flist", data, OLD + DAY)


LOSSES: dict[str, Callable[[UsersMirror, Path], None]] = {
    "rows lost": lose(DATABASE),
    "table lost": lose(FILE),
    "both lost": lose(DATABASE, FILE),
    "rows of a backup": restore(DATABASE),
    "rows and tree of a backup": rows_and_tree_of_a_backup,
    "table of a backup": restore(FILE),
    "table of another mirror": of_another_mirror,
    "uploads while detached": uploaded,
}


@pytest.mark.parametrize("dark", [False, True], ids=["master there", "master dark"])
@pytest.mark.parametrize("case", LOSSES)
def test_lost_or_older_state_lets_no_chunk_of_what_is_served_be_deleted(
    case: str, dark: bool, mirror: UsersMirror, tmp_path: Path
) -> None:
    mirror.settings |= {"retention_days": 30.0}
    model = mirror.upstream.model
    mirror.one_pass()
    backup = tmp_path / "backup"
    shutil.copytree(mirror.directories.state, backup)
    shutil.copytree(flists(mirror), backup / "users", symlinks=True)
    model.add_flist("alice", "blog.flist", small(81), OLD + 50 * DAY)
    model.delete_flist("tf-zos", "zos-2.flist")
    mirror.one_pass()
    LOSSES[case](mirror, backup)
    # What the flists job is to know then: that it knows nothing.
    if dark:
        mirror.upstream.hub_faults.add(Fault("status", r"/api/fileslist"))
        some_pass(mirror)
        assert may_be_deleted(mirror.directories) == {}
        mirror.upstream.hub_faults.clear()
    mirror.upstream.hub_faults.add(Fault("status", r"/alice/shop\.flist"))
    for _ in range(3):
        some_pass(mirror)
        assert may_be_deleted(mirror.directories) == {}
    mirror.upstream.hub_faults.clear()
    mirror.one_pass()
    assert may_be_deleted(mirror.directories) == {}
    served = served_keys(mirror.directories.public)
    assert "tf-zos/zos-2.flist" in served
    assert pinned_keys(mirror.directories.state) == frozenset().union(*served.values())
    assert reader(mirror).pass_started_at() is not None


@pytest.mark.parametrize("lost", [(DATABASE,), (FILE,), (DATABASE, FILE)])
def test_repair_after_a_loss_lets_no_chunk_be_deleted(
    lost: tuple[str, ...], mirror: UsersMirror
) -> None:
    mirror.settings |= {"retention_days": 30.0}
    mirror.one_pass()
    mirror.upstream.model.delete_flist("tf-zos", "zos-2.flist")
    mirror.one_pass()
    lose(*lost)(mirror, mirror.directories.state)
    # Its pass ends early; before it, the table was written anew from the rows.
    mirror.upstream.hub_faults.add(Fault("status", r"/api/fileslist", after=1))
    with contextlib.suppress(HttpError):
        repair(mirror.spec(), mirror.directories, VerifyOptions())
    assert may_be_deleted(mirror.directories) == {}
    mirror.upstream.hub_faults.clear()
    mirror.one_pass()
    assert may_be_deleted(mirror.directories) == {}
    assert small(2).chunks.keys() <= pinned_keys(mirror.directories.state)


def test_table_of_the_release_before_is_taken_as_it_is(
    mirror: UsersMirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To write it anew takes long where a hub is large."""
    mirror.one_pass()
    state = mirror.directories.state
    for name, keys in ((DATABASE, ("pinned_table",)), (FILE, ("identity", "unread"))):
        with contextlib.closing(sqlite3.connect(state / name)) as database:
            for key in keys:
                database.execute("DELETE FROM meta WHERE name=?", (key,))
            database.commit()
    before = pinned_keys(state)

    def never(*_: object) -> None:
        pytest.fail("written anew")

    monkeypatch.setattr(PinnedChunks, "rebuild", never)
    for _ in range(2):
        mirror.one_pass()
        assert pinned_keys(state) == before
        assert reader(mirror).pass_started_at() is not None


# Files that cannot be read


@pytest.mark.parametrize(
    "data", [b"\x1f\x8b and no more", b"\x1f\x8b\x08\x00" + bytes(100)], ids=["half", "damaged"]
)
def test_flist_that_cannot_be_read_holds_all_deletes_and_is_named(
    data: bytes, mirror: UsersMirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node may read more than this does."""
    from sync.agent.flist.reader_pool import ReaderPool

    mirror.settings |= {"retention_days": 30.0}
    put(mirror, "alice/odd.flist", data)
    record = mirror.one_pass()
    assert reader(mirror).pass_started_at() is None
    with pytest.raises(sqlite3.OperationalError, match="1 served flists"):
        reader(mirror).pinned([b"any"])
    (named,) = record.broken.names
    assert "alice/odd.flist" in named
    assert "none is deleted while it is served" in named
    assert record.details["keys_unknown"] == 1
    with mirror.engine() as (engine, _):
        engine.one_pass()
        with monkeypatch.context() as patch:
            patch.setattr(ReaderPool, "read", lambda *_: pytest.fail("the same file again"))
            engine.one_pass()
    mirror.settings |= {"retention_days": 0.0}
    (flists(mirror) / "alice/odd.flist").unlink()
    mirror.one_pass()
    assert reader(mirror).pass_started_at() is not None


@pytest.mark.parametrize("data", [b"<html>404</html>", b"", b"\x1f", b"SQLite format 3\0"])
def test_page_that_was_saved_as_a_flist_needs_no_chunks(data: bytes, mirror: UsersMirror) -> None:
    mirror.settings |= {"retention_days": 30.0}
    put(mirror, "alice/page.flist", data)
    mirror.one_pass()
    assert "alice/page.flist" in mirror.served()
    assert reader(mirror).unread() == 0


# Kills


STEPS: Final = (
    (Path, ("rename", "replace", "unlink")),
    (StateDb, ("_put", "_delete", "set_text")),
    (PinnedChunks, ("add", "release", "rebuild", "set_unread", "completed")),
)


def before_adoption(mirror: UsersMirror) -> None:
    mirror.settings |= {"retention_days": 30.0}
    put_shop(mirror)
    retained(mirror)


def before_a_change(mirror: UsersMirror) -> None:
    """Let a flist change while its old keys wait to be let go, and another is not known."""
    mirror.settings |= {"retention_days": 30.0}
    mirror.one_pass()
    model = mirror.upstream.model
    model.change_flist("alice", "blog.flist", small(90), modified=OLD + 60 * DAY)
    model.change_flist("alice", "shop.flist", small(91), modified=OLD + 61 * DAY)
    data = small(2).archive(model.backend)
    put(mirror, "bob/other.flist", data)


def before_repair(mirror: UsersMirror) -> None:
    before_a_change(mirror)
    lose(FILE)(mirror, mirror.directories.state)


KILLED: dict[str, Callable[[UsersMirror], None]] = {
    "adoption": before_adoption,
    "change": before_a_change,
    "table lost": before_repair,
}


@pytest.fixture
def roots(tmp_path: Path) -> Path:
    folder = tmp_path / "roots"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("case", KILLED)
@pytest.mark.parametrize(
    "every", [pytest.param(9, id="some"), pytest.param(1, id="each", marks=pytest.mark.soak)]
)
def test_kill_at_any_step_lets_no_chunk_of_what_is_served_be_deleted(
    every: int, case: str, upstream: Upstream, roots: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with users_mirror(roots / "first", upstream) as first:
        KILLED[case](first)
        settings = first.settings
        keys = first.local_keys()
    stored = [(key, upstream.model.store.default.payload(key), 0) for key in keys]
    for at in range(every // 2, 1000, every):
        root = roots / "killed"
        shutil.copytree(roots / "first", root, symlinks=True)
        with users_mirror(root, upstream, **settings) as mirror:
            mirror.zdb.store.default.set_many([(one, data, 0) for one, data, _ in stored if data])
            with monkeypatch.context() as patch:
                done = kill_at(patch, at, STEPS, left_alone="all others")
                ended = True
                try:
                    mirror.one_pass()
                except Killed:
                    ended = False
            assert may_be_deleted(mirror.directories) == {}, done[-5:]
            if not ended:
                # It starts anew, and the master is not there.
                upstream.hub_faults.add(Fault("status", r"/api/fileslist"))
                some_pass(mirror)
                upstream.hub_faults.clear()
                assert may_be_deleted(mirror.directories) == {}, done[-5:]
                mirror.one_pass()
            assert may_be_deleted(mirror.directories) == {}, done[-5:]
            served = served_keys(mirror.directories.public)
            assert frozenset().union(*served.values()) <= pinned_keys(mirror.directories.state)
            assert reader(mirror).pass_started_at() is not None
        shutil.rmtree(root)
        if ended:
            break
    assert at > 20
