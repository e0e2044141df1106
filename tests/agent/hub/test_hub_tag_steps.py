"""A tag changes in one step: kills, full disks and readers at every moment; times, folders."""

import os
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from sync.agent import durable
from sync.agent.hub.state_db import HubStateDb
from sync.agent.hub.tree import Tree
from tests.agent.hub.flists_of import small
from tests.agent.hub.kill_at import Killed, kill_at
from tests.agent.hub.small_hub import DAY, OLD
from tests.agent.hub.tagged_hub import THREE, move_to_2, tagged_model, users
from tests.agent.mirrors import Served, UsersMirror, dangling, model_tree, names_in, users_mirror
from tests.sandbox.upstream import Upstream


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream(tagged_model()) as running:
        yield running


@pytest.fixture
def mirror(upstream: Upstream, tmp_path: Path) -> Iterator[UsersMirror]:
    with users_mirror(tmp_path, upstream, removal_floor_items=100) as made:
        yield made


# Kills and faults at every step


STEPS: Final = (
    (Path, ("mkdir", "symlink_to", "rename", "replace", "unlink", "rmdir")),
    (os, ("fsync", "utime")),
    (durable, ("exchange", "discard")),
    (HubStateDb, ("put_link", "put_tag_links", "delete_link", "put_flist", "put_tag")),
)


def tag_state(mirror: UsersMirror, tag: str) -> frozenset[tuple[str, str]] | None:
    """Return a tag as a hub lists it: each name, and where it leads."""
    folder = users(mirror) / "tf-zos" / f".tag-{tag}"
    if not folder.exists():
        return None
    return frozenset((path.name, str(path.readlink())) for path in folder.iterdir())


def state_of(tree: dict[str, Served], tag: str) -> frozenset[tuple[str, str]]:
    start = f"tf-zos/.tag-{tag}/"
    return frozenset(
        (name.removeprefix(start), str(text))
        for name, (_, text) in tree.items()
        if name.startswith(start)
    )


@pytest.mark.parametrize("exchanges", [True, False], ids=["exchange", "two renames"])
def test_kill_at_any_step_shows_the_old_tag_or_the_new_one(
    exchanges: bool, upstream: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = upstream.model
    old_tree = model_tree(model)
    with users_mirror(tmp_path / "first", upstream, removal_floor_items=100) as first:
        first.one_pass()
    move_to_2(model)
    model.now = lambda: OLD + DAY
    model.set_tag("tf-zos", "1", {"net.flist": "tf-auto/net.flist", "x.flist": "tf-auto/old.flist"})
    new_tree = model_tree(model)
    old, new = state_of(old_tree, "1"), state_of(new_tree, "1")
    seen = set()
    if not exchanges:
        monkeypatch.setattr(durable, "exchange", lambda *_: False)
    for at in range(1000):
        root = tmp_path / "killed"
        shutil.copytree(tmp_path / "first", root, symlinks=True)
        with users_mirror(root, upstream, removal_floor_items=100) as mirror:
            mirror.zdb.store.default.set_many(
                [(key, payload, 0) for n in range(4) for key, payload in small(n).chunks.items()]
            )
            with monkeypatch.context() as patch:
                done = kill_at(patch, at, STEPS)
                ended = True
                try:
                    mirror.one_pass()
                except Killed:
                    ended = False
            if not exchanges:
                durable.staging_directory(mirror.directories.public)
            seen.add((tag_state(mirror, "1"), tag_state(mirror, "2")))
            assert tag_state(mirror, "1") in {old, new}, done[-5:]
            assert tag_state(mirror, "2") in {None, state_of(new_tree, "2")}, done[-5:]
            assert not dangling(mirror), done[-5:]
            mirror.one_pass()
            assert mirror.served() == new_tree
            assert list((mirror.directories.public / ".gridhub").iterdir()) == []
        shutil.rmtree(root)
        if ended:
            break
    assert len(seen) == 3, "old, one of two, new"
    assert at > 20


def test_readers_during_swaps_see_whole_states_only(mirror: UsersMirror) -> None:
    model = mirror.upstream.model
    states = []
    for number in range(4):
        entries = {f"{n}{number}.flist": f"tf-auto/{n}.flist" for n in ("base", "net", "store")}
        states.append({**entries, "same.flist": f"tf-auto/{('base', 'net')[number % 2]}.flist"})
    allowed = {
        frozenset((name, f"../../{target}") for name, target in state.items()) for state in states
    }
    model.set_tag("tf-zos", "2", states[0])
    mirror.one_pass()
    tag, done = users(mirror) / "tf-zos" / ".tag-2", threading.Event()
    seen: set[frozenset[tuple[str, str]]] = set()
    wrong: list[object] = []

    def read() -> None:
        while not done.is_set():
            before = tag.stat().st_ino
            try:
                names = names_in(tag)
                state = frozenset((name, os.readlink(tag / name)) for name in names)  # noqa: PTH115
            except FileNotFoundError:
                continue  # the hub's 500: its two looks met two states
            if tag.stat().st_ino == before:
                (seen.add if state in allowed else wrong.append)(state)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        with mirror.engine() as (engine, _):
            for turn in range(1, 13):
                model.now = partial(float, OLD + turn * DAY)
                model.set_tag("tf-zos", "2", states[turn % 4])
                engine.one_pass()
    finally:
        done.set()
        reader.join()
    assert wrong == []
    assert len(seen) > 1


def test_full_disk_in_the_middle_of_a_tag_leaves_the_old_one(
    mirror: UsersMirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = mirror.upstream.model
    with mirror.engine() as (engine, _):
        engine.one_pass()
        model.now = lambda: OLD + DAY
        model.set_tag("tf-zos", "1", THREE)
        before = tag_state(mirror, "1")

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, "symlink_to", full)
        with pytest.raises(OSError, match="No space"):
            engine.one_pass()
        assert tag_state(mirror, "1") == before
        assert list((mirror.directories.public / ".gridhub").iterdir()) == []
        monkeypatch.undo()
        engine.one_pass()
        assert mirror.served() == model_tree(model)


# Repositories and times


def test_empty_repositories_of_the_master_are_here_and_go_with_it(mirror: UsersMirror) -> None:
    model = mirror.upstream.model
    model.repository("empty")
    mirror.one_pass()
    assert (users(mirror) / "empty").is_dir()
    model.delete_repository("empty")
    mirror.one_pass()
    assert not (users(mirror) / "empty").exists()
    model.repository("empty")
    mirror.settings["repositories"] = {"exclude": ["empty"]}
    mirror.one_pass()
    assert not (users(mirror) / "empty").exists()


def times(mirror: UsersMirror) -> list[float]:
    return [path.lstat().st_mtime for path in users(mirror).rglob("*")]


@pytest.mark.parametrize("seconds", [-(1 << 33), -5, -1, 1 << 32, 1 << 36])
def test_no_entry_has_a_time_that_a_node_can_not_read(seconds: int, mirror: UsersMirror) -> None:
    model = mirror.upstream.model
    model.now = lambda: float(seconds)
    model.add_flist("tf-auto", "strange.flist", small(5))
    model.set_link("tf-auto", "link.flist", "strange.flist")
    move_to_2(model, {"a.flist": "tf-auto/strange.flist"})
    mirror.one_pass()
    assert mirror.served() == model_tree(model)
    assert all(0 <= time < 1 << 32 for time in times(mirror))
    if seconds < 0:  # what is younger than the master's clock is asked for again
        assert mirror.one_pass().details["master_requests"] == 1, "and it is current"


def test_adopted_entries_with_negative_times_are_mended(mirror: UsersMirror) -> None:
    mirror.one_pass()
    for path in [users(mirror) / "tf-auto", *users(mirror).rglob("*")]:
        os.utime(path, (-100, -100), follow_symlinks=False)
    (users(mirror) / "tf-auto" / "readme.txt").write_text("the hub lists it")
    os.utime(users(mirror) / "tf-auto" / "readme.txt", (-7, -7))
    mirror.one_pass()
    assert all(0 <= time < 1 << 32 for time in times(mirror))


@pytest.mark.parametrize("mode", [0o000, 0o500, 0o700, 0o555, 0o750, 0o2770])
def test_adopted_folders_and_files_are_open_to_the_hub(mode: int, mirror: UsersMirror) -> None:
    """A careful umask, a copy, or a hub that was taken over while it could write."""
    mirror.one_pass()
    own = users(mirror) / "tf-auto" / "readme.txt"
    own.write_text("the hub lists it")
    below = [path for path in users(mirror).rglob("*") if not path.is_symlink()]
    for path in below:
        path.chmod(mode)
    mirror.one_pass()
    for path in below:
        wanted = 0o755 if path.is_dir() else 0o644
        assert path.stat().st_mode & wanted == wanted, path


def test_staging_is_outside_of_what_the_hub_lists(mirror: UsersMirror) -> None:
    """Names below users are those that are served, at every step that changes one."""
    move_to_2(mirror.upstream.model)
    names = {Path(name).name for name in model_tree(mirror.upstream.model)}
    names |= {"tf-auto", "tf-zos", ".tag-1", ".tag-2"}
    tree = Tree(mirror.directories.public)
    assert tree.staging.parent == users(mirror).parent
    watched: set[str] = set()
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            watched.update(path.name for path in users(mirror).rglob("*"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    mirror.one_pass()
    done.set()
    watcher.join()
    assert watched <= names
