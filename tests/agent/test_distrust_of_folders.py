"""A job among files that something else may have put in its folders: none stalls or misleads it."""

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sync.agent import durable, health
from sync.agent.chunks.checkpoint import CHECKPOINT_FILE, Checkpoint
from sync.agent.chunks.key_files import read_keys
from sync.agent.chunks.reconcile.deletes import OBSERVATION_FILE, Dropped
from sync.agent.chunks.scan.ledger import LEDGER_FILE, Ledger
from sync.agent.digests import file_digest
from sync.agent.hub.state_db import DATABASE, HubStateDb
from sync.agent.job import LOCK, Directories, JobFailed, one_at_a_time
from sync.agent.kernels.state_db import KernelStateDb
from sync.agent.master.identity import FILE as FOLLOWED
from sync.agent.master.identity import Followed
from sync.agent.status_writer import read_status
from sync.agent.supervisor import load_spec
from sync.contract import plain_files
from sync.contract.pinned_chunks import FILE as PINNED
from sync.contract.pinned_chunks import PinnedChunks, PinnedChunksReader
from tests.agent.hub.small_hub import small_model
from tests.agent.kernels.kernels_mirror import kernels, kernels_model, links, one_pass, served
from tests.agent.mirrors import (
    UsersMirror,
    kernels_spec,
    make_status,
    model_tree,
    names_in,
    users_mirror,
)
from tests.planted import NO_FILES, SECRET, deep_tree, remove
from tests.sandbox.upstream import Upstream

EVERY = pytest.mark.parametrize("what", NO_FILES)


@pytest.fixture(autouse=True)
def emptied(tmp_path: Path) -> Iterator[None]:
    """Remove by another way what a test made so deep that Python cannot."""
    yield
    remove(tmp_path)
    tmp_path.mkdir()


HUGE = 1 << 40


def huge(path: Path) -> None:
    path.touch()
    os.truncate(path, HUGE)


PLANTS = {**NO_FILES, "a huge file": huge}
EVERY_AND_HUGE = pytest.mark.parametrize("what", PLANTS)


# One file


@EVERY
@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR | os.O_CREAT, os.O_WRONLY | os.O_APPEND])
def test_what_is_no_plain_file_is_not_opened_and_named_with_the_remedy(
    tmp_path: Path, what: str, flags: int
) -> None:
    NO_FILES[what](tmp_path / "file")
    open_before = len(names_in(Path("/proc/self/fd")))
    with pytest.raises(plain_files.NotPlainError, match="no plain file; move it away or remove"):
        plain_files.opened(tmp_path / "file", flags)
    with pytest.raises(plain_files.NotPlainError, match=str(tmp_path / "file")):
        plain_files.require(tmp_path / "file")
    assert len(names_in(Path("/proc/self/fd"))) == open_before
    if what == "a link to a secret":
        assert (tmp_path / "of-another").read_text() == SECRET


@EVERY
def test_what_takes_a_files_place_at_the_last_moment_is_not_read(
    tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, real = tmp_path / "file", os.open
    path.write_text("own")

    def exchanged_before(name: Path, flags: int, *more: int) -> int:
        if name == path and path.is_file() and not path.is_symlink():
            path.unlink()
            NO_FILES[what](path)
        return real(name, flags, *more)

    monkeypatch.setattr(os, "open", exchanged_before)
    with pytest.raises(plain_files.NotPlainError):
        plain_files.read(path, 100)


def test_a_plain_file_is_read_as_far_as_it_may_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"1234")
    assert plain_files.read(tmp_path / "file", 4) == b"1234"
    with pytest.raises(plain_files.NotPlainError, match="larger than 3 bytes"):
        plain_files.read(tmp_path / "file", 3)
    with pytest.raises(FileNotFoundError):
        plain_files.read(tmp_path / "none", 3)
    plain_files.require(tmp_path / "none")


# The files of a job's state


@EVERY_AND_HUGE
def test_a_record_that_is_none_is_written_anew(
    directories: Directories, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = directories.state / "status.json"
    PLANTS[what](path)
    assert read_status(path) is None
    assert health.main(["users", str(directories.state)]) == 1
    assert "no status record" in capsys.readouterr().out
    make_status("users", directories, "s").close()
    record = read_status(path)
    assert record is not None
    assert health.main(["users", str(directories.state)]) == 0
    assert not [name for name in names_in(directories.state) if name.startswith(".")]
    if what == "a link to a secret":
        assert (directories.state / "of-another").read_text() == SECRET


@EVERY_AND_HUGE
def test_a_spec_that_is_none_fails_the_job_with_path_and_remedy(
    directories: Directories, what: str
) -> None:
    PLANTS[what](directories.spec / "spec.json")
    with pytest.raises(JobFailed, match=r"spec.json: is .*pulumi up --refresh"):
        load_spec(directories.spec, "users")


@EVERY_AND_HUGE
def test_what_is_kept_between_runs_is_begun_anew_where_it_is_none(
    directories: Directories, what: str
) -> None:
    state = directories.state
    for name in (FOLLOWED, CHECKPOINT_FILE, OBSERVATION_FILE):
        (state / name).parent.mkdir(exist_ok=True)
        folder = state / f"of-{name}"
        folder.mkdir()
        PLANTS[what](folder / name)
    assert Followed.load(state / f"of-{FOLLOWED}") is None
    assert Checkpoint.load(state / f"of-{CHECKPOINT_FILE}") == Checkpoint()
    assert Dropped(state / f"of-{OBSERVATION_FILE}").observation() is None
    Followed(source="s").save(state / f"of-{FOLLOWED}", None)
    assert Followed.load(state / f"of-{FOLLOWED}") == Followed(source="s")


@EVERY_AND_HUGE
def test_a_password_that_is_none_is_named(directories: Directories, what: str) -> None:
    (directories.secrets / "zdb-admin").unlink()
    PLANTS[what](directories.secrets / "zdb-admin")
    with pytest.raises(plain_files.NotPlainError, match="zdb-admin: is"):
        directories.zdb_admin_password()


@EVERY
def test_a_lock_that_is_none_is_made_anew_and_locks(directories: Directories, what: str) -> None:
    NO_FILES[what](directories.state / LOCK)
    with one_at_a_time(directories.state):
        assert (directories.state / LOCK).is_file()
    with one_at_a_time(directories.state):
        pass
    if what == "a link to a secret":
        assert (directories.state / "of-another").read_text() == SECRET


@EVERY
@pytest.mark.parametrize("end", ["", "-journal", "-wal", "-shm"])
def test_a_database_that_is_none_is_named_and_not_opened(
    directories: Directories, what: str, end: str
) -> None:
    state = directories.state
    opens: dict[str, Callable[[], object]] = {
        DATABASE: lambda: HubStateDb(state / DATABASE),
        "kernels.sqlite": lambda: KernelStateDb(state),
        PINNED: lambda: PinnedChunks(state),
    }
    for name, opened in opens.items():
        (state / "of-another").unlink(missing_ok=True)
        (state / "fifo").unlink(missing_ok=True)
        NO_FILES[what](state / f"{name}{end}")
        with pytest.raises(plain_files.NotPlainError, match=f"{name}{end}: is .*remove it"):
            opened()
        assert SECRET not in what or (state / "of-another").read_text() == SECRET


@EVERY
def test_pinned_chunks_that_cannot_be_read_count_as_there_and_unknown(
    tmp_path: Path, what: str
) -> None:
    NO_FILES[what](tmp_path / PINNED)
    reader = PinnedChunksReader(tmp_path)
    assert reader.exists
    assert reader.pass_started_at() is None
    assert reader.sample(3) == []
    with pytest.raises(sqlite3.Error, match="no plain file"):
        reader.pinned([b"k" * 16])


@EVERY
def test_a_ledger_that_is_none_is_named(directories: Directories, what: str) -> None:
    NO_FILES[what](directories.state / LEDGER_FILE)
    with pytest.raises(plain_files.NotPlainError, match=r"listed\.keys: is"):
        Ledger(directories.state)
    with pytest.raises(plain_files.NotPlainError):
        list(read_keys(directories.state / LEDGER_FILE))
    with pytest.raises(plain_files.NotPlainError):
        file_digest(directories.state / LEDGER_FILE)


def test_a_job_with_nothing_but_foreign_things_in_its_state_reports_within_a_second(
    directories: Directories,
) -> None:
    os.mkfifo(directories.state / "status.json")
    began = time.monotonic()
    make_status("users", directories, "s").close()
    assert read_status(directories.state / "status.json") is not None
    assert time.monotonic() - began < 60


# Staging


def left_alone(folder: Path) -> Path:
    """Make a folder that is none of the job's."""
    (folder / "deep").mkdir(parents=True)
    (folder / "kept").write_text(SECRET)
    return folder


@pytest.mark.parametrize("what", [*NO_FILES, "a link to a folder", "a file"])
def test_whatever_has_the_name_of_staging_gives_way(tmp_path: Path, what: str) -> None:
    outside, root = left_alone(tmp_path / "outside"), tmp_path / "root"
    root.mkdir()
    if what == "a link to a folder":
        (root / durable.STAGING).symlink_to(outside)
    elif what == "a file":
        (root / durable.STAGING).write_text("x")
    else:
        NO_FILES[what](root / durable.STAGING)
    staging = durable.staging_directory(root)
    assert staging.is_dir()
    assert not staging.is_symlink()
    assert staging.stat().st_mode & 0o777 == 0o700
    assert names_in(staging) == []
    assert names_in(outside) == ["deep", "kept"]


@pytest.mark.parametrize(("levels", "name"), [(1100, "d"), (60, "n" * 200), (3000, "d")])
def test_what_is_in_staging_goes_however_deep(tmp_path: Path, levels: int, name: str) -> None:
    staging = durable.staging_directory(tmp_path)
    deep_tree(staging / "deep", levels, name)
    (staging / "link").symlink_to(left_alone(tmp_path / "outside"))
    (staging / "closed").mkdir(mode=0)
    os.mkfifo(staging / "fifo")
    durable.staging_directory(tmp_path)
    assert names_in(staging) == []
    assert names_in(tmp_path / "outside") == ["deep", "kept"]


NOTES = [b"../outside/x", b"/tmp/x", b"a/../../outside/x", b"users/link/x", b"", b".", b"a\0b"]


@pytest.mark.parametrize("text", NOTES)
def test_a_note_in_staging_that_leads_out_of_the_root_is_not_followed(
    tmp_path: Path, text: bytes
) -> None:
    outside, root = left_alone(tmp_path / "outside"), tmp_path / "root"
    (root / "users").mkdir(parents=True)
    staging = durable.staging_directory(root)
    (root / "users/link").symlink_to(outside)
    for name in ("new", "new.old"):
        (staging / name).mkdir()
    (staging / "new.place").write_bytes(text)
    durable.staging_directory(root)
    assert names_in(outside) == ["deep", "kept"]
    assert names_in(root) == [durable.STAGING, "users"]
    assert names_in(staging) == []


@EVERY
def test_a_note_in_staging_that_is_no_file_is_discarded(tmp_path: Path, what: str) -> None:
    staging = durable.staging_directory(tmp_path)
    for name in ("new", "new.old"):
        (staging / name).mkdir()
    NO_FILES[what](staging / "new.place")
    assert names_in(durable.staging_directory(tmp_path)) == []


@pytest.mark.parametrize("what", ["a folder with content", "an empty folder"])
def test_a_folder_where_a_file_or_link_belongs_gives_way(tmp_path: Path, what: str) -> None:
    staging = durable.staging_directory(tmp_path)
    for name in ("file", "link", "bytes"):
        (tmp_path / name).mkdir()
        if what == "a folder with content":
            (tmp_path / name / "content").write_text("x")
    temporary = durable.temporary_in(staging)
    temporary.write_text("new")
    durable.publish(temporary, tmp_path / "file")
    durable.publish_link("file", tmp_path / "link", staging)
    durable.publish_bytes(b"new", tmp_path / "bytes")
    assert (tmp_path / "file").read_text() == "new"
    assert (tmp_path / "link").readlink() == Path("file")
    assert (tmp_path / "bytes").read_text() == "new"
    assert names_in(staging) == []


# Whole passes


@pytest.fixture
def hub() -> Iterator[Upstream]:
    with Upstream(small_model()) as running:
        yield running


@pytest.fixture
def mirror(hub: Upstream, tmp_path: Path) -> Iterator[UsersMirror]:
    with users_mirror(tmp_path, hub) as made:
        yield made


STRANGE = [b"a\nb", b"\xff\xfe", b"\x1b[2J", b"n" * 255, b"\xed\xa0\x80", b".hidden", b" "]


def strange(folder: Path, name: bytes) -> Path:
    return Path(os.fsdecode(os.fsencode(folder) + b"/" + name))


@EVERY
def test_a_pass_puts_what_the_master_has_in_place_of_whatever_is_there(
    mirror: UsersMirror, what: str, tmp_path: Path
) -> None:
    users = mirror.directories.public / "users"
    wanted = model_tree(mirror.upstream.model)
    for name in wanted:
        parent = (users / name).parent
        parent.mkdir(parents=True, exist_ok=True)
        for left in ("of-another", "fifo"):
            (parent / left).unlink(missing_ok=True)
        NO_FILES[what](users / name)
    mirror.one_pass()
    found = mirror.served()
    assert {name: found.get(name) for name in wanted} == wanted


def test_a_pass_over_a_folder_that_strangers_filled_mirrors_all_and_follows_nothing(
    mirror: UsersMirror, tmp_path: Path
) -> None:
    outside = left_alone(tmp_path / "outside")
    public, users = mirror.directories.public, mirror.directories.public / "users"
    (public / durable.STAGING).symlink_to(outside)
    own = users / "stranger"
    (own / ".tag-x").mkdir(parents=True)
    deep_tree(own / "deep")
    for number, plant in enumerate(NO_FILES.values()):
        for folder in (own, own / ".tag-x"):
            (folder / "place").mkdir(exist_ok=True)
            for left in ("of-another", "fifo"):
                (folder / left).unlink(missing_ok=True)
            plant(folder / f"p{number}.flist")
    for name in STRANGE:
        for folder in (users, own, own / ".tag-x"):
            strange(folder, name).mkdir()
            strange(folder, name + b".flist" if len(name) < 200 else b"long").touch()
    (users / "linked").symlink_to(outside)
    mirror.one_pass()
    mirror.one_pass()
    assert names_in(own / "deep") == ["d"]
    remove(own / "deep")
    found, wanted = mirror.served(), model_tree(mirror.upstream.model)
    assert {name: found.get(name) for name in wanted} == wanted
    assert names_in(outside) == ["deep", "kept"]


@pytest.mark.parametrize("what", ["a link to a folder", "a file", "a FIFO"])
def test_a_served_folder_that_is_none_is_named_with_the_remedy(
    mirror: UsersMirror, what: str, tmp_path: Path
) -> None:
    for place in (mirror.directories.public / "users", mirror.directories.kernels / "net"):
        if what == "a link to a folder":
            place.symlink_to(left_alone(tmp_path / f"outside-{place.name}"))
        elif what == "a file":
            place.touch()
        else:
            os.mkfifo(place)
    with pytest.raises(plain_files.NotPlainError, match=r"users: is .*mounted.*remove it"):
        mirror.one_pass()
    with pytest.raises(plain_files.NotPlainError, match=r"net: is .*mounted.*remove it"):
        one_pass(kernels_spec(mirror.upstream), mirror.directories)


@EVERY
def test_a_pass_of_the_kernels_job_puts_kernels_in_place_of_whatever_is_there(
    directories: Directories, what: str
) -> None:
    with Upstream(kernels_model()) as upstream:
        for name in kernels(upstream):
            for left in ("of-another", "fifo"):
                (directories.kernels / left).unlink(missing_ok=True)
            NO_FILES[what](directories.kernels / name)
        (directories.kernels / "net").mkdir()
        NO_FILES[what](directories.kernels / "net/prod.efi")
        for odd in STRANGE:
            strange(directories.kernels, odd).touch()
        (directories.kernels / durable.STAGING).symlink_to(directories.secrets)
        one_pass(kernels_spec(upstream), directories)
        for left in ("of-another", "fifo"):
            (directories.kernels / "net" / left).unlink(missing_ok=True)
        found = served(directories)
        assert {name: found.get(name) for name in kernels(upstream)} == kernels(upstream)
        assert links(directories)["prod"] == "../zos-1.efi"
        assert names_in(directories.secrets) == ["zdb-admin"]
