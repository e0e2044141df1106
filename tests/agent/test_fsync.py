"""A file system without fsync: the jobs go on, and say once what it means; a broken disk is one."""

import errno
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from sync.agent import durable
from sync.agent.chunks.scan.ledger import Ledger
from sync.contract import fsync as contract
from sync.contract.pinned_chunks import FILE, PinnedChunks, PinnedChunksReader
from sync.contract.state_db import StateDb
from sync.providers.host import root_helper

REFUSALS = [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP]
BREAKAGES = [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EBADF]


def _replace(root: Path) -> None:
    durable.publish_bytes(b"new", root / "file")
    assert (root / "file").read_bytes() == b"new"


def _link(root: Path) -> None:
    durable.publish_link("target", root / "link", durable.staging_directory(root))
    assert str((root / "link").readlink()) == "target"


def _folder(root: Path) -> None:
    for content in ("one", "two"):
        folder = durable.temporary_in(durable.staging_directory(root))
        folder.mkdir()
        (folder / content).touch()
        durable.publish_directory(folder, root / "folder", root)
        assert [path.name for path in (root / "folder").iterdir()] == [content]


def _folder_in_two_steps(root: Path) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(durable, "exchange", lambda *_: False)
        _folder(root)


def _removal(root: Path) -> None:
    (root / "gone").touch()
    durable.remove(root / "gone")
    assert not (root / "gone").exists()


def _ledger(root: Path) -> None:
    ledger = Ledger(root)
    ledger.write([b"k" * 16])
    ledger.sync()
    ledger.close()
    assert (root / "listed.keys").stat().st_size == 17


def _root_files(root: Path) -> None:
    entry: root_helper.File = {"path": "f", "uid": os.getuid(), "mode": 0o600, "content": "QQ=="}
    root_helper.write_files(str(root), [entry])
    assert (root / "f").read_bytes() == b"A"


def _root_directories(root: Path) -> None:
    owned: root_helper.Owned = {"path": "d", "uid": os.getuid(), "mode": 0o700}
    assert root_helper.make_directories(str(root), [owned]) == ["d"]


STEPS: dict[str, Callable[[Path], None]] = {
    step.__name__: step
    for step in (
        *(_replace, _link, _folder, _folder_in_two_steps, _removal, _ledger),
        *(_root_files, _root_directories),
    )
}


@pytest.fixture(autouse=True)
def nothing_said() -> None:
    contract._said.clear()


def answer_fsync(
    monkeypatch: pytest.MonkeyPatch, number: int, *, folders_only: bool = False
) -> None:
    """Let every fsync (or that of folders alone) fail with an errno."""
    fsync = os.fsync

    def refuse(descriptor: int) -> None:
        if folders_only and not Path(f"/proc/self/fd/{descriptor}").is_dir():
            fsync(descriptor)
        else:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    monkeypatch.setattr(os, "fdatasync", refuse)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("number", REFUSALS)
@pytest.mark.parametrize("folders_only", [False, True], ids=["all", "folders"])
def test_what_a_file_system_cannot_sync_is_in_place_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, number: int, folders_only: bool
) -> None:
    answer_fsync(monkeypatch, number, folders_only=folders_only)
    STEPS[step](tmp_path)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("number", BREAKAGES)
def test_a_disk_that_breaks_or_is_full_is_never_taken_for_one_that_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, number: int
) -> None:
    answer_fsync(monkeypatch, number)
    with pytest.raises(OSError, match=r"Errno") as caught:
        STEPS[step](tmp_path)
    assert caught.value.errno == number


def test_it_is_said_once_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answer_fsync(monkeypatch, errno.EINVAL)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            _replace(tmp_path)
    (said,) = caplog.messages
    assert "put the data root on ext4" in said


def test_sqlite_does_not_take_it_for_a_broken_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer_fsync(monkeypatch, errno.EINVAL)
    with StateDb(tmp_path / "state.sqlite", "") as database:
        assert database._db.execute("PRAGMA synchronous").fetchone() == (0,)
    with PinnedChunks(tmp_path) as pinned:
        pinned.add([b"k" * 16])
    assert PinnedChunksReader(tmp_path).pinned([b"k" * 16]) == {b"k" * 16}


def test_where_there_is_fsync_sqlite_uses_it(tmp_path: Path) -> None:
    with StateDb(tmp_path / "state.sqlite", "") as database:
        assert database._db.execute("PRAGMA synchronous").fetchone() == (2,)


_KILLED: Final = """
import os, sys, pathlib, sqlite3
from sync.contract.pinned_chunks import PinnedChunks
from sync.contract.state_db import StateDb
state, what = pathlib.Path(sys.argv[1]), sys.argv[2]
if what == "table":
    table = PinnedChunks(state)
    table.add([b"k" * 16])
    table.completed(1.0, 2.0)
    write = lambda: table._insert([os.urandom(16) for _ in range(20_000)])
else:
    if what == "rows of before":
        database = sqlite3.connect(state / "users.sqlite", isolation_level=None)
        database.execute("PRAGMA synchronous=OFF")
        database.execute("CREATE TABLE meta(name TEXT PRIMARY KEY, value) WITHOUT ROWID")
        table = StateDb.__new__(StateDb)
        table._db = database
    else:
        table = StateDb(state / "users.sqlite", "")
    table.set_text("kept", "yes")
    write = lambda: [table.set_text(f"n{number}", "x" * 2000) for number in range(2_000)]
table._db.execute("PRAGMA cache_size=10")
table._db.execute("BEGIN IMMEDIATE")
write()
os._exit(1)
"""
_OPENED: Final = """
import sys, pathlib
from sync.contract.pinned_chunks import PinnedChunks, PinnedChunksReader
from sync.contract.state_db import HalfWrittenError, StateDb
state, what = pathlib.Path(sys.argv[1]), sys.argv[2]
if what == "table":
    assert PinnedChunksReader(state).pass_started_at() is None
    with PinnedChunks(state) as table:
        assert table.is_empty, "lost, so that it is written anew"
        table.add([b"n" * 16])
    assert PinnedChunksReader(state).pass_started_at() is None
elif what == "rows":
    with StateDb(state / "users.sqlite", "") as rows:
        assert (rows.text("kept"), rows.text("n1")) == ("yes", "")
        rows.set_text("more", "yes")
else:
    try:
        StateDb(state / "users.sqlite", "")
    except HalfWrittenError as error:
        assert "users.sqlite-journal, and the job begins anew" in str(error)
    else:
        sys.exit(2)
"""
_NO_FSYNC: Final = """
#include <errno.h>
int fsync(int descriptor) { errno = EINVAL; return -1; }
int fdatasync(int descriptor) { errno = EINVAL; return -1; }
"""


@pytest.mark.parametrize("what", ["table", "rows", "rows of before"])
def test_what_a_kill_left_half_written_hinders_no_start_where_there_is_no_fsync(
    what: str, tmp_path: Path
) -> None:
    """Rows go on; the table is written anew from them; those of before are named."""
    if (compiler := shutil.which("cc")) is None:
        pytest.skip("needs a C compiler: SQLite calls fsync by itself")
    source, library = tmp_path / "no.c", tmp_path / "no.so"
    source.write_text(_NO_FSYNC)
    built = [compiler, "-shared", "-fPIC", "-o", str(library), str(source)]
    subprocess.run(built, check=True, timeout=60)
    state = tmp_path / "state"
    state.mkdir()
    environment = {**os.environ, "LD_PRELOAD": str(library)}
    for code, status in ((_KILLED, 1), (_OPENED, 0)):
        command = [sys.executable, "-c", code, str(state), what]
        done = subprocess.run(
            command, env=environment, capture_output=True, timeout=60, check=False
        )
        assert done.returncode == status, done.stderr


def test_table_that_a_kill_left_half_written_is_taken_back(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _KILLED, str(tmp_path), "table"]
    assert subprocess.run(command, timeout=60, check=False).returncode == 1
    assert (tmp_path / f"{FILE}-journal").exists()
    with PinnedChunks(tmp_path) as table:
        assert table.lacks([b"k" * 16]) == []
