"""Chunk keys from the capnp messages of a flist (0-flist: format/flist.capnp, flist_serial.c).

A decoder of just what is needed, for bytes that nobody vouches for: every offset is checked, the
depth is fixed by the schema, and what is visited can not exceed what the message has room for, so
that a small message can not cost much time or memory.

Layout (words of 8 bytes; pointers after data): Dir 2 data, 5 pointers, contents is pointer 2.
Inode 3 data, 3 pointers, union tag in the low 16 bits of data word 1 (file: 1), its value
pointer 1. File 1 data, 1 pointer, blocks. FileBlock 0 data, 2 pointers, hash (the 0-db key) first.
"""

import array
import struct
import sys
from typing import Final, NamedTuple

from sync.agent.flist.errors import FlistError
from sync.agent.flist.near import Inodes, near_keys

MAX_SEGMENTS: Final = 512
MAX_KEY_BYTES: Final = 255
_WORD: Final = 8
_STRUCT, _LIST, _FAR = 0, 1, 2
_BYTES, _COMPOSITE = 2, 7
_OFFSET_MASK: Final = 0x3FFF_FFFF
_OFFSET_SIGN: Final = 0x2000_0000
_DIR_POINTERS: Final = 5
_DIR_CONTENTS: Final = 2
_INODE_UNION_WORD: Final = 1
_INODE_ATTRIBUTES: Final = 1
_INODE_FILE: Final = 1


class _Segment(NamedTuple):
    data: bytes
    words: "array.array[int]"


class _Place(NamedTuple):
    """A pointer that was followed: its word, and where its content starts."""

    segment: _Segment
    word: int
    start: int


class _Struct(NamedTuple):
    segment: _Segment
    start: int
    data_words: int
    pointers: int


class _StructList(NamedTuple):
    segment: _Segment
    start: int
    number: int
    data_words: int
    pointers: int


def _segment(data: bytes) -> _Segment:
    words = array.array("Q", data)
    if sys.byteorder != "little":
        words.byteswap()
    return _Segment(data, words)


def _segments(message: bytes) -> list[_Segment]:
    """Split the stream framing: count - 1, sizes in words, padding, segments."""
    if len(message) < _WORD:
        raise FlistError("capnp: shorter than its header")
    count = int.from_bytes(message[:4], "little") + 1
    if count > MAX_SEGMENTS or len(message) < 4 + 4 * count:
        raise FlistError(f"capnp: {count} segments")
    sizes = struct.unpack_from(f"<{count}I", message, 4)
    at = (4 + 4 * count + _WORD - 1) // _WORD * _WORD
    segments = []
    for words in sizes:
        end = at + words * _WORD
        if end > len(message):
            raise FlistError("capnp: truncated segment")
        segments.append(_segment(message[at:end]))
        at = end
    return segments


class _Message:
    """A message and how many list elements may still be visited in it."""

    def __init__(self, data: bytes) -> None:
        self._segments = _segments(data)
        self.budget = len(data) // _WORD

    @property
    def single(self) -> bool:
        """Tell whether the message is one segment."""
        return len(self._segments) == 1

    def root(self) -> _Struct | None:
        first = self._segments[0]
        if not first.words:
            raise FlistError("capnp: empty")
        return self.struct(first, 0)

    def follow(self, segment: _Segment, index: int) -> _Place | None:
        """Follow the pointer at a word, across segments; None for a null pointer."""
        word = self._word(segment, index)
        if not word:
            return None
        if word & 3 != _FAR:
            return _Place(segment, word, index + 1 + _signed_offset(word))
        pad_segment, pad = self._pad(word)
        landing = self._word(pad_segment, pad)
        if not word & 4:
            if landing & 3 == _FAR:
                raise FlistError("capnp: far pointer to a far pointer")
            return _Place(pad_segment, landing, pad + 1 + _signed_offset(landing))
        if landing & 7 != _FAR:
            raise FlistError("capnp: bad double far pointer")
        target, start = self._pad(landing)
        return _Place(target, self._word(pad_segment, pad + 1), start)

    def struct(self, segment: _Segment, index: int) -> _Struct | None:
        place = self.follow(segment, index)
        if place is None:
            return None
        if place.word & 3 != _STRUCT:
            raise FlistError("capnp: not a struct")
        data_words, pointers = place.word >> 32 & 0xFFFF, place.word >> 48
        _check(place.segment, place.start, data_words + pointers)
        return _Struct(place.segment, place.start, data_words, pointers)

    def struct_list(self, parent: _Struct, pointer: int) -> _StructList | None:
        if pointer >= parent.pointers:
            return None
        place = self.follow(parent.segment, parent.start + parent.data_words + pointer)
        if place is None:
            return None
        if place.word & 3 != _LIST or place.word >> 32 & 7 != _COMPOSITE:
            raise FlistError("capnp: not a list of structs")
        words = place.word >> 35
        _check(place.segment, place.start, words + 1)
        tag = place.segment.words[place.start]
        count, data_words, pointers = (tag & 0xFFFF_FFFF) >> 2, tag >> 32 & 0xFFFF, tag >> 48
        if tag & 3 != _STRUCT or count * (data_words + pointers) > words:
            raise FlistError("capnp: list is longer than its space")
        self._spend(count)
        return _StructList(place.segment, place.start + 1, count, data_words, pointers)

    def key(self, segment: _Segment, index: int) -> bytes:
        place = self.follow(segment, index)
        if place is None or place.word & 3 != _LIST or place.word >> 32 & 7 != _BYTES:
            raise FlistError("capnp: a block without a key")
        length = place.word >> 35
        _check(place.segment, place.start, (length + _WORD - 1) // _WORD)
        if not 0 < length <= MAX_KEY_BYTES:
            raise FlistError(f"capnp: a key of {length} bytes")
        at = place.start * _WORD
        return place.segment.data[at : at + length]

    def _spend(self, elements: int) -> None:
        self.budget -= elements
        if self.budget < 0:
            raise FlistError("capnp: names its content more often than it has any")

    def _word(self, segment: _Segment, index: int) -> int:
        if not 0 <= index < len(segment.words):
            raise FlistError("capnp: pointer out of the message")
        return segment.words[index]

    def _pad(self, word: int) -> tuple[_Segment, int]:
        number, index = word >> 32, word >> 3 & 0x1FFF_FFFF
        if number >= len(self._segments):
            raise FlistError("capnp: far pointer to no segment")
        return self._segments[number], index


def _signed_offset(word: int) -> int:
    offset = word >> 2 & _OFFSET_MASK
    return offset - (_OFFSET_MASK + 1) if offset & _OFFSET_SIGN else offset


def _check(segment: _Segment, start: int, words: int) -> None:
    if start < 0 or start + words > len(segment.words):
        raise FlistError("capnp: content out of the message")


def chunk_keys(data: bytes) -> list[bytes]:
    """Return the chunk keys that one entry of a flist names; none for what is no directory.

    Raises FlistError for bytes that are not a capnp message of this schema.
    """
    message = _Message(data)
    root = message.root()
    if root is None or root.pointers < _DIR_POINTERS:
        return []  # an ACI: the other kind of object among the entries
    contents = message.struct_list(root, _DIR_CONTENTS)
    if contents is None:
        return []
    if contents.data_words <= _INODE_UNION_WORD or contents.pointers <= _INODE_ATTRIBUTES:
        raise FlistError("capnp: not a list of inodes")
    if message.single and sys.byteorder == "little":
        keys = near_keys(contents.segment.data, _inodes(contents), message.budget)
        if keys is not None:
            return keys
    return _far_keys(message, contents)


def _inodes(contents: _StructList) -> Inodes:
    return Inodes(contents.start, contents.number, contents.data_words, contents.pointers)


def _far_keys(message: _Message, contents: _StructList) -> list[bytes]:
    """Follow any legal pointer, across segments: what near_keys leaves, a few times slower."""
    keys: list[bytes] = []
    for index in _file_pointers(contents):
        file = message.struct(contents.segment, index)
        blocks = message.struct_list(file, 0) if file else None
        if blocks is not None:
            keys += _block_keys(message, blocks)
    return keys


def _file_pointers(contents: _StructList) -> list[int]:
    """Return the word indexes of the attribute pointers of those inodes that are files."""
    words, stride = contents.segment.words, contents.data_words + contents.pointers
    to_pointer = contents.data_words + _INODE_ATTRIBUTES
    end = contents.start + contents.number * stride
    return [
        start + to_pointer
        for start in range(contents.start, end, stride)
        if words[start + _INODE_UNION_WORD] & 0xFFFF == _INODE_FILE
    ]


def _block_keys(message: _Message, blocks: _StructList) -> list[bytes]:
    if blocks.number and not blocks.pointers:
        raise FlistError("capnp: blocks without keys")
    stride = blocks.data_words + blocks.pointers
    first = blocks.start + blocks.data_words
    return [message.key(blocks.segment, first + number * stride) for number in range(blocks.number)]
