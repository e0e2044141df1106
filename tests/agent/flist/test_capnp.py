"""Directories of a flist: every chunk key as pycapnp finds it, and no message that does harm."""

import importlib
import random
import struct
from typing import Any
from unittest import mock

import pytest

from sync.agent.flist import capnp as decoder
from sync.agent.flist.errors import FlistError
from tests.agent.flist.directories import build_directory


def test_keys_agree_with_pycapnp_for_random_directories(schema: Any) -> None:
    chance = random.Random(2)
    for _ in range(200):
        message, keys = build_directory(schema, chance)
        assert decoder.chunk_keys(message) == keys


def is_file(inode: Any) -> bool:
    try:
        return bool(inode.attributes.which() == "file")
    except importlib.import_module("capnp").KjException:  # a tag that the schema does not have
        return False


def keys_by_pycapnp(schema: Any, message: bytes) -> list[bytes]:
    with schema.Dir.from_bytes(message) as directory:
        files = [inode.attributes.file for inode in directory.contents if is_file(inode)]
        return [block.hash for file in files for block in file.blocks]


SEGMENTS: dict[str, dict[str, Any]] = {
    "one segment": {},
    # An object each: so far pointers join them, also double ones.
    "many segments": {
        "num_first_segment_words": 1,
        "allocate_seg_callable": lambda words: bytearray(8 * words),
    },
}


@pytest.mark.parametrize("segments", SEGMENTS)
def test_damaged_messages_are_refused_or_read_as_pycapnp_reads_them(
    segments: str, schema: Any
) -> None:
    chance = random.Random(8)
    read = refused = 0
    for _ in range(60):
        message, keys = build_directory(schema, chance, **SEGMENTS[segments])
        assert (struct.unpack_from("<I", message)[0] > 0) == (segments == "many segments")
        assert decoder.chunk_keys(message) == keys
        for _ in range(40):
            damaged = bytearray(message)
            damaged[chance.randrange(8, len(damaged))] = chance.randrange(256)
            try:
                found = decoder.chunk_keys(bytes(damaged))
            except FlistError:
                refused += 1
            else:
                read += 1
                assert found == keys_by_pycapnp(schema, bytes(damaged))
    assert min(read, refused) > 100


def test_keys_are_found_across_segments(schema: Any) -> None:
    """A message too large for one segment uses far pointers, single and double."""
    chance = random.Random(3)
    directory = schema.Dir.new_message()
    keys = []
    for inode in directory.init("contents", 3000):
        block = inode.attributes.init("file").init("blocks", 1)[0]
        block.hash = chance.randbytes(16)
        keys.append(block.hash)
    message = directory.to_bytes()
    assert struct.unpack_from("<I", message)[0] + 1 > 1
    assert decoder.chunk_keys(message) == keys


def test_access_objects_name_no_chunks(schema: Any) -> None:
    aci = schema.ACI.new_message(uname="root", gname="root", mode=0o755)
    assert decoder.chunk_keys(aci.to_bytes()) == []


def test_no_damage_to_a_message_does_more_than_raise_flist_error(schema: Any) -> None:
    """Every decoded or refused: no other exception, no hang, whatever bits are flipped."""
    chance = random.Random(4)
    message, _ = build_directory(schema, random.Random(5))
    outcomes = {"read": 0, "refused": 0}
    for _ in range(4000):
        damaged = bytearray(message)
        for _ in range(chance.randint(1, 8)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        end = len(damaged) if chance.random() < 0.8 else chance.randrange(len(damaged))
        try:
            decoder.chunk_keys(bytes(damaged[:end]))
            outcomes["read"] += 1
        except FlistError:
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 100


def word_message(*words: int) -> bytes:
    return struct.pack("<II", 0, len(words)) + struct.pack(f"<{len(words)}Q", *words)


def struct_pointer(offset: int, data: int, pointers: int) -> int:
    return (offset << 2 & 0xFFFF_FFFF) | data << 32 | pointers << 48


def list_pointer(offset: int, kind: int, count: int) -> int:
    return (offset << 2 & 0xFFFF_FFFF) | 1 | kind << 32 | count << 35


def test_one_block_list_named_by_many_files_is_not_read_many_times(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Amplification: n inodes that share m blocks would cost n * m."""
    inodes, blocks = 2000, 2000
    dir_words = [0, 0, 0, 0, list_pointer(2, 7, inodes * 6), 0, 0]
    inode_at = 1 + len(dir_words) + 1
    block_at = inode_at + inodes * 6 + 2
    words = [struct_pointer(0, 2, 5), *dir_words, struct_pointer(inodes, 3, 3)]
    for number in range(inodes):
        at = inode_at + number * 6 + 4
        words += [0, 1, 0, 0, struct_pointer(block_at - 2 - at - 1, 1, 1), 0]
    words += [0, list_pointer(0, 7, blocks * 2), struct_pointer(blocks, 0, 2)]
    for number in range(blocks):
        words += [list_pointer(2 * (blocks - number) - 1, 2, 16), 0]
    words += [7, 7]
    message = word_message(*words)
    read = mock.Mock(side_effect=[b"key"] * (len(message) // 8))
    monkeypatch.setattr(decoder, "_key", read)
    with pytest.raises(FlistError, match="more entries"):
        decoder.chunk_keys(message)
    assert read.call_count > 0


@pytest.mark.parametrize(
    "message",
    [
        b"",
        bytes(8),
        struct.pack("<II", 0xFFFF_FFFF, 1),
        struct.pack("<II", 5000, 1) + bytes(100),
        struct.pack("<II", 0, 1 << 30),
        word_message(struct_pointer(-2, 2, 5)),
        word_message(struct_pointer(1 << 20, 2, 5)),
        word_message(list_pointer(0, 7, 1), 0),
        word_message(2 | 0 << 3 | 9 << 32),
        word_message(6 | 0 << 3),
        # The pad of a double far pointer begins with another double one.
        word_message(6 | 1 << 3, 6 | 3 << 3, struct_pointer(0, 2, 5), *[0] * 7),
        word_message(2 | 0 << 3),
        word_message(struct_pointer(0, 2, 5), 0, 0, 0, 0, list_pointer(1, 7, 1 << 28), 0, 0),
        word_message(struct_pointer(0, 2, 5), 0, 0, 0, 0, list_pointer(2, 7, 0), 0, 0, 1 << 30),
    ],
)
def test_malformed_messages_are_refused(message: bytes) -> None:
    with pytest.raises(FlistError):
        decoder.chunk_keys(message)
