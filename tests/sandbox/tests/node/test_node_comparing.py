"""What a node reads is compared with what was packed: content, owners, modes, times, devices."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.golden import flists as golden
from tests.sandbox.flist import Flist, pack_directory
from tests.sandbox.node import Node, NodeError
from tests.sandbox.tests.node.edge import DOMAIN, Edge

NAMES = tuple(f"{name}{DOMAIN}" for name in ("hub.", "bootstrap.", "unsecure.bootstrap."))
BOOTSTRAP = "tf-autobuilder/bootstrap:latest.flist"
BASE = "tf-zos/zos-base.flist"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "source"
    (root / "sub" / "empty").mkdir(parents=True)
    (root / "sub" / "file").write_bytes(b"content")
    (root / "two-chunks").write_bytes(b"z" * (512 << 10) + b"end")
    (root / "nothing").write_bytes(b"")
    (root / "link").symlink_to("sub/file")
    (root / "sub" / "file").chmod(0o4750)
    os.mkfifo(root / "pipe")
    for place in (root / "sub" / "file", root / "nothing"):
        os.utime(place, (1_000_000_000, 1_000_000_000))
    return root


def test_what_was_read_is_told(edge: Edge, source: Path) -> None:
    edge.model.add_flist("alice.3bot", "one.flist", source)
    with Node(edge.mirror, 6) as node:
        done = node.boot("alice.3bot/one.flist", source)
    assert (done.files, done.directories, done.links, done.chunks) == (3, 2, 1, 3)
    assert done.bytes == len(b"content") + (512 << 10) + len(b"end")


def content(root: Path) -> None:
    place = root / "sub" / "file"
    place.write_bytes(b"Content")
    os.utime(place, (1_000_000_000, 1_000_000_000))


def set_id_bit(root: Path) -> None:
    (root / "sub" / "file").chmod(0o750)


def link(root: Path) -> None:
    (root / "link").unlink()
    (root / "link").symlink_to("sub/other")


def one_more(root: Path) -> None:
    (root / "more").touch()


def one_less(root: Path) -> None:
    (root / "nothing").unlink()


def file_for_folder(root: Path) -> None:
    (root / "sub" / "empty").rmdir()
    (root / "sub" / "empty").touch()


def file_for_pipe(root: Path) -> None:
    (root / "pipe").unlink()
    (root / "pipe").touch()


def time(root: Path) -> None:
    os.utime(root / "nothing", (1_000_000_001, 1_000_000_001))


@pytest.mark.parametrize(
    "change",
    [content, set_id_bit, link, one_more, one_less, file_for_folder, file_for_pipe, time],
)
def test_every_difference_is_noticed(
    edge: Edge, source: Path, change: Callable[[Path], None]
) -> None:
    edge.model.add_flist("alice.3bot", "one.flist", source)
    with Node(edge.mirror, 4) as node:
        node.boot("alice.3bot/one.flist", source)
        change(source)
        with pytest.raises(NodeError, match=r"alice\.3bot/one\.flist") as noticed:
            node.boot("alice.3bot/one.flist", source)
    assert noticed.value.unseen


@pytest.mark.parametrize(("said", "wrong"), [("uid", "is of 4242:"), ("device", "is not what")])
def test_another_owner_and_another_device_are_noticed(
    edge: Edge, source: Path, said: str, wrong: str
) -> None:
    packed = pack_directory(source)
    root = packed.flist.directory()
    pipe = next(inode for inode in root.inodes if inode.name == "pipe")
    access = packed.flist.access(pipe.access_key)
    other = replace(access, uid=4242)
    pipe = replace(pipe, device="1,3") if said == "device" else replace(pipe, access_key=other.key)
    inodes = tuple(pipe if inode.name == "pipe" else inode for inode in root.inodes)
    entries = {**packed.flist.entries, root.key: replace(root, inodes=inodes).encode()}
    entries[other.key] = other.encode()
    edge.model.add_chunks(packed.chunks)
    backend = {"backend": edge.model.backend.encode()}
    edge.model.add_flist("alice.3bot", "one.flist", Flist(entries, backend).encode())
    with Node(edge.mirror, 4) as node, pytest.raises(NodeError, match=f"pipe {wrong}"):
        node.boot("alice.3bot/one.flist", source)


@pytest.mark.parametrize("name", golden.NAMES)
def test_what_zflist_packed_comes_back_with_owners_set_id_bits_and_devices(
    edge: Edge, tmp_path: Path, name: str
) -> None:
    recorded = golden.Recorded.of(name)
    recorded.make(tmp_path)
    packed = recorded.flist()
    own = replace(packed, metadata={"backend": edge.model.backend.encode()})
    edge.model.add_chunks(recorded.payloads)
    edge.model.add_flist("alice.3bot", "one.flist", own.encode())
    with Node(edge.mirror, 4) as node:
        done = node.boot("alice.3bot/one.flist", tmp_path)
    assert done.keys == packed.chunk_keys()
