"""Flists in the true format: read back by an independent Cap'n Proto, and byte for byte."""

import base64
import gzip
import io
import os
import sqlite3
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sandbox.flist import Backend, Flist, FormatError, pack_directory, snappy, xxtea
from tests.sandbox.flist.capnp import EncodingError, Message
from tests.sandbox.flist.chunks import CHUNK_BYTES, Chunk, ChunkError, open_chunks, seal
from tests.sandbox.flist.tree import Access, Directory, path_key


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "source"
    (root / "deep" / "deeper").mkdir(parents=True)
    (root / "empty").write_bytes(b"")
    (root / "small").write_bytes(b"small")
    (root / "big").write_bytes(os.urandom(CHUNK_BYTES + 7))
    (root / "exact").write_bytes(b"x" * CHUNK_BYTES)
    (root / "deep" / "déjà vu").write_text("names are not only ASCII")
    (root / "deep" / "run").write_text("#!/bin/sh\n")
    (root / "deep" / "run").chmod(0o4755)
    (root / "link").symlink_to("deep/run")
    (root / "dangling").symlink_to("/nowhere/at/all")
    (root / "__pycache__").mkdir()
    return root


def test_pycapnp_reads_what_we_write(schema: Any, source: Path) -> None:
    packed = pack_directory(source)
    with schema.Dir.from_bytes(packed.flist.entries[path_key("")]) as root:
        inodes = {inode.name: inode for inode in root.contents}
        assert sorted(inodes) == sorted(
            {"big", "dangling", "deep", "empty", "exact", "link", "small"}
        )
        assert root.location == ""
        assert inodes["link"].attributes.link.target == "deep/run"
        assert inodes["deep"].attributes.dir.key == path_key("deep")
        blocks = inodes["big"].attributes.file.blocks
        assert [len(block.hash) for block in blocks] == [16, 16]
        assert inodes["big"].size == CHUNK_BYTES + 7
        assert len(inodes["empty"].attributes.file.blocks) == 0
        assert len(inodes["exact"].attributes.file.blocks) == 1
        key = inodes["small"].aclkey
    status = (source / "small").stat()
    with schema.ACI.from_bytes(packed.flist.entries[key]) as access:
        assert (access.uid, access.gid, access.mode) == (
            status.st_uid,
            status.st_gid,
            status.st_mode & 0o7777,
        )


def test_we_read_what_pycapnp_writes(schema: Any) -> None:
    message = schema.Dir.new_message(name="d", location="a/d", parent="p", aclkey="k", size=4096)
    inodes = message.init("contents", 2)
    inodes[0].name, inodes[0].aclkey, inodes[0].size = "f", "k", 9
    blocks = inodes[0].attributes.init("file").init("blocks", 1)
    blocks[0].hash, blocks[0].key = b"h" * 16, b"c" * 16
    inodes[1].name, inodes[1].aclkey = "l", "k"
    inodes[1].attributes.init("link").target = "somewhere"
    found = Directory.decode(message.to_bytes())
    assert (found.path, found.access_key) == ("a/d", "k")
    assert [(inode.name, inode.kind) for inode in found.inodes] == [("f", "file"), ("l", "link")]
    assert found.inodes[0].chunks[0].id == b"h" * 16
    assert found.inodes[1].target == "somewhere"


def test_messages_of_many_segments_are_read(schema: Any) -> None:
    message = schema.Dir.new_message()
    message.location = "a/b"
    inodes = message.init("contents", 400)
    for number, inode in enumerate(inodes):
        inode.name = f"file-{number}"
        inode.attributes.init("file").init("blocks", 2)[1].hash = bytes([number % 256]) * 16
    data = message.to_bytes()
    assert len(Message(data).segments) > 1
    found = Directory.decode(data)
    assert [inode.name for inode in found.inodes] == [f"file-{number}" for number in range(400)]
    assert found.inodes[399].chunks[1].id == bytes([399 % 256]) * 16


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_nonsense_is_refused_as_such(data: bytes) -> None:
    try:
        Directory.decode(data)
    except (EncodingError, IndexError):
        return


def test_keys_are_those_of_zflist() -> None:
    # Taken from a flist that the real zflist (0-flist, development-v2) packed as root.
    assert path_key("sub") == "73d580a1148567000871c163ef0e1ea3"
    assert Access(mode=0o644).key == "5f64cf1389d15471"
    assert Access(mode=0o777).key == "73e6e9d75d19d7da"
    assert Access(mode=0o755).key == "d7683de000c13689"


def test_archive_is_a_tar_gz_with_one_database(source: Path) -> None:
    data = pack_directory(source).archive(Backend("hub.example.org", 9901, "space"))
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as tar:
        assert tar.getnames() == [".", "./flistdb.sqlite3"]
        member = tar.extractfile("./flistdb.sqlite3")
        assert member is not None
        database = sqlite3.connect(":memory:")
        database.deserialize(member.read())
    tables = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    database.close()
    assert {name for (name,) in tables} == {"entries", "metadata"}
    assert Flist.decode(data).backend == Backend("hub.example.org", 9901, "space")


def test_equal_directories_give_equal_bytes(source: Path) -> None:
    assert pack_directory(source).archive() == pack_directory(source).archive()


@pytest.mark.parametrize(
    "data",
    [b"", b"<html>404</html>", gzip.compress(b"no tar"), os.urandom(100)],
    ids=["empty", "html", "gzip of text", "noise"],
)
def test_what_is_no_flist_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        Flist.decode(data)


def test_an_archive_cut_anywhere_is_refused(source: Path) -> None:
    data = pack_directory(source).archive()
    for length in range(0, len(data) - 1, max(1, len(data) // 50)):
        with pytest.raises(FormatError):
            Flist.decode(data[:length])


# -- chunks ----------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=3000), min_size=1, max_size=70))
def test_chunks_open_to_what_was_sealed(plains: list[bytes]) -> None:
    assert open_chunks(seal(plains)) == plains


def test_a_changed_chunk_is_refused() -> None:
    chunk = seal([b"content" * 1000])[0]
    damaged = bytes([chunk.payload[0] ^ 1]) + chunk.payload[1:]
    with pytest.raises(ChunkError, match=chunk.id.hex()):
        open_chunks([Chunk(chunk.id, chunk.cipher, damaged)])
    with pytest.raises(ChunkError):
        open_chunks([Chunk(chunk.id, bytes(16), chunk.payload)])


def test_xxtea_is_the_librarys() -> None:
    # The example of the library's own description (github.com/xxtea/xxtea-c).
    key = b"1234567890" + bytes(6)
    plain = "Hello World! \u4f60\u597d\uff0c\u4e2d\u56fd\uff01".encode()
    encrypted = base64.b64decode("QncB1C0rHQoZ1eRiPM4dsZtRi9pNrp7sqvX76cFXvrrIHXL6")
    assert xxtea.encrypt_many([(plain, key)]) == [encrypted]
    assert xxtea.decrypt_many([(encrypted, key)]) == [plain]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 2000), st.binary(min_size=16, max_size=16)), min_size=1),
)
def test_xxtea_lanes_agree_with_one_at_a_time(shapes: list[tuple[int, bytes]]) -> None:
    messages = [(os.urandom(length), key) for length, key in shapes]
    together = xxtea.encrypt_many(messages)
    assert together == [_xxtea_by_the_book(data, key) for data, key in messages]
    sealed = [(data, key) for data, (_, key) in zip(together, messages, strict=True)]
    assert xxtea.decrypt_many(sealed) == [data for data, _ in messages]


def _xxtea_by_the_book(data: bytes, key: bytes) -> bytes:
    """Follow the algorithm as its authors give it (Wheeler and Needham, 1998), a word at a time."""
    padded = data + bytes(-len(data) % 4) + len(data).to_bytes(4, "little")
    v = [int.from_bytes(padded[at : at + 4], "little") for at in range(0, len(padded), 4)]
    k = [int.from_bytes(key[at : at + 4], "little") for at in range(0, 16, 4)]
    total, z = 0, v[-1]
    for _ in range(6 + 52 // len(v)):
        total = total + 0x9E3779B9 & 0xFFFFFFFF
        for p in range(len(v)):
            y = v[(p + 1) % len(v)]
            mixed = (z >> 5 ^ y << 2) + (y >> 3 ^ z << 4)
            mixed ^= (total ^ y) + (k[p & 3 ^ total >> 2 & 3] ^ z)
            z = v[p] = v[p] + mixed & 0xFFFFFFFF
    return b"".join(word.to_bytes(4, "little") for word in v)


@pytest.mark.parametrize("data", [b"", b"1234", b"123456789", bytes(12)])
def test_xxtea_refuses_what_it_did_not_write(data: bytes) -> None:
    with pytest.raises(xxtea.CipherError):
        xxtea.decrypt_many([(data, bytes(range(16)))])


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.binary(max_size=3000), st.text("ab", max_size=3000).map(str.encode)))
def test_own_snappy_and_cramjam_read_each_other(data: bytes) -> None:
    assert snappy.own_decompress(snappy.compress(data)) == data
    assert snappy.decompress(snappy.own_compress(data)) == data


def test_own_snappy_reads_long_literals_and_far_copies() -> None:
    block = os.urandom(70_000)
    data = block + block
    assert snappy.own_decompress(snappy.own_compress(data)) == data
    assert snappy.own_decompress(snappy.compress(data)) == data


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_own_snappy_refuses_nonsense_or_reads_it_whole(data: bytes) -> None:
    try:
        snappy.own_decompress(data)
    except snappy.SnappyError:
        return
