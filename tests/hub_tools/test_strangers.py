"""What strangers packed reaches nothing outside of itself, and is refused with a reason."""

import gzip
import io
import os
import posixpath
import socket
import subprocess
import tarfile
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hub_tools import archives, packer, refusals
from tests.hub_tools.place import HUB_UID, PASSWORD, Place, archived, hubs_error, member

CONFIG = "/hub/src/config.py"
CANARY = "canary: the hub's configuration"
FILE, LINK, HARD, FOLDER = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE
Members = tuple[tuple[tarfile.TarInfo, bytes], ...]


def link(name: str, target: str, kind: bytes = LINK) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, kind, linkname=target), b""


def file(name: str, content: bytes = b"x") -> tuple[tarfile.TarInfo, bytes]:
    return member(name, FILE), content


def special(name: str, kind: bytes) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, kind, devmajor=1, devminor=5), b""


# -- uploads -----------------------------------------------------------------------------------

# `{outside}`: a folder beside the packer's, with a canary in it.
REACHING: dict[str, Members] = {
    "readme is a link to the configuration": (link(".README.md", CONFIG),),
    "the other readme is": (link(".README", CONFIG),),
    "readme by a relative link": (link(".README.md", "../../../../hub/src/config.py"),),
    "readme by links in links": (link(".README.md", "docs"), link("docs", CONFIG)),
    "readme by a link to a file of its own": (file("a"), link(".README.md", "a")),
    "readme is a fifo": (special(".README.md", tarfile.FIFOTYPE),),
    "readme is a character device": (special(".README.md", tarfile.CHRTYPE),),
    "readme is a block device": (special(".README.md", tarfile.BLKTYPE),),
    "readme by a hard link to a link": (link("a", CONFIG), link(".README.md", "a", HARD)),
    "hard link to an absolute path": (link("a", "{outside}/canary", HARD),),
    "hard link upwards": (link("a", "../../outside/canary", HARD),),
    "hard link through a link": (link("d", "{outside}"), link("a", "d/canary", HARD)),
    "absolute member": (file("{outside}/planted"),),
    "member upwards": (file("../../outside/planted"),),
    "member upwards from a folder": (file("a/../../../outside/planted"),),
    "member through a link": (link("out", "{outside}"), file("out/planted")),
    "member through links in links": (
        link("in", "out"),
        link("out", "{outside}"),
        file("in/planted"),
    ),
    "member through a relative link": (link("out", "../../outside"), file("out/planted")),
    "link to the configuration": (file("x"), link("etc", CONFIG)),
    "link to it with detours": (file("x"), link("etc", "/./a//../hub/src/")),
    "link to a secret": (link("etc/a", "/secrets/zdb-admin"),),
    "link to others' uploads": (link("a", "/workdir/distfiles"),),
    "link into a process": (link("a", f"/proc/1/root{CONFIG}"),),
    "link to an environment": (link("a", "/proc/self/environ"),),
    "link into a thread": (link("a", f"/proc/1/task/1/root{CONFIG}"),),
    "link to a thread's environment": (link("a", "/proc/self/task/1/environ"),),
    "link up by a link": (file("d/e/x"), link("d/e/up", ".."), link("a", "d/e/up/../../x")),
    "link to it by a link up": (
        link("d/up", ".."),
        link("a", "d/up/../../hub/src/config.py"),
        file("a b"),
    ),
    "link to it by a link to the root": (link("r", "/"), link("a", "r/hub/src/config.py")),
    "link to it by links in links": (
        link("a", "b/src"),
        link("b", "c/hub"),
        link("c", "d/.."),
        link("d", "/usr"),
    ),
    "link into a process by a link": (link("p", "/proc/1"), link("a", "p/root")),
    "link upwards": (file("a/b/c"), link("a/b/up", "../../../x")),
    "link upwards and back": (link("a", "../x/y"),),
}


def meant(members: Members, outside: Path) -> bytes:
    for info, _ in members:
        info.name = info.name.replace("{outside}", str(outside))
        info.linkname = info.linkname.replace("{outside}", str(outside))
    return archived(*members)


@pytest.fixture
def outside(place: Place) -> Path:
    folder = place.root / "outside"
    folder.mkdir()
    (folder / "canary").write_text(CANARY)
    return folder


@pytest.mark.parametrize("way", REACHING)
def test_an_upload_that_reaches_outside_is_refused_before_zflist_sees_it(
    place: Place, outside: Path, way: str
) -> None:
    upload = place.config.workdir / "upload.tar.gz"
    upload.write_bytes(meant(REACHING[way], outside))
    done = place.call("tar", "-xpf", str(upload), "-C", str(place.workspace))
    assert done.returncode == packer.REFUSED
    packed = place.call("zflist", "putdir", str(place.workspace), "/")
    assert packed.returncode == packer.REFUSED
    assert refusals.answer(hubs_error(packed.stdout)) == _refused(packed.stdout)
    assert "uid " not in packed.stdout, "zflist was not started"
    assert CANARY not in done.stdout + done.stderr + packed.stdout + packed.stderr
    assert list(place.workspace.iterdir()) == list(place.config.area.iterdir()) == []
    assert [entry.name for entry in outside.iterdir()] == ["canary"]
    assert (outside / "canary").stat().st_nlink == 1
    assert not upload.exists(), "the hub does not come to remove it"


def _refused(text: str) -> tuple[dict[str, str], int]:
    reason = text.strip().removeprefix("packer: refused: ")
    assert reason.startswith(("the upload reaches outside", "the upload is no archive"))
    assert len(reason) < 500
    assert reason.isprintable()
    return {"status": "error", "message": reason}, 400


KEPT: dict[str, Members] = {
    "a system's own links": (
        file("usr/bin/busybox"),
        link("bin", "usr/bin"),
        link("usr/bin/sh", "/usr/bin/busybox"),
        link("etc/mtab", "/proc/self/mounts"),
        link("dev/fd", "/proc/self/fd"),
        link("usr/lib/up", "../../bin"),
        link("dangling", "nowhere"),
        link("loop", "loop"),
        link("a", "b"),
        link("b", "a/../a"),
        link("lib", "usr/lib"),
        link("usr/sbin", "../lib/../bin"),
        link("root", "/"),
        link("etc/x", "../root/etc/mtab"),
    ),
    "hard links among its own": (file("a"), link("b", "a", HARD), link("c/d", "a", HARD)),
    "a folder named like the hub's": (file("hub/src/config.py"), link("a", CONFIG)),
    "devices": (special("dev/null", tarfile.CHRTYPE), special("dev/p", tarfile.FIFOTYPE)),
    "a readme": (file(".README.md", b"# It"), link("README", ".README.md")),
    "a folder of readmes": (file(".README/a"),),
    "dots in names": (file("..a/...b"), file("a..")),
    "members through a link of its own": (file("usr/lib/a"), link("lib", "usr/lib"), file("lib/b")),
}


@pytest.mark.parametrize("what", KEPT)
def test_what_stays_inside_is_packed_as_it_is(place: Place, what: str) -> None:
    place.unpacked(archived(*KEPT[what]))
    told = place.told("putdir", str(place.workspace), "/")
    names = {info.name for info, _ in KEPT[what]} - {"lib/b"}
    assert names <= set(told.entries)


COMPONENTS = st.sampled_from(["", ".", "..", "a", "b", "..."])


@given(st.lists(st.sampled_from(["a", "b"])), st.lists(COMPONENTS, min_size=1))
def test_a_relative_link_leaves_if_any_step_of_it_does(place_: list[str], parts: list[str]) -> None:
    target = "/".join(parts)
    if target.startswith("/"):
        return
    path = "/".join([*place_, "link"])
    steps = [
        posixpath.normpath("/".join(["/top", *place_, *parts[:count]]))
        for count in range(1, len(parts) + 1)
    ]
    left = any(not f"{step}/".startswith("/top/") for step in steps)
    assert archives.leads_out(path, target, frozenset()) == left


def holes(size: int, *, names: int = 1) -> bytes:
    """Return an archive with a file of holes alone, as `tar --sparse` makes it, of some KB."""
    with tempfile.TemporaryDirectory() as folder:
        for number in range(names):
            path = Path(folder) / f"holes{number}"
            if number == 0:
                path.touch()
                os.truncate(path, size)
            else:
                path.hardlink_to(Path(folder) / "holes0")
        command = ["tar", "--sparse", "-czf", "-", "-C", folder, "."]
        return subprocess.run(command, capture_output=True, check=True).stdout


def refused(place: Place, archive: bytes) -> str:
    """Return the reason that an uploader hears."""
    upload = place.config.workdir / "upload.tar.gz"
    upload.write_bytes(archive)
    assert (
        place.call("tar", "-xpf", str(upload), "-C", str(place.workspace)).returncode
        == packer.REFUSED
    )
    packed = place.call("zflist", "putdir", str(place.workspace), "/")
    assert packed.returncode == packer.REFUSED
    assert "uid " not in packed.stdout, "zflist was not started"
    assert list(place.config.area.iterdir()) == []
    assert not upload.exists()
    told = refusals.answer(hubs_error(packed.stdout))
    assert told
    return told[0]["message"]


@pytest.mark.parametrize("names", [1, 7])
def test_an_upload_of_holes_does_not_keep_the_packer_for_days(place: Place, names: int) -> None:
    disk = os.statvfs(place.config.area)
    size = disk.f_blocks * disk.f_frsize // names + (1 << 20)
    assert "larger than the whole disk" in refused(place, holes(size, names=names))


def test_an_upload_that_unfolds_past_the_floor_of_the_disk_is_ended(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some KB of gzip are as many MB: until the floor is passed, and no further."""
    disk = os.statvfs(place.config.area)
    few = replace(place.config, floor_bytes=disk.f_bavail * disk.f_frsize - (256 << 20))
    monkeypatch.setattr(packer, "_POLL_SECONDS", 0.01)
    packing = packer.Packer(few)
    archive = place.config.workdir / "upload.tar.gz"
    with archive.open("wb") as file, gzip.GzipFile(fileobj=file, mode="wb", compresslevel=1) as gz:
        info = member("zeros")
        info.size = 2 << 30
        gz.write(info.tobuf())
        for _ in range(2048):
            gz.write(bytes(1 << 20))
    ours, theirs = socket.socketpair()
    with ours, theirs, Path(os.devnull).open("wb") as null:
        request = packer.Request(
            "tar",
            ["-xpf", str(archive), "-C", str(place.workspace)],
            {},
            null.fileno(),
            null.fileno(),
        )
        with pytest.raises(packer.RefusedError, match="does not fit"):
            packing.carry_out(request, theirs)
        with pytest.raises(packer.RefusedError, match="does not fit"):
            packing.carry_out(
                replace(request, tool="zflist", arguments=["putdir", str(place.workspace), "/"]),
                theirs,
            )
    assert list(place.config.area.iterdir()) == []
    assert not archive.exists()


def test_a_tool_that_talks_without_end_holds_nobody(place: Place) -> None:
    """An archive with many bad members makes tar say as many sentences."""
    bad = (file(f"../{number:0200d}") for number in range(2000))
    upload = place.config.workdir / "upload.tar.gz"
    upload.write_bytes(archived(*bad))
    done = place.call("tar", "-xpf", str(upload), "-C", str(place.workspace))
    assert done.returncode == packer.REFUSED
    assert len(done.stderr) < 10_000


# -- flists ------------------------------------------------------------------------------------

DATABASE = file("flistdb.sqlite3", b"SQLite format 3\0" * 4096)
WRONG_FLISTS: dict[str, bytes] = {
    "database is a link": archived(link("flistdb.sqlite3", CONFIG)),
    "database is a hard link": archived(link("flistdb.sqlite3", CONFIG, HARD)),
    "database is a fifo": archived(special("flistdb.sqlite3", tarfile.FIFOTYPE)),
    "a link beside it": archived(DATABASE, link("more", CONFIG)),
    "a hard link beside it": archived(DATABASE, link("more", CONFIG, HARD)),
    "a device beside it": archived(DATABASE, special("dev", tarfile.BLKTYPE)),
    "a member upwards": archived(DATABASE, file("../../users/bob/planted.flist")),
    "a folder upwards": archived((member("../x", FOLDER), b""), DATABASE),
    "an absolute member": archived(file("/workdir/planted"), DATABASE),
    "a link to pass through": archived(link("a", "/workdir"), file("a/planted"), DATABASE),
    "two databases": archived(DATABASE, DATABASE),
    "no database": archived(file("other")),
    "many members": archived(*(file(f"{number}") for number in range(100)), DATABASE),
    "no archive": b"this is no archive",
    "a cut one": archived(DATABASE)[:-20],
    "a wrong checksum": archived(DATABASE)[:-8] + b"\0\0\0\1" + archived(DATABASE)[-4:],
    "nothing": b"",
    "no gzip": gzip.decompress(archived(DATABASE)),
}


@pytest.mark.parametrize("wrong", WRONG_FLISTS)
def test_a_flist_that_is_more_than_its_database_is_refused(wrong: str) -> None:
    with pytest.raises(archives.RefusedError) as raised:
        archives.rebuild(io.BytesIO(WRONG_FLISTS[wrong]), io.BytesIO())
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 300


@pytest.mark.parametrize("verb", ["open", "merge"])
@pytest.mark.parametrize("wrong", ["database is a link", "a member upwards", "no archive"])
def test_what_is_refused_is_never_unpacked_and_goes(place: Place, verb: str, wrong: str) -> None:
    flist = place.upload("x.flist", WRONG_FLISTS[wrong])
    done = place.call("zflist", verb, str(flist))
    assert done.returncode == packer.REFUSED
    assert "x.flist' is no flist: " in done.stdout
    assert refusals.answer(hubs_error(done.stdout)) is not None
    assert "uid " not in done.stdout, "zflist was not started"
    assert not flist.exists()
    assert list(place.config.area.iterdir()) == []


@pytest.mark.parametrize("verb", ["open", "merge"])
def test_zflist_opens_an_archive_of_our_own_as_the_hubs_uid_without_the_password(
    place: Place, verb: str
) -> None:
    folder = (member("./", FOLDER), b"")
    given_ = archived(folder, (member("./flistdb.sqlite3"), DATABASE[1]), file("left-over"))
    (place.config.users / "alice" / "x.flist").write_bytes(given_)
    (place.config.users / "alice" / "link.flist").symlink_to("x.flist")
    for name in ("x", "link"):
        told = place.told(verb, str(place.config.users / "alice" / f"{name}.flist"))
        assert told.members == ["flistdb.sqlite3"]
        assert told.uid == HUB_UID
        assert PASSWORD not in str(told)


@pytest.mark.parametrize(
    "more",
    [b"", b"junk after it", gzip.compress(b"a second member")],
    ids=["nothing", "junk", "another member"],
)
def test_the_database_comes_through_unchanged(more: bytes) -> None:
    made = io.BytesIO()
    archives.rebuild(io.BytesIO(archived(DATABASE) + more), made)
    with tarfile.open(fileobj=io.BytesIO(made.getvalue())) as archive:
        (found,) = archive.getmembers()
        content = archive.extractfile(found)
        assert content
        assert content.read() == DATABASE[1]


def test_a_database_that_unfolds_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_DATABASE_BYTES", 1000)
    with pytest.raises(archives.RefusedError, match="has 65536 bytes"):
        archives.rebuild(io.BytesIO(archived(DATABASE)), io.BytesIO())


HEADERS = st.one_of(st.just("size"), st.just("type"), st.just("name"), st.just("anywhere"))
FIELDS = {"size": (124, 12), "type": (156, 1), "name": (0, 100), "anywhere": (0, 512)}


@settings(deadline=None)
@given(
    HEADERS,
    st.binary(min_size=1, max_size=600),
    st.integers(0, 511),
    st.booleans(),
    st.integers(0, 4000),
)
def test_a_broken_flist_is_refused_at_once_whatever_is_in_it(
    where: str, junk: bytes, at: int, right_sum: bool, cut: int
) -> None:
    plain = bytearray(gzip.decompress(archived((member("d", FOLDER), b""), DATABASE)))
    start, length = FIELDS[where]
    at = 512 + start + at % length
    plain[at : at + length] = junk[:length]
    if right_sum:
        header = bytes(plain[512:660]) + b" " * 8 + bytes(plain[668:1024])
        plain[660:668] = b"%06o\0 " % sum(header)
    packed, made = gzip.compress(bytes(plain), 1), io.BytesIO()
    try:
        archives.rebuild(io.BytesIO(packed[: len(packed) - max(0, cut - 3900)]), made)
    except archives.RefusedError:
        return
    with tarfile.open(fileobj=io.BytesIO(made.getvalue())) as archive:
        assert archive.getnames() == ["flistdb.sqlite3"]


@pytest.mark.parametrize("size", [1 << 40, (1 << 62) + 512, -512, -(1 << 40)])
@pytest.mark.parametrize("name", ["flistdb.sqlite3", "d"])
def test_a_size_that_a_header_claims_is_not_followed(name: str, size: int) -> None:
    info = member(name)
    info.size = size
    header = info.tobuf(tarfile.GNU_FORMAT)
    with pytest.raises(archives.RefusedError, match=f"has {size} bytes"):
        archives.rebuild(io.BytesIO(gzip.compress(header + bytes(1024))), io.BytesIO())


# -- where the hub may point -------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ("open", "/etc/passwd"),
        ("open", "{users}/../secret.flist"),
        ("open", "{users}/alice/out.flist"),
        ("open", "{users}/alice/fifo.flist"),
        ("open", "{users}/alice"),
        ("open", "{work}/distfiles/../secret.flist"),
        ("open", "{work}/distfiles/out.flist"),
        ("merge", "{users}/alice/../../secret.flist"),
        ("commit", "{users}/../planted.flist"),
        ("commit", "{users}/alice/../../planted.flist"),
        ("commit", "{work}/planted.flist"),
        ("commit", "/hub/src/config.py"),
        ("metadata", "readme", "--import", "/etc/passwd"),
        ("metadata", "readme", "--import", "{work}/temp/link"),
        ("metadata", "readme", "--import", "{work}/secret.flist"),
    ],
    ids=str,
)
def test_a_path_that_leads_out_of_uploads_and_repositories_is_refused(
    place: Place, words: tuple[str, ...]
) -> None:
    work, users = place.config.workdir, place.config.users
    place.upload("x", b"")
    for secret in (work / "secret.flist", users.parent / "secret.flist"):
        secret.write_bytes(archived(DATABASE))
    (users / "alice" / "out.flist").symlink_to("../../secret.flist")
    (work / "distfiles" / "out.flist").symlink_to("../secret.flist")
    (work / "temp").mkdir()
    (work / "temp" / "link").symlink_to("../secret.flist")
    os.mkfifo(users / "alice" / "fifo.flist")
    done = place.call("zflist", *(word.format(work=work, users=users) for word in words))
    assert done.returncode == packer.REFUSED
    assert done.stdout.startswith("packer: refused: ")
    assert "uid " not in done.stdout


@pytest.mark.parametrize("name", ["x.flist", ".flist", "...flist", "a b (1).flist", "x:y.flist"])
def test_every_name_that_the_hub_gives_is_committed_to(place: Place, name: str) -> None:
    target = str(place.config.users / "alice" / name)
    assert place.told("commit", target).arguments == ["commit", target]


# -- without the right to pack -----------------------------------------------------------------


def test_a_mirrors_packer_reads_and_packs_nothing(place: Place) -> None:
    reader = packer.Packer(replace(place.config, backend=None))
    upload = place.upload("x.tar.gz", archived(file("a")))
    words = ["-xpf", str(upload), "-C", str(place.workspace)]
    here, caller = socket.socketpair()
    with here, caller, Path(os.devnull).open("wb") as nowhere:
        request = packer.Request("tar", words, {}, nowhere.fileno(), nowhere.fileno())
        with pytest.raises(packer.RefusedError, match="packs nothing"):
            reader.carry_out(request, caller)
    assert list(place.config.area.iterdir()) == []


def test_the_password_shows_in_no_description_of_the_packer(place: Place) -> None:
    assert PASSWORD not in repr(place.config)


def test_what_reads_is_bounded_and_leaves_no_memory_behind(place: Place) -> None:
    script = Path(place.config.tools["zflist"])
    script.write_text('#!/bin/sh\necho "argument $(ulimit -c) $(ulimit -t)"\n')
    assert place.told("find").arguments == ["0 600"]
    place.unpacked(archived(file("a")))
    assert place.told("putdir", str(place.workspace), "/").arguments == ["0 unlimited"]
