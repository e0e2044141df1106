"""Chunk keys from the capnp messages of a flist (0-flist: format/flist.capnp, flist_serial.c).

A decoder of the chunk keys alone, for bytes that nobody vouches for: every offset is checked, the
depth is fixed by the schema, and no more elements are visited than the message has room for, so
that a small message cannot cost much time or memory.

Layout (words of 8 bytes; pointers after data): Dir 2 data, 5 pointers, contents is pointer 2.
Inode 3 data, 3 pointers, union tag in the low 16 bits of data word 1 (file: 1), its value
pointer 1. File 1 data, 1 pointer, blocks. FileBlock 0 data, 2 pointers, hash (the 0-db key) first.
"""

import struct
import sys
from array import array
from typing import Final, NamedTuple

from sync.agent.flist.errors import FlistError, NoMessageError

# zflist's buffer has 4 MiB and its segments at least 4 KiB (flist_serial.c; c-capnproto:
# lib/capn-malloc.c). rfs, on the nodes, reads up to 511 (Rust crate capnp, serialize:
# SEGMENTS_COUNT_LIMIT): there a larger directory is an I/O error, and the others are well.
MAX_SEGMENTS: Final = 2048
# 0-db has no longer ones (libzdb/index.h, MAX_KEY_LENGTH).
MAX_KEY_BYTES: Final = 255
_WORD: Final = 8
# Kinds of pointers, and of the elements of lists (capnproto.org/encoding.html).
_STRUCT, _LIST, _FAR = 0, 1, 2
_BYTES, _COMPOSITE = 2, 7
_DIR_POINTERS: Final = 5
_DIR_CONTENTS: Final = 2
# Data word 0 is the size; the union's tag is the next that fits (format/flist.capnp, Inode).
_INODE_UNION_WORD: Final = 1
_INODE_ATTRIBUTES: Final = 1
_INODE_FILE: Final = 1


class _Segment(NamedTuple):
    """Words as pairs of 32-bit halves: word i is halves[2 * i] (low) and halves[2 * i + 1].

    signed: the same halves as signed numbers, so that the offset of a pointer, which is the signed
    upper 30 bits of its low half, is one shift. end: the number of words.
    """

    data: bytes
    signed: "array[int]"
    halves: "array[int]"
    end: int


class _Structs(NamedTuple):
    """Structs side by side: first word, how many, data words and pointers of each."""

    segment: _Segment
    start: int
    number: int
    data_words: int
    pointers: int


def chunk_keys(message: bytes) -> list[bytes]:
    """Return the chunk keys that one entry of a flist names; none if it is no directory.

    Raises FlistError for bytes that are not a capnp message of this schema, NoMessageError where
    they are none at all.
    """
    segments = _segments(message)
    if not segments[0].end:
        raise NoMessageError("capnp: empty")
    root = _struct(segments, segments[0], 0)
    # An ACI, the other kind of object among the entries (flist_acl.c), has 3 pointers.
    if root is None or root.pointers < _DIR_POINTERS:
        return []
    inodes = _structs(segments, root.segment, root.start + root.data_words + _DIR_CONTENTS)
    if inodes is None:
        return []
    if inodes.data_words <= _INODE_UNION_WORD or inodes.pointers <= _INODE_ATTRIBUTES:
        raise FlistError("capnp: not a list of inodes")
    return _file_keys(segments, inodes, len(message) // _WORD - inodes.number)


def _segments(message: bytes) -> list[_Segment]:
    """Split the stream framing: count - 1, sizes in words, padding, segments."""
    if len(message) < _WORD:
        raise NoMessageError("capnp: shorter than its header")
    # Whatever the machine, all of capnp is little-endian.
    count = int.from_bytes(message[:4], "little") + 1
    if count > MAX_SEGMENTS or len(message) < 4 + 4 * count:
        raise NoMessageError(f"capnp: {count} segments")
    sizes = struct.unpack_from(f"<{count}I", message, 4)
    at = (4 + 4 * count + _WORD - 1) // _WORD * _WORD
    segments = []
    for words in sizes:
        end = at + words * _WORD
        if end > len(message):
            raise NoMessageError("capnp: truncated segment")
        data = message[at:end]
        signed, halves = array("i", data), array("I", data)
        if sys.byteorder != "little":
            signed.byteswap()
            halves.byteswap()
        segments.append(_Segment(data, signed, halves, words))
        at = end
    return segments


# A large hub names tens of millions of chunks, so the rest is written flat: a pointer within
# its segment is followed where it stands, any other one by _landing. libflist's segments are of
# 4 KiB (c-capnproto: lib/capn-malloc.c), so every larger directory has both.


def _file_keys(segments: list[_Segment], inodes: _Structs, budget: int) -> list[bytes]:
    """Return the keys of all blocks of all files; budget: how many blocks may be visited."""
    keys: list[bytes] = []
    segment, first, number, data_words, pointers = inodes
    halves, stride = segment.halves, data_words + pointers
    for inode in range(first, first + number * stride, stride):
        if halves[2 * (inode + _INODE_UNION_WORD)] & 0xFFFF != _INODE_FILE:
            continue
        file = _struct(segments, segment, inode + data_words + _INODE_ATTRIBUTES)
        if file is None or not file.pointers:
            continue
        blocks = _structs(segments, file.segment, file.start + file.data_words)
        # zflist writes a null pointer for an empty file (flist_serial.c).
        if blocks is None or not blocks.number:
            continue
        if not blocks.pointers:
            raise FlistError("capnp: blocks without keys")
        # Many files may point to one list, and n files times m blocks would be read.
        budget -= blocks.number
        if budget < 0:
            raise FlistError("capnp: directory lists more entries than the message has room for")
        step = blocks.data_words + blocks.pointers
        at = blocks.start + blocks.data_words
        end = at + blocks.number * step
        keys += [_key(segments, blocks.segment, pointer) for pointer in range(at, end, step)]
    return keys


def _struct(segments: list[_Segment], segment: _Segment, at: int) -> _Structs | None:
    """Follow the pointer at word `at` to a struct; None for a null pointer."""
    word, size = segment.signed[2 * at], segment.halves[2 * at + 1]
    if not word and not size:
        return None
    start = at + 1 + (word >> 2)
    if word & 3 != _STRUCT:
        segment, start, size = _landing(segments, segment, at, _STRUCT)
    data_words, pointers = size & 0xFFFF, size >> 16
    if start < 0 or start + data_words + pointers > segment.end:
        raise FlistError("capnp: content out of the message")
    return _Structs(segment, start, 1, data_words, pointers)


def _structs(segments: list[_Segment], segment: _Segment, at: int) -> _Structs | None:
    """Follow the pointer at word `at` to a list of structs; None for a null pointer."""
    word, size = segment.signed[2 * at], segment.halves[2 * at + 1]
    if not word and not size:
        return None
    tag = at + 1 + (word >> 2)
    if word & 3 != _LIST:
        segment, tag, size = _landing(segments, segment, at, _LIST)
    space = size >> 3
    if size & 7 != _COMPOSITE or tag < 0 or tag + 1 + space > segment.end:
        raise FlistError("capnp: not a list of structs, or out of the message")
    # A composite list starts with a word in the form of a struct pointer: its offset is the count.
    number, size = segment.halves[2 * tag] >> 2, segment.halves[2 * tag + 1]
    data_words, pointers = size & 0xFFFF, size >> 16
    if segment.signed[2 * tag] & 3 != _STRUCT or number * (data_words + pointers) > space:
        raise FlistError("capnp: list is longer than its space")
    return _Structs(segment, tag + 1, number, data_words, pointers)


def _key(segments: list[_Segment], segment: _Segment, at: int) -> bytes:
    word, size = segment.signed[2 * at], segment.halves[2 * at + 1]
    start = at + 1 + (word >> 2)
    if word & 3 != _LIST:
        segment, start, size = _landing(segments, segment, at, _LIST)
    length = size >> 3
    if size & 7 != _BYTES:
        raise FlistError("capnp: a block without a key")
    if start < 0 or start * 8 + length > segment.end * 8 or not 0 < length <= MAX_KEY_BYTES:
        raise FlistError(f"capnp: a key of {length} bytes, or out of the message")
    return segment.data[start * 8 : start * 8 + length]


def _landing(
    segments: list[_Segment], segment: _Segment, at: int, kind: int
) -> tuple[_Segment, int, int]:
    """Follow a far pointer; its target must be of the kind that the schema has there.

    Returns segment and first word there, and the high half of the pointer that describes it.
    """
    word, number = segment.halves[2 * at], segment.halves[2 * at + 1]
    pad_segment, pad = _far(segments, word, number)
    landing, size = _halves(pad_segment, pad)
    # Bit 2 makes it a double one, whose landing pad is two words: a far pointer to the content and
    # a pointer that gives kind and size only. Else the pad is the pointer (encoding.html, far).
    if not word & 4:
        content, start = pad_segment, pad + 1 + (pad_segment.signed[2 * pad] >> 2)
    else:
        if landing & 4:
            raise FlistError("capnp: bad double far pointer")
        content, start = _far(segments, landing, size)
        landing, size = _halves(pad_segment, pad + 1)
    if landing & 3 != kind:
        raise FlistError("capnp: pointer of another kind than the schema has there")
    return content, start, size


def _far(segments: list[_Segment], word: int, number: int) -> tuple[_Segment, int]:
    if word & 3 != _FAR:
        raise FlistError("capnp: pointer of another kind than the schema has there")
    if number >= len(segments):
        raise FlistError("capnp: far pointer to no segment")
    return segments[number], word >> 3


def _halves(segment: _Segment, at: int) -> tuple[int, int]:
    if at >= segment.end:
        raise FlistError("capnp: pointer out of the message")
    return segment.halves[2 * at], segment.halves[2 * at + 1]
