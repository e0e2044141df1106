"""Just enough of the Cap'n Proto encoding to write and read flist objects.

Source: the encoding's specification (capnproto.org/encoding.html): words of 8 bytes, structs of
data words and pointers, lists, text with a final NUL, far pointers between segments.
"""

import struct
from dataclasses import dataclass
from typing import Final

_WORD: Final = 8
_FAR, _LIST, _DOUBLE = 2, 1, 4
_BYTES, _COMPOSITE = 2, 7
# Segments are whole pages, less what c-capnproto keeps of itself in front (capn-malloc.c).
_PAGE_BYTES: Final = 4096
_SEGMENT_HEADER_BYTES: Final = 88


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
    """A message, laid out word for word as c-capnproto does it for libflist.

    Source: c-capnproto, lib/capn.c (new_object, write_ptr), lib/capn-malloc.c. An object goes into
    the segment of what it belongs to, else into the first one that has room, with a tag before it.
    """

    def __init__(self) -> None:
        self._segments: list[bytearray] = []
        self._limits: list[int] = []
        self._with_room(_WORD)
        self._segments[0] += bytes(_WORD)  # the pointer to the root

    def struct(self, shape: Shape) -> "StructBuilder":
        """Allocate a struct that nothing points at yet."""
        pointer = shape.data << 32 | shape.pointers << 48
        return StructBuilder(self, self._allocate(0, pointer, shape.words * _WORD), shape)

    def structs(self, count: int, shape: Shape) -> tuple["Placed", list["StructBuilder"]]:
        """Allocate a list of structs that nothing points at yet, and its structs."""
        words = count * shape.words
        pointer = _LIST | _COMPOSITE << 32 | words << 35
        place = self._allocate(0, pointer, (1 + words) * _WORD)
        tag = count << 2 | shape.data << 32 | shape.pointers << 48
        self._put_word(place.segment, place.at, tag)
        first = place.at + 1
        places = [Placed(place.segment, first + n * shape.words) for n in range(count)]
        return place, [StructBuilder(self, one, shape) for one in places]

    def data(self, value: bytes, near: int = 0) -> "Placed":
        """Allocate bytes that nothing points at yet; near: the segment to prefer."""
        pointer = _LIST | _BYTES << 32 | len(value) << 35
        place = self._allocate(near, pointer, len(value))
        start = place.at * _WORD
        self._segments[place.segment][start : start + len(value)] = value
        return place

    def put(self, place: "Placed", offset: int, layout: str, value: int) -> None:
        """Pack a number at a byte offset of what was placed."""
        struct.pack_into(layout, self._segments[place.segment], place.at * _WORD + offset, value)

    def point(self, segment: int, at: int, to: "Placed") -> None:
        """Point from a word at what was placed."""
        if to.segment == segment:
            self._put_word(segment, at, to.pointer | _offset(to.at - at - 1))
        elif to.tagged:
            self._put_word(segment, at, _far(to.segment, to.at - 1))
        elif self._has_room(to.segment, _WORD):
            pad = self._append(to.segment, 1)
            self._put_word(to.segment, pad, to.pointer | _offset(to.at - pad - 1))
            self._put_word(segment, at, _far(to.segment, pad))
        else:
            near = self._has_room(segment, 2 * _WORD)
            between = segment if near else self._with_room(2 * _WORD)
            pad = self._append(between, 2)
            self._put_word(between, pad, _far(to.segment, to.at))
            self._put_word(between, pad + 1, to.pointer)
            self._put_word(segment, at, _far(between, pad) | _DOUBLE)

    def message(self, root: "StructBuilder") -> bytes:
        """Return the message with its segment table."""
        self.point(0, 0, root.place)
        sizes = [len(segment) // _WORD for segment in self._segments]
        table = struct.pack(f"<{1 + len(sizes)}I", len(sizes) - 1, *sizes)
        return table + bytes(-len(table) % _WORD) + b"".join(self._segments)

    def _allocate(self, near: int, pointer: int, size_bytes: int) -> "Placed":
        words = -(-size_bytes // _WORD)
        if self._has_room(near, words * _WORD):
            return Placed(near, self._append(near, words), pointer)
        segment = self._with_room((words + 1) * _WORD)
        tag = self._append(segment, 1 + words)
        self._put_word(segment, tag, pointer)
        return Placed(segment, tag + 1, pointer, tagged=True)

    def _has_room(self, segment: int, size_bytes: int) -> bool:
        return len(self._segments[segment]) + size_bytes <= self._limits[segment]

    def _with_room(self, size_bytes: int) -> int:
        """Return the first segment that has room; else a new one, of whole pages."""
        for number in range(len(self._segments)):
            if self._has_room(number, size_bytes):
                return number
        pages = max(1, -(-(size_bytes + _SEGMENT_HEADER_BYTES) // _PAGE_BYTES))
        self._segments.append(bytearray())
        self._limits.append(pages * _PAGE_BYTES - _SEGMENT_HEADER_BYTES)
        return len(self._segments) - 1

    def _append(self, segment: int, words: int) -> int:
        at = len(self._segments[segment]) // _WORD
        self._segments[segment] += bytes(words * _WORD)
        return at

    def _put_word(self, segment: int, at: int, word: int) -> None:
        struct.pack_into("<Q", self._segments[segment], at * _WORD, word)


@dataclass(frozen=True)
class Placed:
    """Something in a message: its segment and word, and a pointer to it with an offset of 0.

    tagged: the word before it holds that pointer.
    """

    segment: int
    at: int
    pointer: int = 0
    tagged: bool = False


@dataclass(frozen=True)
class StructBuilder:
    """A struct being written."""

    builder: Builder
    place: Placed
    shape: Shape

    def number(self, layout: str, offset: int, value: int) -> None:
        """Write a number (struct layout character) at a byte offset of the data."""
        self.builder.put(self.place, offset, "<" + layout, value)

    def text(self, pointer: int, value: str) -> None:
        """Write a text."""
        data = value.encode("utf-8", "surrogateescape") + b"\0"
        self.point(pointer, self.builder.data(data, self.place.segment))

    def point(self, pointer: int, to: Placed) -> None:
        """Have one of the pointers lead to what was placed."""
        self.builder.point(self.place.segment, self.place.at + self.shape.data + pointer, to)


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


def _offset(words: int) -> int:
    return (words & 0x3FFFFFFF) << 2


def _far(segment: int, at: int) -> int:
    return segment << 32 | at << 3 | _FAR
