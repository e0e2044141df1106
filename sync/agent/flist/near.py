"""The quick path through a directory: one segment, no far pointers, as libflist writes them.

A large hub names tens of millions of chunks, so this is written flat. It makes the same checks as
the general decoder beside it (tests hold the two to each other): words are read as pairs of 32-bit
numbers, of which the low one is signed, so that an offset is one shift.
"""

from array import array
from typing import Final, NamedTuple

from sync.agent.flist.errors import FlistError

_MAX_KEY_BYTES: Final = 255
_FILE: Final = 1
_STRUCT, _LIST, _FAR = 0, 1, 2
_BYTES, _COMPOSITE = 2, 7


class Inodes(NamedTuple):
    """A list of inodes: first word, how many, data words and pointers of each."""

    start: int
    number: int
    data_words: int
    pointers: int


class _Words(NamedTuple):
    """A segment: low and high half of each word are low[2 * i] and high[2 * i + 1]."""

    data: bytes
    low: "array[int]"
    high: "array[int]"
    end: int


class _Blocks(NamedTuple):
    """The hash pointers of a file's blocks: first word, how many, words from one to the next."""

    first: int
    number: int
    step: int


class _FarPointerError(Exception):
    """The message needs the general decoder."""


def near_keys(data: bytes, inodes: Inodes, budget: int) -> list[bytes] | None:
    """Return the keys of all blocks of all files; None where a far pointer needs the other path.

    data: the segment. budget: how many blocks may be visited. Raises FlistError.
    """
    words = _Words(data, array("i", data), array("I", data), len(data) // 8)
    try:
        return _keys(words, inodes, budget)
    except _FarPointerError:
        return None


def _keys(words: _Words, inodes: Inodes, budget: int) -> list[bytes]:
    keys: list[bytes] = []
    high = words.high
    stride = inodes.data_words + inodes.pointers
    to_pointer = inodes.data_words + 1
    for start in range(inodes.start, inodes.start + inodes.number * stride, stride):
        if high[2 * start + 2] & 0xFFFF != _FILE:
            continue
        blocks = _blocks(words, start + to_pointer)
        if blocks is None:
            continue
        first, number, step = blocks
        budget -= number
        if budget < 0:
            raise FlistError("capnp: names its content more often than it has any")
        keys += [_key(words, at) for at in range(first, first + number * step, step)]
    return keys


def _blocks(words: _Words, at: int) -> _Blocks | None:
    """Follow an inode's pointer to its file, and the file's to its blocks."""
    _, low, high, end = words
    word, size = low[2 * at], high[2 * at + 1]
    if not word and not size:
        return None
    file, data_words, pointers = at + 1 + (word >> 2), size & 0xFFFF, size >> 16
    if word & 3 != _STRUCT or file < 0 or file + data_words + pointers > end:
        raise _wrong(word, "bad file")
    if not pointers:
        return None
    at = file + data_words
    word, size = low[2 * at], high[2 * at + 1]
    if not word and not size:
        return None
    tag = at + 1 + (word >> 2)
    if word & 3 != _LIST or size & 7 != _COMPOSITE or tag < 0 or tag + 1 + (size >> 3) > end:
        raise _wrong(word, "bad list of blocks")
    return _tagged(words, tag, size >> 3)


def _tagged(words: _Words, tag: int, space: int) -> _Blocks | None:
    number, size = words.high[2 * tag] >> 2, words.high[2 * tag + 1]
    data_words, pointers = size & 0xFFFF, size >> 16
    step = data_words + pointers
    if words.low[2 * tag] & 3 != _STRUCT or number * step > space:
        raise FlistError("capnp: list is longer than its space")
    if not number:
        return None
    if not pointers:
        raise FlistError("capnp: blocks without keys")
    return _Blocks(tag + 1 + data_words, number, step)


def _key(words: _Words, at: int) -> bytes:
    word, size = words.low[2 * at], words.high[2 * at + 1]
    key = at + 1 + (word >> 2)
    length = size >> 3
    if word & 3 != _LIST or size & 7 != _BYTES:
        raise _wrong(word, "a block without a key")
    if key < 0 or key * 8 + length > words.end * 8 or not 0 < length <= _MAX_KEY_BYTES:
        raise FlistError(f"capnp: a key of {length} bytes, or outside")
    return words.data[key * 8 : key * 8 + length]


def _wrong(word: int, what: str) -> Exception:
    """Return what to raise: a far pointer is not wrong, only not for this path."""
    return _FarPointerError() if word & 3 == _FAR else FlistError(f"capnp: {what}")
