"""The agent's wheels are those of the lock, also when the cache was harmed."""

import fcntl
import hashlib
import shutil
import threading
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from sync.providers import agent_bundle, wheels
from sync.providers.host.commands import Command, Completed
from sync.providers.host.connection import HostConnection, HostError
from sync.providers.host.local import LocalHost

METADATA = {
    "METADATA": "Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n",
    "WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    "RECORD": "",
    "entry_points.txt": "[console_scripts]\nthing = thing:main\n",
}
INSTALLED = [
    "extra.py",
    "thing-1.0.dist-info/METADATA",
    "thing-1.0.dist-info/WHEEL",
    "thing-1.0.dist-info/entry_points.txt",
    "thing/__init__.py",
]


def _wheel(folder: Path, name: str = "thing-1.0-py3-none-any.whl") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(zipfile.ZipInfo("thing/__init__.py"), "x = 1\n")
        for member, text in METADATA.items():
            archive.writestr(zipfile.ZipInfo(f"thing-1.0.dist-info/{member}"), text)
        archive.writestr(zipfile.ZipInfo("thing-1.0.data/purelib/extra.py"), "y = 2\n")
        archive.writestr(zipfile.ZipInfo("thing-1.0.data/scripts/run"), "#!/bin/sh\n")
    return path


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _lock(folder: Path) -> Path:
    digest = _digest(_wheel(folder / "origin"))
    path = folder / "requirements.lock"
    path.write_text(f"thing==1.0 \\\n    --hash=sha256:{digest} \\\n    --hash=sha256:{'0' * 64}\n")
    return path


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return _lock(tmp_path)


def _scripted(
    monkeypatch: pytest.MonkeyPatch, download: Callable[[Path, tuple[str, ...]], None]
) -> None:
    """Let pip's downloads be done by a test; it unpacks by itself."""
    run = wheels._pip

    def pip(*arguments: str) -> None:
        if arguments[0] != "download":
            run(*arguments)
            return
        to = next(word for word in arguments if word.startswith("--dest="))
        download(Path(to.removeprefix("--dest=")), arguments)

    monkeypatch.setattr(wheels, "_pip", pip)


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """pip, scripted: it fetches the one wheel."""
    calls: list[tuple[str, ...]] = []

    def fetch(folder: Path, arguments: tuple[str, ...]) -> None:
        calls.append(arguments)
        _wheel(folder)

    _scripted(monkeypatch, fetch)
    return calls


@dataclass(frozen=True)
class Fetched:
    """A cache that one run has filled, what that run returned, and what it asked pip for."""

    lock: Path
    cache: Path
    files: dict[str, bytes]
    asked: tuple[str, ...]

    @property
    def wheel(self) -> Path:
        (found,) = self.cache.glob("wheels-*/thing-1.0-py3-none-any.whl")
        return found


@pytest.fixture(scope="module")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> Fetched:
    """Fill a cache by one run of pip, which tests share; none of them changes it."""
    folder = tmp_path_factory.mktemp("wheels")
    lock, asked = _lock(folder), []

    def fetch(to: Path, arguments: tuple[str, ...]) -> None:
        asked.append(arguments)
        _wheel(to)

    with pytest.MonkeyPatch.context() as patched:
        _scripted(patched, fetch)
        files = wheels.site_packages(lock, "arm64", folder / "cache")
    (arguments,) = asked
    return Fetched(lock, folder / "cache", files, arguments)


@pytest.fixture
def fetched(first_run: Fetched, tmp_path: Path) -> Fetched:
    """Copy the filled cache."""
    shutil.copytree(first_run.cache, tmp_path / "filled")
    return replace(first_run, cache=tmp_path / "filled")


def test_wheels_are_fetched_for_the_hosts_processor_with_hashes(first_run: Fetched) -> None:
    words = set(first_run.asked)
    assert {"--require-hashes", "--only-binary=:all:", "--python-version=3.11"} <= words
    assert "--platform=manylinux2014_aarch64" in words
    assert not any("x86_64" in word for word in words)


def _flip_last_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _remove(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("harm", [_flip_last_byte, _truncate, _remove])
def test_a_harmed_cache_is_noticed_and_fetched_anew(
    fetched: Fetched, downloads: list[tuple[str, ...]], harm: Callable[[Path], None]
) -> None:
    harm(fetched.wheel)
    assert wheels.site_packages(fetched.lock, "arm64", fetched.cache) == fetched.files
    assert len(downloads) == 1
    assert f"sha256:{_digest(fetched.wheel)}" in fetched.lock.read_text()
    assert [path.name for path in fetched.cache.iterdir()] == [fetched.wheel.parent.name]


def test_a_filled_cache_is_not_fetched_again_and_a_foreign_wheel_in_it_gets_nowhere(
    fetched: Fetched, downloads: list[tuple[str, ...]]
) -> None:
    _wheel(fetched.wheel.parent, "foreign-1.0-py3-none-any.whl")
    _wheel(fetched.wheel.parent, "thing-1.1-py3-none-any.whl")
    assert wheels.site_packages(fetched.lock, "arm64", fetched.cache) == fetched.files
    assert downloads == []


def test_of_two_first_runs_at_once_one_fetches_and_both_have_the_same_files(
    lock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    got: list[dict[str, bytes]] = []
    second = threading.Thread(target=lambda: got.append(wheels.site_packages(lock, "amd64", cache)))
    arrived = threading.Event()
    fetched: list[Path] = []
    flock = fcntl.flock

    def locked(descriptor: Any, operation: int) -> None:
        if threading.current_thread() is second:
            arrived.set()
        flock(descriptor, operation)

    def fetch(folder: Path, _arguments: tuple[str, ...]) -> None:
        fetched.append(folder)
        if threading.current_thread() is second:
            arrived.set()
        else:
            second.start()
            assert arrived.wait(30), "the second run is at work while the first one fetches"
        _wheel(folder)

    monkeypatch.setattr(fcntl, "flock", locked)
    _scripted(monkeypatch, fetch)
    got.append(wheels.site_packages(lock, "amd64", cache))
    second.join(30)
    assert len(fetched) == 1
    assert [sorted(files) for files in got] == [INSTALLED, INSTALLED]
    assert got[0] == got[1]


def test_a_cache_that_another_run_never_gives_back_is_named(
    lock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wheels, "_CACHE_SECONDS", 0.01)
    with wheels._locked(tmp_path), pytest.raises(wheels.WheelError, match=r"in use .* another run"):
        wheels.site_packages(lock, "amd64", tmp_path)


def test_a_registry_that_serves_something_else_is_refused(
    lock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _scripted(monkeypatch, lambda folder, _: _flip_last_byte(_wheel(folder)))
    with pytest.raises(wheels.WheelError, match="DO NOT MATCH THE HASHES"):
        wheels.site_packages(lock, "amd64", tmp_path / "cache")


def test_pips_failure_is_reported_and_leaves_no_cache(lock: Path, tmp_path: Path) -> None:
    lock.write_text(lock.read_text().replace("thing==1.0", "no-index-has-this==0.0.0.1"))
    monkey = pytest.MonkeyPatch()
    monkey.setenv("PIP_NO_INDEX", "1")
    try:
        with pytest.raises(wheels.WheelError, match=r"could not fetch .* last words: .*no-index"):
            wheels.site_packages(lock, "amd64", tmp_path / "cache")
    finally:
        monkey.undo()
    assert list((tmp_path / "cache").iterdir()) == []


def test_an_unknown_processor_is_named(lock: Path, tmp_path: Path) -> None:
    with pytest.raises(wheels.WheelError, match="no wheels for a riscv64 host"):
        wheels.site_packages(lock, "riscv64", tmp_path)


def test_a_lock_without_hashes_is_refused(
    lock: Path, tmp_path: Path, downloads: list[tuple[str, ...]]
) -> None:
    lock.write_text("thing==1.0\n")
    with pytest.raises(wheels.WheelError, match=r"(?s)Hashes are required.*thing==1\.0"):
        wheels.site_packages(lock, "amd64", tmp_path / "cache")


def test_a_wheels_library_is_unpacked_and_neither_scripts_nor_pips_notes(
    first_run: Fetched,
) -> None:
    assert sorted(first_run.files) == INSTALLED
    assert first_run.files["extra.py"] == b"y = 2\n"


def test_the_digest_is_of_sources_and_lock_and_needs_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in ("sync/__init__.py", "sync/contract/spec.py", "sync/agent/supervisor.py"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(path)
    lock = tmp_path / "sync/agent/requirements.lock"
    lock.write_text("thing==1.0")
    monkeypatch.setattr(agent_bundle, "PROJECT", tmp_path)
    monkeypatch.setattr(agent_bundle, "LOCK", lock)
    before = agent_bundle.agent_digest()
    (tmp_path / "sync/agent/__pycache__").mkdir()
    (tmp_path / "sync/agent/__pycache__/runtime.pyc").write_text("compiled")
    (tmp_path / "sync/providers/jobs").mkdir(parents=True)
    (tmp_path / "sync/providers/jobs/provider.py").write_text("not on the host")
    assert agent_bundle.agent_digest() == before
    lock.write_text("thing==1.1")
    with_other_lock = agent_bundle.agent_digest()
    (tmp_path / "sync/agent/supervisor.py").write_text("changed")
    assert len({before, with_other_lock, agent_bundle.agent_digest()}) == 3


def test_the_same_files_make_the_same_archive() -> None:
    files = {"b": b"2", "a": b"1" * 100_000}
    assert agent_bundle.packed(files) == agent_bundle.packed(dict(files))


class _DockerSays(LocalHost):
    """A way to a host whose docker command always ends in the same way."""

    def __init__(self, completed: Completed) -> None:
        super().__init__(HostConnection("unix:///run/docker.sock"))
        self._completed = completed

    def run(self, _command: Command) -> Completed:
        return self._completed


def test_where_docker_cannot_say_what_is_in_use_no_version_is_removed() -> None:
    silent = _DockerSays(Completed(1, b"", b"Cannot connect to the Docker daemon"))
    with pytest.raises(HostError, match="Docker does not run"):
        agent_bundle._digests_in_use(silent, "/srv")
    mounts = b"/srv/agent/0123456789abcdef,/srv/0-db_data\n\n/other/agent/f\n"
    host = _DockerSays(Completed(0, mounts, b""))
    assert agent_bundle._digests_in_use(host, "/srv") == {"0123456789abcdef"}
