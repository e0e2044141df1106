"""Root among the folders of services that it does not trust: whatever they put there, and when."""

import base64
import io
import json
import os
import resource
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sync.providers.host import descent, facts, root_helper
from sync.providers.host.connection import HostConnection
from sync.providers.host.host import DataRoot
from tests.planted import NO_FILES, SECRET, deep_tree, remove

UID = os.geteuid()
as_root = pytest.mark.skipif(UID != 0, reason="needs root, to change owners")
# Deeper than Python recurses; than a path may be long; than a process may have files open.
DEEP = [(1100, "d"), (60, "n" * 200), (5000, "d")]
PLACE = "secrets/hub/key"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root/secrets/hub").mkdir(parents=True)
    return tmp_path / "root"


@pytest.fixture
def quick_root() -> Iterator[Path]:
    """Yield a data root where thousands of directories are made and removed in no time."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        (Path(folder) / "secrets/hub").mkdir(parents=True)
        yield Path(folder)
        remove(Path(folder))
        Path(folder).mkdir()


@pytest.fixture
def few_files() -> Iterator[None]:
    """Let this process open hardly any files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = max(int(path.name) for path in Path("/proc/self/fd").iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (taken + 16, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def answer(root: Path, operation: str, **parameters: object) -> Any:
    request = {"operation": operation, "root": str(root), **parameters}
    return json.loads(json.dumps(root_helper.answer(request, io.BytesIO())))


def look(root: Path, *paths: str) -> Any:
    asked = {"paths": list(paths), "trees": ["secrets"], "agents": "agent"}
    return answer(root, "facts", **asked)["result"]["paths"]


def write(root: Path, path: str = PLACE, content: bytes = b"new") -> Any:
    encoded = base64.b64encode(content).decode()
    file = {"path": path, "uid": UID, "mode": 0o600, "content": encoded}
    return answer(root, "write_files", files=[file])


# What is there instead of a file


@pytest.mark.parametrize("what", NO_FILES)
def test_what_is_no_file_is_described_and_never_opened(root: Path, what: str) -> None:
    NO_FILES[what](root / PLACE)
    (root / "secrets/hub/other").write_text("x")
    for seen in (look(root), look(root, PLACE)):
        assert seen[PLACE]["kind"] == ("directory" if "directory" in what else "other")
        assert "sha256" not in seen[PLACE]
        assert len(seen["secrets/hub/other"]["sha256"]) == 64


@pytest.mark.parametrize("what", [*NO_FILES, "a hard link"])
def test_a_file_is_written_in_place_of_whatever_is_there(root: Path, what: str) -> None:
    if what == "a hard link":
        (root / "secrets/hub/of-another").write_text(SECRET)
        (root / PLACE).hardlink_to(root / "secrets/hub/of-another")
    else:
        NO_FILES[what](root / PLACE)
    reply = write(root)
    if what == "a full directory":
        assert reply["kind"] == "refused"
        assert f"{root}/{PLACE}: a directory that is not empty" in reply["error"]
        assert "move it away" in reply["error"]
        assert (root / PLACE / "of-an-operator").is_dir()
        assert [path.name for path in (root / "secrets/hub").iterdir()] == ["key"]
        return
    assert reply == {"result": None}
    assert (root / PLACE).read_bytes() == b"new"
    assert not (root / PLACE).is_symlink()
    assert not (root / "secrets/hub/of-another").exists() or (
        (root / "secrets/hub/of-another").read_text() == SECRET
    )


@pytest.mark.parametrize("what", NO_FILES)
def test_what_is_there_in_place_of_a_file_is_removed_and_not_what_is_behind(
    root: Path, what: str
) -> None:
    NO_FILES[what](root / PLACE)
    reply = answer(root, "remove_files", paths=[PLACE])
    if what == "a full directory":
        assert reply["kind"] == "refused"
        assert f"{root}/{PLACE}" in reply["error"]
        return
    assert reply == {"result": None}
    assert not os.path.lexists(root / PLACE)
    assert "secret" not in what or (root / "secrets/hub/of-another").read_text() == SECRET


@pytest.mark.parametrize("what", NO_FILES)
def test_what_looks_like_a_half_written_file_hinders_no_writing(root: Path, what: str) -> None:
    left = root / "secrets/hub/.key.0a.tmp"
    NO_FILES[what](left)
    os.utime(left, (0, 0), follow_symlinks=False)
    assert write(root) == {"result": None}
    assert (root / PLACE).read_bytes() == b"new"


@pytest.mark.parametrize("what", NO_FILES)
def test_a_listed_directory_that_is_none_is_refused_with_path_and_remedy(
    root: Path, what: str
) -> None:
    if "directory" in what:
        return
    (root / "public").mkdir()
    NO_FILES[what](root / "public/users")
    paths = [{"path": path, "uid": UID, "mode": 0o755} for path in ("public", "public/users")]
    reply = answer(root, "make_directories", directories=paths)
    assert reply["kind"] == "refused"
    assert f"{root}/public/users: users is a symbolic link or no directory" in reply["error"]
    assert "remove what is there" in reply["error"]


# What is exchanged meanwhile


@pytest.mark.parametrize("what", [name for name in NO_FILES if name != "a full directory"])
def test_a_file_exchanged_after_it_was_looked_at_is_not_what_is_read(
    root: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    (root / PLACE).write_text("own")
    before, real = look(root)[PLACE], {name: getattr(os, name) for name in ("stat", "fstat")}
    inode = (root / PLACE).stat().st_ino

    def exchanged_after(name: str) -> Callable[..., os.stat_result]:
        def looked(*arguments: Any, **options: Any) -> os.stat_result:
            found: os.stat_result = real[name](*arguments, **options)
            if found.st_ino == inode and not os.path.lexists(root / "secrets/hub/moved"):
                (root / PLACE).rename(root / "secrets/hub/moved")
                NO_FILES[what](root / PLACE)
            return found

        return looked

    for name in real:
        monkeypatch.setattr(os, name, exchanged_after(name))
    assert look(root)[PLACE] == before


@as_root
def test_what_another_owns_is_not_handed_over_by_a_swap(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    public = root / "public"
    for path in (public / "own", root / "public/of-root"):
        path.mkdir(parents=True)
    os.chown(public, 1001, 1001)
    os.chown(public / "own", 1001, 1001)
    real = {name: getattr(os, name) for name in ("stat", "fstat")}
    inode = (public / "own").stat().st_ino

    def swapped_after(name: str) -> Callable[..., os.stat_result]:
        def looked(*arguments: Any, **options: Any) -> os.stat_result:
            found: os.stat_result = real[name](*arguments, **options)
            if found.st_ino == inode and (public / "of-root").is_dir():
                (public / "own").rename(public / "moved")
                (public / "of-root").rename(public / "own")
            return found

        return looked

    (public / "of-root/kept").write_text("x")
    for name in real:
        monkeypatch.setattr(os, name, swapped_after(name))
    root_helper.make_directories(str(root), [{"path": "public", "uid": 1005, "mode": 0o755}])
    monkeypatch.undo()
    assert (public / "own").stat().st_uid == 0
    assert (public / "moved").stat().st_uid == 1005


def test_a_directory_that_is_moved_away_while_it_is_emptied_leads_root_nowhere(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = root / "outside"
    (outside / "kept").mkdir(parents=True)
    deep_tree(root / "state", levels=5)
    real = os.unlink

    def moved_before(path: Any, *arguments: Any, **options: Any) -> None:
        if path == "last":
            (root / "state/d/d/d").rename(outside / "d")
        real(path, *arguments, **options)

    monkeypatch.setattr(os, "unlink", moved_before)
    reply = answer(root, "empty", paths=["state"])
    assert reply["kind"] == "refused"
    assert f"{root}/state/d/d/d: was moved while root was there" in reply["error"]
    assert "run pulumi up again" in reply["error"]
    assert (outside / "kept").is_dir()


@pytest.mark.parametrize("what", ["a link to the outside", "a FIFO", "nothing"])
def test_a_directory_exchanged_before_it_is_entered_is_not_followed(
    root: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    (root / "outside/kept").mkdir(parents=True)
    (root / "state/a").mkdir(parents=True)
    real = os.open

    def exchanged_before(path: Any, *arguments: Any, **options: Any) -> int:
        if path == "a" and (root / "state/a").is_dir() and not (root / "state/a").is_symlink():
            (root / "state/a").rmdir()
            if what == "a FIFO":
                os.mkfifo(root / "state/a")
            elif what != "nothing":
                (root / "state/a").symlink_to(root / "outside")
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "open", exchanged_before)
    assert answer(root, "empty", paths=["state"]) == {"result": None}
    assert (root / "outside/kept").is_dir()


# What is deep, large or strangely named


@pytest.mark.usefixtures("few_files")
@pytest.mark.parametrize(("levels", "name"), DEEP)
def test_a_tree_however_deep_is_removed(quick_root: Path, levels: int, name: str) -> None:
    root = quick_root
    deep_tree(root / "state", levels, name)
    (root / "state/link").symlink_to(root / "secrets")
    assert answer(root, "empty", paths=["state"]) == {"result": None}
    assert list((root / "state").iterdir()) == []
    deep_tree(root / "state/again", 1100)
    assert answer(root, "purge", paths=["state"]) == {"result": None}
    assert not (root / "state").exists()
    assert (root / "secrets/hub").is_dir()


@as_root
@pytest.mark.usefixtures("few_files")
@pytest.mark.parametrize(("levels", "name"), DEEP)
def test_a_tree_however_deep_is_handed_over(quick_root: Path, levels: int, name: str) -> None:
    root = quick_root
    deep_tree(root / "public", levels, name)
    chain = [root / "public", root / "public" / name, root / "public" / name / name]
    for path in chain:
        os.chown(path, 1001, 1001)
    entry = {"path": "public", "uid": 1005, "mode": 0o755}
    assert answer(root, "make_directories", directories=[entry]) == {"result": ["public"]}
    assert {path.stat().st_uid for path in chain} == {1005}


@pytest.mark.usefixtures("few_files")
@pytest.mark.parametrize(("levels", "name"), DEEP)
def test_a_tree_however_deep_is_looked_at_as_far_as_any_file_of_ours_is(
    quick_root: Path, levels: int, name: str
) -> None:
    root = quick_root
    deep_tree(root / "secrets/zdb", levels, name)
    (root / PLACE).write_text("x")
    seen = look(root)
    assert len(seen) < 20
    assert "sha256" in seen[PLACE]


def test_a_folder_full_of_files_is_looked_at_in_part_and_its_neighbours_whole(root: Path) -> None:
    (root / "secrets/zdb").mkdir()
    for number in range(1000):
        (root / f"secrets/zdb/{number}").touch()
    (root / PLACE).write_text("x")
    seen = look(root)
    assert sum(path.startswith("secrets/zdb/") for path in seen) == 200
    assert "sha256" in seen[PLACE]
    assert "sha256" in look(root, "secrets/zdb/999")["secrets/zdb/999"]


def test_a_large_file_is_read_only_where_it_is_asked_for(root: Path) -> None:
    (root / PLACE).write_bytes(bytes(1 << 20))
    (root / "secrets/hub/huge").touch()
    os.truncate(root / "secrets/hub/huge", 1 << 40)
    assert "sha256" not in look(root)[PLACE]
    seen = look(root, PLACE, "secrets/hub/huge")
    assert "sha256" in seen[PLACE]
    assert "sha256" not in seen["secrets/hub/huge"]


def test_a_file_that_grows_while_it_is_read_is_not_read_on(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / PLACE).write_bytes(b"x")
    real = os.fdopen

    def grown(descriptor: int, *arguments: Any) -> Any:
        os.truncate(root / PLACE, 1 << 40)
        return real(descriptor, *arguments)

    monkeypatch.setattr(os, "fdopen", grown)
    assert "sha256" not in look(root)[PLACE]


NAMES = [b"a\nb", b"\xff\xfe", b"\x1b[2J", b"n" * 255, "ü".encode(), b"\xed\xa0\x80", b" "]


@pytest.mark.parametrize("name", NAMES)
def test_a_strange_name_is_in_no_reply_and_hides_nothing(root: Path, name: bytes) -> None:
    strange = Path(os.fsdecode(os.fsencode(root / "secrets/hub") + b"/" + name))
    strange.mkdir()
    (strange / "inside").write_text("x")
    (root / PLACE).write_text("x")
    seen = look(root)
    assert "sha256" in seen[PLACE]
    assert all(path.isascii() and path.isprintable() for path in seen)
    assert answer(root, "empty", paths=["secrets"]) == {"result": None}


@pytest.mark.parametrize("name", NAMES)
def test_a_strange_name_in_an_error_is_shown_as_people_may_read_it(
    root: Path, monkeypatch: pytest.MonkeyPatch, name: bytes
) -> None:
    strange = Path(os.fsdecode(os.fsencode(root / "secrets") + b"/" + name))
    strange.mkdir()
    deep_tree(strange / "deep", levels=200)

    def refused(path: Any, *_arguments: Any, **_options: Any) -> None:
        raise PermissionError(1, "Operation not permitted", path)

    monkeypatch.setattr(os, "unlink", refused)
    reply = answer(root, "empty", paths=["secrets"])
    assert reply["error"].endswith("Operation not permitted")
    assert reply["error"].isprintable()
    assert len(reply["error"]) < 600


# What is asked for beyond what all share


class Shared:
    """What as_root answers, and what it was asked for."""

    def __init__(self, paths: dict[str, Any]) -> None:
        self._paths = paths
        self.asked: list[Any] = []

    def __call__(self, operation: str, **asked: Any) -> Any:
        assert operation == "facts"
        self.asked.append((asked["paths"], asked["trees"]))
        wanted = self._paths if asked["trees"] else {}
        return {"paths": {**wanted, **{p: found("ab") for p in asked["paths"]}}, "bundles": {}}


def found(sha256: str) -> dict[str, Any]:
    return {"kind": "file", "uid": 0, "gid": 0, "mode": stat.S_IRUSR, "sha256": sha256}


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("secrets/zdb/seen", False),
        ("secrets/zdb/crowded-out", True),
        ("secrets/zdb/too-large", True),
        ("sync/users/spec/spec.json", True),
        ("secrets/zdb", False),
    ],
)
def test_a_file_that_a_crowd_hides_is_asked_for_by_its_path(
    monkeypatch: pytest.MonkeyPatch, path: str, *, asked: bool
) -> None:
    shared = Shared({"secrets/zdb/seen": found("ab"), "secrets/zdb/too-large": found("")})
    monkeypatch.setattr(DataRoot, "as_root", lambda _root, *asked, **more: shared(*asked, **more))
    root = DataRoot(HostConnection(f"unix:///{path}"), "/srv")
    seen = facts.gather(root, [path])
    assert seen.paths[path].sha256 == "ab"
    assert shared.asked[1:] == ([([path], ())] if asked else [])


def test_no_path_of_a_request_leaves_the_data_root() -> None:
    for path in ("..", "/etc", "a/../b", "a//b", "", "."):
        with pytest.raises(descent.RefusedError):
            descent.parts(path)
