"""Operations as root on the host: paths stay below the data root, files are whole or not there."""

import base64
import hashlib
import io
import json
import os
import shutil
import stat
import subprocess
import sys
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from sync.contract import dialing
from sync.providers.agent_bundle import packed
from sync.providers.host import descent, root_helper
from sync.providers.host.commands import Command, Completed, Running
from sync.providers.host.connection import HostConnection, HostError
from sync.providers.host.descent import RefusedError
from sync.providers.host.host import Host
from sync.providers.preflight import probe

NOBODY = 65534
UID = os.geteuid()
as_root = pytest.mark.skipif(UID != 0, reason="needs root, to change owners")


def _directory(path: str, uid: int = UID, mode: int = 0o755) -> root_helper.Owned:
    return {"path": path, "uid": uid, "mode": mode}


def _file(path: str, content: bytes = b"new", mode: int = 0o600) -> root_helper.File:
    encoded = base64.b64encode(content).decode()
    return {"path": path, "uid": UID, "mode": mode, "content": encoded}


def _make(root: Path, *directories: root_helper.Owned) -> list[str]:
    return root_helper.make_directories(str(root), list(directories))


def _write(root: Path, *files: root_helper.File) -> None:
    root_helper.write_files(str(root), list(files))


def test_directories_get_their_modes_and_a_second_time_nothing_changes(tmp_path: Path) -> None:
    wanted = [_directory("a", mode=0o711), _directory("a/b", mode=0o700)]
    assert _make(tmp_path, *wanted) == ["a", "a/b"]
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o711
    assert stat.S_IMODE((tmp_path / "a/b").stat().st_mode) == 0o700
    assert _make(tmp_path, *wanted) == []


@as_root
def test_a_new_owner_gets_what_the_old_one_had_and_nothing_else(tmp_path: Path) -> None:
    _make(tmp_path, _directory("public", 1001), _directory("public/other", 1003))
    for name, uid in (("of-old", 1001), ("of-stranger", 1002), ("other/kept", 1001)):
        path = tmp_path / "public" / name
        path.write_text("x")
        os.chown(path, uid, uid)
    (tmp_path / "public/link").symlink_to("/etc/passwd")
    os.lchown(tmp_path / "public/link", 1001, 1001)
    _make(tmp_path, _directory("public", 1005), _directory("public/other", 1003))
    owners = {str(path.relative_to(tmp_path)): path.lstat().st_uid for path in tmp_path.rglob("*")}
    assert owners == {
        "public": 1005,
        "public/of-old": 1005,
        "public/of-stranger": 1002,
        "public/link": 1005,
        "public/other": 1003,
        "public/other/kept": 1001,
    }
    assert Path("/etc/passwd").stat().st_uid == 0


@as_root
def test_a_hand_over_that_was_cut_off_is_finished_by_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _make(tmp_path, _directory("public", 1001))
    for name in ("a", "b", "c"):
        (tmp_path / "public" / name).write_text("x")
        os.chown(tmp_path / "public" / name, 1001, 1001)
    left = iter([os.chown])

    def cut_off(*arguments: Any, **keywords: Any) -> None:
        next(left)(*arguments, **keywords)

    with monkeypatch.context() as patched:
        patched.setattr(os, "chown", cut_off)
        with pytest.raises(StopIteration):
            _make(tmp_path, _directory("public", 1005))
    assert _make(tmp_path, _directory("public", 1005)) == ["public"]
    assert {path.stat().st_uid for path in tmp_path.rglob("*")} == {1005}


@pytest.mark.parametrize("path", ["../out", "/etc", "a//b", "a/../../b", ".", ""])
def test_a_path_that_leaves_the_data_root_is_refused(tmp_path: Path, path: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    refused = pytest.raises(RefusedError, match="does not stay below the data root")
    with refused:
        _make(root, _directory(path))
    with refused:
        _write(root, _file(path))
    with refused:
        root_helper.facts(str(root), [path], trees=[], agents="agent")
    assert [path.name for path in tmp_path.iterdir()] == ["root"]


def test_a_symbolic_link_on_the_way_is_refused(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    root = tmp_path / "root"
    outside.mkdir()
    root.mkdir()
    (root / "secrets").symlink_to(outside)
    with pytest.raises(RefusedError, match=r"symbolic link .* mount the storage"):
        _write(root, _file("secrets/zdb-admin"))
    with pytest.raises(RefusedError, match="symbolic link"):
        _make(root, _directory("secrets"))
    assert list(outside.iterdir()) == []


def test_a_file_planted_as_a_link_is_replaced_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    root = tmp_path / "root"
    root.mkdir()
    (root / "zdb-admin").symlink_to(victim)
    (root / ".zdb-admin.tmp").symlink_to(victim)
    _write(root, _file("zdb-admin", b"secret"))
    assert victim.read_text() == "untouched"
    assert not (root / "zdb-admin").is_symlink()
    assert (root / "zdb-admin").read_bytes() == b"secret"
    assert stat.S_IMODE((root / "zdb-admin").stat().st_mode) == 0o600


def test_a_write_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write(tmp_path, _file("config", b"old"))

    def no_space(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    request = {"operation": "write_files", "root": str(tmp_path), "files": [_file("config")]}
    reply = root_helper.answer(request, io.BytesIO())
    assert reply["kind"] == "space"
    assert [path.name for path in tmp_path.iterdir()] == ["config"]
    assert (tmp_path / "config").read_bytes() == b"old"


def test_two_at_once_that_write_one_file_leave_one_of_both_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def meanwhile(descriptor: int) -> None:
        monkeypatch.setattr(os, "fsync", fsync)
        _write(tmp_path, _file("config", b"of the other"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", meanwhile)
    _write(tmp_path, _file("config", b"of the first"))
    assert (tmp_path / "config").read_bytes() == b"of the first"
    assert [path.name for path in tmp_path.iterdir()] == ["config"]


def test_what_a_killed_writer_left_goes_and_what_a_running_one_has_stays(tmp_path: Path) -> None:
    for name in (".config.0a.tmp", ".config.0b.tmp", ".config.tmp", ".other.0a.tmp"):
        (tmp_path / name).write_bytes(b"half")
        if name != ".config.0b.tmp":
            os.utime(tmp_path / name, (0, 0))
    _write(tmp_path, _file("config"))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [".config.0b.tmp", ".other.0a.tmp", "config"]


def test_removing_what_is_gone_is_no_error(tmp_path: Path) -> None:
    _write(tmp_path, _file("here"))
    paths = ["here", "gone", "nowhere/at/all"]
    root_helper.remove_files(str(tmp_path), paths)
    assert list(tmp_path.iterdir()) == []


def test_purge_removes_only_what_is_listed_and_follows_no_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    root = tmp_path / "root"
    for path in (outside / "kept", root / "data/deep/er", root / "foreign"):
        path.mkdir(parents=True)
    (root / "data/deep/link").symlink_to(outside)
    (root / "data/deep/file").write_text("x")
    root_helper.purge(str(root), ["data", "data/deep"])
    assert sorted(path.name for path in root.iterdir()) == ["foreign"]
    assert (outside / "kept").is_dir()


def test_empty_keeps_the_directory_that_containers_have_mounted(tmp_path: Path) -> None:
    (tmp_path / "state/deep").mkdir(parents=True)
    (tmp_path / "state/status.json").write_text("{}")
    before = (tmp_path / "state").stat().st_ino
    root_helper.empty(str(tmp_path), ["state"])
    assert list((tmp_path / "state").iterdir()) == []
    assert (tmp_path / "state").stat().st_ino == before


def _install(root: Path, files: Mapping[str, bytes], digest: str = "v1") -> Any:
    manifest = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    whole = {**files, root_helper.MANIFEST: json.dumps(manifest).encode()}
    request: dict[str, object] = {"root": str(root), "agents": "agent", "digest": digest}
    request["operation"] = "install_bundle"
    return root_helper.answer(request, io.BytesIO(packed(whole)))


FILES = {"src/sync/__init__.py": b"", "src/sync/agent.py": b"print()", "site-packages/x.so": b"\0"}


@pytest.fixture
def agents(tmp_path: Path) -> Path:
    (tmp_path / "agent").mkdir()
    return tmp_path / "agent"


def test_a_bundle_appears_whole_and_is_adopted_afterwards(agents: Path) -> None:
    assert _install(agents.parent, FILES) == {"result": "installed"}
    assert root_helper.problems(agents / "v1") == []
    assert (agents / "v1/src/sync/agent.py").read_bytes() == b"print()"
    assert stat.S_IMODE((agents / "v1").stat().st_mode) == 0o755
    assert _install(agents.parent, FILES) == {"result": "adopted"}
    assert [path.name for path in agents.iterdir()] == ["v1"]


def test_a_damaged_bundle_is_repaired_in_the_same_directory(agents: Path) -> None:
    _install(agents.parent, FILES)
    before = (agents / "v1").stat().st_ino
    (agents / "v1/src/sync/agent.py").write_bytes(b"changed")
    (agents / "v1/site-packages/x.so").unlink()
    (agents / "v1/src/foreign.py").write_bytes(b"import os")
    assert root_helper.problems(agents / "v1") == [
        "site-packages/x.so: missing",
        "src/sync/agent.py: changed",
        "src/foreign.py: foreign",
    ]
    assert _install(agents.parent, FILES) == {"result": "repaired"}
    assert root_helper.problems(agents / "v1") == []
    assert (agents / "v1").stat().st_ino == before


def test_a_bundle_cut_off_on_the_way_is_not_installed(agents: Path) -> None:
    archive = packed(FILES)
    half = io.BytesIO(archive[: len(archive) // 2])
    with pytest.raises((EOFError, tarfile.TarError, RefusedError)):
        root_helper.install_bundle(str(agents.parent), "agent", "v1", half)
    assert list(agents.iterdir()) == []


@pytest.mark.parametrize("name", ["../out.py", "/etc/cron.d/x", "src/../../x"])
def test_a_bundle_with_a_path_that_leaves_it_is_refused(agents: Path, name: str) -> None:
    reply = _install(agents.parent, {name: b""})
    assert reply["kind"] == "refused"
    assert list(agents.iterdir()) == []


class Interrupted(io.BytesIO):
    """A stream on whose way something else happens, once, where half of it was read."""

    def __init__(self, whole: bytes, meanwhile: Callable[[], object]) -> None:
        super().__init__(whole)
        self._half = len(whole) // 2
        self._meanwhile: Callable[[], object] | None = meanwhile

    def read(self, size: int | None = -1, /) -> bytes:
        if self._meanwhile and self.tell() >= self._half:
            meanwhile, self._meanwhile = self._meanwhile, None
            meanwhile()
        return super().read(min(512, size) if size and size > 0 else 512)


@pytest.mark.parametrize("other", ["cut off", "installed"])
def test_two_at_once_that_install_one_bundle_do_not_disturb_each_other(
    agents: Path, other: str
) -> None:
    content = {f"src/{number}": os.urandom(4096) for number in range(16)}
    manifest = {name: hashlib.sha256(data).hexdigest() for name, data in content.items()}
    archive = packed({**content, root_helper.MANIFEST: json.dumps(manifest).encode()})
    seen: list[str] = []

    def install(stream: io.BytesIO) -> str:
        return root_helper.install_bundle(str(agents.parent), "agent", "v1", stream)

    def meanwhile() -> None:
        if other == "installed":
            seen.append(install(io.BytesIO(archive)))
            return
        with pytest.raises((EOFError, tarfile.TarError)):
            install(io.BytesIO(archive[: len(archive) // 3]))
        seen.append("cut off")

    result = install(Interrupted(archive, meanwhile))
    assert (seen, result) == ([other], "installed" if other == "cut off" else "adopted")
    assert root_helper.problems(agents / "v1") == []
    assert [path.name for path in agents.iterdir()] == ["v1"]


def test_a_bundle_that_another_places_at_the_same_moment_is_adopted(
    agents: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def late(self: Path, target: Path) -> Path:
        monkeypatch.setattr(Path, "rename", rename)
        assert _install(agents.parent, FILES) == {"result": "installed"}
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", late)
    assert _install(agents.parent, FILES) == {"result": "adopted"}
    assert [path.name for path in agents.iterdir()] == ["v1"]


def test_only_bundles_to_keep_stay(agents: Path) -> None:
    for digest in ("v1", "v2", "v3"):
        _install(agents.parent, FILES, digest)
    root_helper.remove_bundles(str(agents.parent), "agent", keep=["v2", "v3"])
    assert sorted(path.name for path in agents.iterdir()) == ["v2", "v3"]


def test_facts_are_owner_mode_and_digest_and_no_content(tmp_path: Path) -> None:
    _make(tmp_path, _directory("secrets"), _directory("agent"), _directory("data"))
    _write(tmp_path, _file("secrets/zdb-admin", b"canary-secret"))
    _install(tmp_path, FILES)
    paths, trees = ["data", "gone"], ["secrets", "none"]
    seen: Any = root_helper.facts(str(tmp_path), paths, trees, "agent")
    assert "canary" not in json.dumps(seen)
    assert sorted(seen["paths"]) == ["data", "secrets/zdb-admin"]
    assert seen["paths"]["secrets/zdb-admin"]["mode"] == 0o600
    assert len(seen["paths"]["secrets/zdb-admin"]["sha256"]) == 64
    assert seen["bundles"] == {"v1": []}


def _facts(root: Path) -> Any:
    return root_helper.facts(str(root), paths=[], trees=["secrets"], agents="agent")


@pytest.mark.parametrize("moment", ["open"])
def test_a_file_that_goes_while_it_is_looked_at_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    (tmp_path / "secrets").mkdir()
    for name in (".key.tmp", "key"):
        (tmp_path / "secrets" / name).write_text("x")
    real = getattr(os, moment)

    def renamed_before(path: Any, *arguments: Any, **options: Any) -> Any:
        if path == ".key.tmp":
            (tmp_path / "secrets/.key.tmp").unlink(missing_ok=True)
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, moment, renamed_before)
    assert list(_facts(tmp_path)["paths"]) == ["secrets/key"]


def test_a_tree_that_goes_while_it_is_looked_at_is_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secrets").mkdir()
    real = os.open

    def removed_before(path: Any, *arguments: Any, **options: Any) -> int:
        if path == "secrets":
            (tmp_path / "secrets").rmdir()
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "open", removed_before)
    assert _facts(tmp_path)["paths"] == {}


def test_a_bundles_file_that_goes_while_it_is_read_counts_as_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "agent/d"
    (bundle / "src").mkdir(parents=True)
    (bundle / "src/a.py").write_text("a")
    (bundle / root_helper.MANIFEST).write_text(json.dumps({"src/a.py": "0"}))
    read_bytes = Path.read_bytes

    def removed_before(path: Path) -> bytes:
        path.unlink()
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", removed_before)
    assert _facts(tmp_path)["bundles"] == {"d": ["src/a.py: missing"]}


@as_root
@pytest.mark.parametrize("moment", ["open", "chown"])
def test_what_goes_while_a_directory_is_handed_over_does_not_stop_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    _make(tmp_path, _directory("public", 1001))
    for name in (".a.tmp", "kept"):
        (tmp_path / "public" / name).write_text("x")
        os.chown(tmp_path / "public" / name, 1001, 1001)
    real = getattr(os, moment)

    def renamed_before(path: Any, *arguments: Any, **options: Any) -> Any:
        if path == ".a.tmp":
            (tmp_path / "public/.a.tmp").unlink(missing_ok=True)
        return real(path, *arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(os, moment, renamed_before)
        _make(tmp_path, _directory("public", 1005))
    assert (tmp_path / "public").stat().st_uid == 1005
    assert (tmp_path / "public/kept").stat().st_uid == 1005


def test_only_the_standard_library_is_imported_and_what_is_sent_with_it() -> None:
    import ast
    import inspect

    sent_before = {descent: set(), root_helper: {descent.__name__}, dialing: set()}
    for module, sent in {**sent_before, probe: {dialing.__name__}}.items():
        source = inspect.getsource(module)
        imported = {
            str(node.module) if isinstance(node, ast.ImportFrom) else alias.name
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }
        others = {name for name in imported if name.split(".")[0] not in sys.stdlib_module_names}
        assert others == sent


def test_what_is_sent_runs_where_nothing_of_ours_is_installed(tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets/key").write_text("x")
    # The interpreter without the environment's packages, as in the helper image.
    python = shutil.which("python3", path=f"{sys.base_prefix}/bin") or sys.executable
    given: list[bytes] = []

    class Here(Host):
        def run(self, command: Command) -> Completed:
            given.append(b"".join(command.stdin))
            boot = [python, "-I", "-B", *command.argv[-2:]]
            done = subprocess.run(boot, input=given[0], capture_output=True, check=False)
            return Completed(done.returncode, done.stdout, done.stderr)

        def start(self, argv: Sequence[str]) -> Running:
            raise NotImplementedError(argv)

    host = Here(HostConnection("unix:///nowhere", helper_image="python"))
    request = {"root": str(tmp_path), "paths": [], "trees": ["secrets"], "agents": ""}
    script = Path(str(root_helper.__file__))
    seen: Any = host.run_script(script, [], {"operation": "facts", **request})
    assert list(seen["paths"]) == ["secrets/key"]
    # And the probe as far as it comes without /host.
    asked = {"root": "/", "addresses": [], "names": [], "upstream": []}
    given.clear()
    with pytest.raises(HostError, match="/host/proc/1/mounts"):
        host.run_script(Path(str(probe.__file__)), [], asked)
