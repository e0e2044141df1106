"""The hub's tools: no password for zflist, and no rights for the hub, whatever an upload holds."""

import json
import os
import re
import socket
import stat
import subprocess
import sys
import tarfile
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from hub_tools import front, packer
from tests.hub_tools.place import HUB_UID, PASSWORD, Place, archived, member
from tests.sandbox.host.processes import wait_until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="owners and device nodes need root")
SLEEPER = ["sleep", "61.25"]

SYSTEM = archived(
    (member("home", tarfile.DIRTYPE, mode=0o700, uid=1000, gid=1000), b""),
    (member("home/secret", mode=0o600, uid=1000, gid=1001), b"x"),
    (member("closed", tarfile.DIRTYPE, mode=0, uid=4242, gid=0), b""),
    (member("bin/su", mode=0o4755, uid=0, gid=0), b"su"),
    (member("bin/write", mode=0o2755, uid=0, gid=5), b"w"),
    (member("tmp", tarfile.DIRTYPE, mode=0o1777, uid=0, gid=0), b""),
    (member("dev/null", tarfile.CHRTYPE, mode=0o666, devmajor=1, devminor=3), b""),
    (member("dev/sda", tarfile.BLKTYPE, mode=0o660, gid=6, devmajor=8, devminor=0), b""),
    (member("run/fifo", tarfile.FIFOTYPE, mode=0o644, uid=7), b""),
)


def test_an_upload_keeps_owners_modes_set_id_bits_and_device_nodes(place: Place) -> None:
    place.unpacked(SYSTEM)
    entries = place.told("putdir", str(place.workspace), "/").entries
    assert entries["home/secret"] == (stat.S_IFREG | 0o600, 1000, 1001, (0, 0))
    assert entries["home"] == (stat.S_IFDIR | 0o700, 1000, 1000, (0, 0))
    assert entries["closed"] == (stat.S_IFDIR, 4242, 0, (0, 0))
    assert entries["bin/su"][0] == stat.S_IFREG | 0o4755
    assert entries["bin/write"][:3] == (stat.S_IFREG | 0o2755, 0, 5)
    assert entries["tmp"][0] == stat.S_IFDIR | 0o1777
    assert entries["dev/null"] == (stat.S_IFCHR | 0o666, 0, 0, (1, 3))
    assert entries["dev/sda"] == (stat.S_IFBLK | 0o660, 0, 6, (8, 0))
    assert entries["run/fifo"][:2] == (stat.S_IFIFO | 0o644, 7)


def test_what_strangers_packed_is_never_where_the_hub_sees_it_and_goes_afterwards(
    place: Place,
) -> None:
    place.unpacked(SYSTEM)
    assert list(place.workspace.iterdir()) == []
    (folder,) = place.config.area.iterdir()
    assert list(folder.iterdir())
    place.told("putdir", str(place.workspace), "/")
    assert list(place.config.area.iterdir()) == []


def test_only_packing_has_rights_and_the_password(place: Place) -> None:
    place.unpacked(SYSTEM)
    asked = {
        "ZFLIST_BACKEND": json.dumps({"password": ""}),
        "ZFLIST_MNT": "/m",
        "LD_LIBRARY_PATH": "/x",
    }
    packing = place.told("putdir", str(place.workspace), "/", **asked)
    assert packing.uid == 0
    assert json.loads(packing.environment["ZFLIST_BACKEND"])["password"] == PASSWORD
    assert packing.environment["ZFLIST_MNT"] == "/m"
    assert "LD_LIBRARY_PATH" not in packing.environment
    for command in ("init", "open", "metadata", "check", "commit", "merge"):
        other = place.told(command, **asked)
        assert (other.uid, other.groups) == (HUB_UID, str(HUB_UID))
        assert PASSWORD not in str(other)
        assert "LD_LIBRARY_PATH" not in other.environment


def test_the_hubs_password_argument_reaches_nobody(place: Place) -> None:
    told = place.told("metadata", "backend", "--port", "9", "--password", "", "--namespace", "n")
    assert told.arguments == ["metadata", "backend", "--port", "9", "--namespace", "n"]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ([], []),
        (["check"], ["check"]),
        (["metadata", "--password", "secret"], ["metadata"]),
        (["metadata", "--password"], ["metadata"]),
        (["metadata", "--password", "--password", "name"], ["metadata", "name"]),
        (["a", "--password", "", "b", "--password", "x"], ["a", "b"]),
    ],
)
def test_a_password_argument_is_dropped_with_its_value(given: list[str], kept: list[str]) -> None:
    assert front.without_password(given) == kept


@pytest.mark.parametrize("odd", ["", "{", "[]", '"text"', "null", "3"])
def test_a_backend_that_is_no_object_passes_as_it_is(odd: str) -> None:
    assert front.without_secret(odd) == odd
    assert json.loads(front.without_secret('{"host": "a", "password": "b"}')) == {"host": "a"}


def test_a_readme_comes_to_the_hub_as_a_file_of_its_own(place: Place) -> None:
    place.unpacked(archived((member(".README.md", mode=0o4600, uid=0), b"# Read me")))
    place.told("putdir", str(place.workspace), "/")
    readme = place.workspace / ".README.md"
    assert readme.read_bytes() == b"# Read me"
    assert (readme.stat().st_uid, readme.stat().st_mode & 0o7000) == (HUB_UID, 0)


@pytest.mark.parametrize(
    "arguments",
    [
        ("tar", "-cf", "{work}/a", "-C", "{space}"),
        ("tar", "-xpf", "{work}/link", "-C", "{space}"),
        ("tar", "-xpf", "{work}/fifo", "-C", "{space}"),
        ("tar", "-xpf", "/etc/passwd", "-C", "{space}"),
        ("tar", "-xpf", "{work}/../packing/x", "-C", "{space}"),
        ("tar", "-xpf", "{work}/good", "-C", "/etc"),
        ("tar", "-xpf", "{work}/good", "-C", "{work}/temp/.."),
        ("tar", "-xpf", "{work}/good", "-C", "{work}/temp/a/b"),
        ("tar", "-xpf", "{work}/good", "-C", "{space}", "--to-command=id"),
        ("zflist", "putdir", "/etc", "/"),
        ("zflist", "putdir", "{work}/temp/../..", "/"),
        ("zflist", "putdir", "{work}/temp/other", "/"),
        ("zflist", "putdir", "{space}", "/etc"),
    ],
    ids=str,
)
def test_what_the_hub_has_no_reason_to_send_is_refused_with_a_reason(
    place: Place, arguments: tuple[str, ...]
) -> None:
    work = place.config.workdir
    (work / "good").write_bytes(SYSTEM)
    (work / "link").symlink_to("/etc/passwd")
    os.mkfifo(work / "fifo")
    words = [word.format(work=work, space=place.workspace) for word in arguments]
    done = place.call(words[0], *words[1:])
    assert done.returncode == packer.REFUSED
    assert "packer: " in done.stderr
    assert not is_json(done.stdout)
    assert list(place.config.area.iterdir()) == []


def asked(place: Place, request: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(place.config.socket))
        with Path(os.devnull).open("wb") as nowhere:
            socket.send_fds(connection, [b"\n"], [nowhere.fileno(), nowhere.fileno()])
        connection.sendall(request + b"\n")
        return connection.recv(16)


@pytest.mark.parametrize(
    "request_",
    [b"", b"{", b"[]", b"null", b'{"tool": "zflist"}', b'{"tool": 1, "arguments": 2}', b"\xff"],
)
def test_a_request_that_is_none_is_refused_and_the_next_is_answered(
    place: Place, request_: bytes
) -> None:
    assert asked(place, request_) == b"%d\n" % packer.REFUSED
    assert asked(place, b'{"tool": "ping", "arguments": [], "environment": {}}') == b"0\n"


def test_a_command_ends_when_the_hub_that_asked_for_it_goes(place: Place) -> None:
    child = subprocess.Popen(
        [sys.executable, "-S", str(place.root / "bin" / "zflist"), "sleep"],
        env={"GRIDHUB_PACKER": str(place.config.socket)},
    )
    try:
        wait_until(lambda: running(SLEEPER), "the tool", 20)
    finally:
        child.kill()
        child.wait()
    wait_until(lambda: not running(SLEEPER), "the end of the tool", 20)


def running(command: list[str]) -> bool:
    wanted = "\0".join(command).encode() + b"\0"
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().endswith(wanted):
                return True
        except OSError:
            continue
    return False


def test_only_the_hubs_uid_reaches_the_packer(place: Place) -> None:
    status = place.config.socket.stat()
    assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (HUB_UID, 0o600)


def test_two_uploads_for_one_workspace_do_not_reach_into_each_other(place: Place) -> None:
    """Found by attack: by a link of the first, the second put one beside it, to the password."""
    go = place.root / "go"
    held = place.root / "held-tar"
    held.write_text(f"#!/bin/sh\nwhile [ ! -e {go} ]; do sleep 0.05; done\n")
    held.chmod(0o755)
    config = replace(place.config, tools={**place.config.tools, "tar": str(held)})
    (place.config.workdir / "upload").write_bytes(SYSTEM)
    words = ["-xpf", str(place.config.workdir / "upload"), "-C", str(place.workspace)]
    here, there = socket.socketpair()
    unpacking = packer.Packer(config)
    request = packer.Request("tar", words, {}, sys.stdout.fileno(), sys.stderr.fileno())
    threads = [
        threading.Thread(target=unpacking.carry_out, args=(request, there)) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    with here, there:
        try:
            wait_until(lambda: len(list(place.config.area.iterdir())) == 2, "both folders", 20)
        finally:
            go.touch()
            for thread in threads:
                thread.join()
    assert len(list(place.config.area.iterdir())) == 1, "the later one is what is packed"


@pytest.mark.parametrize(
    "archive",
    [b"no archive", SYSTEM[:-40], archived((member("../x"), b"")), b""],
    ids=["garbage", "cut", "climbs", "empty"],
)
def test_an_upload_that_does_not_unpack_whole_is_refused_when_it_is_packed(
    place: Place, archive: bytes
) -> None:
    upload = place.config.workdir / "upload.tar.gz"
    upload.write_bytes(archive)
    assert place.call("tar", "-xpf", str(upload), "-C", str(place.workspace)).returncode != 0
    done = place.call("zflist", "putdir", str(place.workspace), "/")
    assert done.returncode == packer.REFUSED
    assert re.search(r"no archive that tar unpacks whole: .*\w", done.stdout)
    assert list(place.config.area.iterdir()) == []


def test_a_fifo_in_place_of_the_readme_holds_nobody(place: Place) -> None:
    place.unpacked(archived((member(".README.md"), b"# Read me")))
    os.mkfifo(place.workspace / ".README.md")
    os.chown(place.workspace / ".README.md", HUB_UID, HUB_UID)
    place.told("putdir", str(place.workspace), "/")
    assert list(place.config.area.iterdir()) == []


def test_what_an_earlier_packer_left_goes_at_start_however_deep(place: Place) -> None:
    assert list(place.config.area.iterdir()) == []
    deep = place.config.area / "deep"
    command = "mkdir deep; cd deep; i=0; while [ $i -lt 1500 ]; do mkdir d; cd d; i=$((i+1)); done"
    subprocess.run(["sh", "-c", command], cwd=place.config.area, check=True)
    packer.Packer(place.config).clear()
    assert not deep.exists()


def test_without_a_packer_the_tool_is_told_as_unavailable(place: Place) -> None:
    gone = replace(place.config, socket=place.root / "nothing")
    done = Place(gone, place.root).call("zflist", "init")
    assert done.returncode == front.UNAVAILABLE
    assert "does not answer" in done.stderr
    assert not is_json(done.stdout)


def test_a_tool_that_was_killed_is_told_so_that_the_hub_does_not_take_it_for_well(
    place: Place,
) -> None:
    done = place.call("zflist", "killed")
    assert done.returncode == packer.ENDED
    assert "zflist was ended by SIGKILL" in done.stderr
    assert not is_json(done.stdout)


def test_a_packer_that_goes_away_in_the_middle_is_told(place: Place) -> None:
    path = place.root / "half.sock"
    with socket.socket(socket.AF_UNIX) as half:
        half.bind(str(path))
        half.listen()
        thread = threading.Thread(target=_accept_and_close, args=(half,))
        thread.start()
        done = Place(replace(place.config, socket=path), place.root).call("zflist", "init")
        thread.join()
    assert done.returncode == front.UNAVAILABLE
    assert not is_json(done.stdout)


def _accept_and_close(listening: socket.socket) -> None:
    listening.accept()[0].close()


def is_json(text: str) -> bool:
    """Whether the hub goes on after this output (0-hub: src/hub/flist.py, execute): silence too."""
    if not text.strip():
        return True
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
