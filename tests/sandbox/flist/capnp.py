"""Just enough of the Cap'n Proto encoding to write and read flist objects.

Source: the encoding's specification (capnproto.org/encoding.html): words of 8 bytes, structs of
data words and pointers, lists, text with a final NUL. Writes one segment; reads any number.
"""

import struct
from dataclasses import dataclass
from typing import Final

_WORD: Final = 8
_FAR, _LIST = 2, 1
_BYTES, _COMPOSITE = 2, 7
_DEPTH_LIMIT: Final = 16


class EncodingError(ValueError):
    """Bytes that are no Cap'n Proto message of the shape we read."""


@dataclass(frozen=True)
class Shape:
    """Size of a struct: words of data, number of pointers."""

    data: int
    pointers: int

    @property
    def words(self) -> int:
        """Whole size in words."""
        return self.data + self.pointers


class Builder:
    """A message of one segment, whose root is the first struct made."""

    def __init__(self, root: Shape) -> None:
        self._segment = bytearray(_WORD)
        self.root = self.struct(root)
        self._point(0, self.root, root)

    def struct(self, shape: Shape) -> "StructBuilder":
        """Allocate a struct that nothing points at yet."""
        return StructBuilder(self, self._allocate(shape.words), shape)

    def _allocate(self, words: int) -> int:
        at = len(self._segment) // _WORD
        self._segment += bytes(words * _WORD)
        return at

    def _point(self, at: int, target: "StructBuilder", shape: Shape) -> None:
        offset = target.at - at - 1
        low = (offset << 2) & 0xFFFFFFFF
        self.put(at * _WORD, "<IHH", low, shape.data, shape.pointers)

    def put(self, at: int, layout: str, *values: int) -> None:
        """Pack values at a byte offset of the segment."""
        struct.pack_into(layout, self._segment, at, *values)

    def put_bytes(self, at: int, data: bytes) -> None:
        """Allocate a byte list and point at it from word `at`."""
        start = self._allocate(-(-len(data) // _WORD))
        self._segment[start * _WORD : start * _WORD + len(data)] = data
        low = (start - at - 1) << 2 & 0xFFFFFFFF | _LIST
        self.put(at * _WORD, "<II", low, len(data) << 3 | _BYTES)

    def put_list(self, at: int, count: int, shape: Shape) -> list["StructBuilder"]:
        """Allocate a list of structs and point at it from word `at`."""
        words = count * shape.words
        tag = self._allocate(1 + words)
        self.put(tag * _WORD, "<IHH", count << 2, shape.data, shape.pointers)
        low = (tag - at - 1) << 2 & 0xFFFFFFFF | _LIST
        self.put(at * _WORD, "<II", low, words << 3 | _COMPOSITE)
        return [StructBuilder(self, tag + 1 + n * shape.words, shape) for n in range(count)]

    def point(self, at: int, target: "StructBuilder") -> None:
        """Point from word `at` at a struct."""
        self._point(at, target, target.shape)

    def message(self) -> bytes:
        """Return the message with its segment table."""
        return struct.pack("<II", 0, len(self._segment) // _WORD) + bytes(self._segment)


@dataclass(frozen=True)
class StructBuilder:
    """A struct being written, at a word of its message's segment."""

    builder: Builder
    at: int
    shape: Shape

    def number(self, layout: str, offset: int, value: int) -> None:
        """Write a number (struct layout character) at a byte offset of the data."""
        self.builder.put(self.at * _WORD + offset, "<" + layout, value)

    def text(self, pointer: int, value: str) -> None:
        """Write a text."""
        self.data(pointer, value.encode("utf-8", "surrogateescape") + b"\0")

    def data(self, pointer: int, value: bytes) -> None:
        """Write bytes."""
        self.builder.put_bytes(self._word(pointer), value)

    def items(self, pointer: int, count: int, shape: Shape) -> list["StructBuilder"]:
        """Write a list of structs; returns them to be filled."""
        return self.builder.put_list(self._word(pointer), count, shape)

    def child(self, pointer: int, shape: Shape) -> "StructBuilder":
        """Write a struct; returns it to be filled."""
        made = self.builder.struct(shape)
        self.builder.point(self._word(pointer), made)
        return made

    def _word(self, pointer: int) -> int:
        return self.at + self.shape.data + pointer


class Message:
    """A message to read: its segments."""

    def __init__(self, data: bytes) -> None:
        try:
            count = struct.unpack_from("<I", data)[0] + 1
            sizes = struct.unpack_from(f"<{count}I", data, 4)
        except struct.error as error:
            raise EncodingError("no segment table") from error
        at = (4 + 4 * count + 7) // _WORD * _WORD
        self.segments = []
        for size in sizes:
            self.segments.append(data[at : at + size * _WORD])
            at += size * _WORD
        if at > len(data):
            raise EncodingError("the message ends before its segments do")

    def root(self) -> "StructReader":
        """Return the root struct."""
        return self.struct_at(0, 0)

    def word(self, segment: int, at: int) -> int:
        """Return a word of a segment."""
        try:
            return int(struct.unpack_from("<Q", self.segments[segment], at * _WORD)[0])
        except (struct.error, IndexError) as error:
            raise EncodingError("a pointer leaves its segment") from error

    def resolve(self, segment: int, at: int) -> tuple[int, int, int]:
        """Follow far pointers: segment, word where the content starts, the pointer itself."""
        pointer = self.word(segment, at)
        if pointer & 3 != _FAR:
            return segment, at + 1 + _signed30(pointer), pointer
        target, pad = pointer >> 32, (pointer & 0xFFFFFFFF) >> 3
        if not pointer & 4:
            inner = self.word(target, pad)
            return target, pad + 1 + _signed30(inner), inner
        far = self.word(target, pad)
        return far >> 32, (far & 0xFFFFFFFF) >> 3, self.word(target, pad + 1)

    def struct_at(self, segment: int, at: int) -> "StructReader":
        """Return the struct that the pointer at a word names; null is an empty one."""
        where, start, pointer = self.resolve(segment, at)
        if pointer == 0:
            return StructReader(self, 0, 0, Shape(0, 0))
        if pointer & 3:
            raise EncodingError("a struct was expected")
        shape = Shape(pointer >> 32 & 0xFFFF, pointer >> 48)
        self.word(where, start + max(shape.words, 1) - 1)
        return StructReader(self, where, start, shape)

    def bytes_at(self, segment: int, at: int) -> bytes:
        """Return the byte list that the pointer at a word names; null is empty."""
        where, start, pointer = self.resolve(segment, at)
        if pointer == 0:
            return b""
        if pointer & 3 != _LIST or pointer >> 32 & 7 != _BYTES:
            raise EncodingError("bytes were expected")
        length = pointer >> 35
        found = self.segments[where][start * _WORD : start * _WORD + length]
        if start < 0 or len(found) != length:
            raise EncodingError("a list leaves its segment")
        return found

    def list_at(self, segment: int, at: int) -> list["StructReader"]:
        """Return the structs of the list that the pointer at a word names."""
        where, start, pointer = self.resolve(segment, at)
        if pointer == 0:
            return []
        if pointer & 3 != _LIST or pointer >> 32 & 7 != _COMPOSITE:
            raise EncodingError("a list of structs was expected")
        tag = self.word(where, start)
        shape = Shape(tag >> 32 & 0xFFFF, tag >> 48)
        count = (tag & 0xFFFFFFFF) >> 2
        if count * shape.words > pointer >> 35 or count > len(self.segments[where]):
            raise EncodingError("a list is larger than its words")
        return [StructReader(self, where, start + 1 + n * shape.words, shape) for n in range(count)]


@dataclass(frozen=True)
class StructReader:
    """A struct of a message; what lies outside its size reads as zero or empty."""

    message: Message
    segment: int
    at: int
    shape: Shape

    def number(self, layout: str, offset: int) -> int:
        """Read a number (struct layout character) at a byte offset of the data."""
        if offset + struct.calcsize(layout) > self.shape.data * _WORD:
            return 0
        segment = self.message.segments[self.segment]
        try:
            return int(struct.unpack_from("<" + layout, segment, self.at * _WORD + offset)[0])
        except struct.error as error:
            raise EncodingError("a struct leaves its segment") from error

    def text(self, pointer: int) -> str:
        """Read a text."""
        return self.data(pointer)[:-1].decode("utf-8", "surrogateescape")

    def data(self, pointer: int) -> bytes:
        """Read bytes."""
        if pointer >= self.shape.pointers:
            return b""
        return self.message.bytes_at(self.segment, self._word(pointer))

    def items(self, pointer: int) -> list["StructReader"]:
        """Read a list of structs."""
        if pointer >= self.shape.pointers:
            return []
        return self.message.list_at(self.segment, self._word(pointer))

    def child(self, pointer: int) -> "StructReader":
        """Read a struct."""
        if pointer >= self.shape.pointers:
            return StructReader(self.message, 0, 0, Shape(0, 0))
        return self.message.struct_at(self.segment, self._word(pointer))

    def _word(self, pointer: int) -> int:
        return self.at + self.shape.data + pointer


def _signed30(pointer: int) -> int:
    offset = (pointer & 0xFFFFFFFF) >> 2
    return offset - (1 << 30) if offset >> 29 else offset
