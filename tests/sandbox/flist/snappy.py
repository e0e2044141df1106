"""Raw snappy: cramjam's where it is installed, else our own, slower and as good.

Source of the format: google/snappy, format_description.txt.
"""

from typing import Final

try:
    import cramjam as _cramjam
except ImportError:  # a service image has only Debian's packages
    _cramjam = None  # type: ignore[assignment]

_MIN_MATCH: Final = 4
_WINDOW: Final = 65535
_MAX_COPY: Final = 64
_LITERAL, _COPY1, _COPY2 = 0, 1, 2


class SnappyError(ValueError):
    """Bytes that are no raw snappy stream."""


def compress(data: bytes) -> bytes:
    """Compress."""
    return bytes(_cramjam.snappy.compress_raw(data)) if _cramjam else own_compress(data)


def decompress(data: bytes) -> bytes:
    """Decompress; raises SnappyError."""
    if not _cramjam:
        return own_decompress(data)
    try:
        return bytes(_cramjam.snappy.decompress_raw(data))
    except _cramjam.DecompressionError as error:
        raise SnappyError(str(error)) from error


def own_compress(data: bytes) -> bytes:
    """Compress with nothing but Python: the last place of each four bytes is remembered."""
    out = bytearray(_varint(len(data)))
    seen: dict[bytes, int] = {}
    at = start = 0
    while at + _MIN_MATCH <= len(data):
        word = data[at : at + _MIN_MATCH]
        before = seen.get(word, -1)
        seen[word] = at
        if before < 0 or at - before > _WINDOW:
            at += 1
            continue
        length = _matching(data, before, at)
        _put_literal(out, data[start:at])
        out += (length - 1 << 2 | _COPY2).to_bytes(1, "little") + (at - before).to_bytes(
            2, "little"
        )
        at += length
        start = at
    _put_literal(out, data[start:])
    return bytes(out)


def _matching(data: bytes, before: int, at: int) -> int:
    length = _MIN_MATCH
    limit = min(_MAX_COPY, len(data) - at)
    while length < limit and data[before + length] == data[at + length]:
        length += 1
    return length


def _put_literal(out: bytearray, literal: bytes) -> None:
    if not literal:
        return
    size = len(literal) - 1
    if size < 60:
        out.append(size << 2)
    else:
        width = (size.bit_length() + 7) // 8
        out.append((59 + width) << 2)
        out += size.to_bytes(width, "little")
    out += literal


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def own_decompress(data: bytes) -> bytes:
    """Decompress with nothing but Python."""
    try:
        size, at = _length(data)
        out = bytearray()
        while at < len(data):
            at = _element(data, at, out)
    except IndexError:
        raise SnappyError("the stream ends in mid-element") from None
    if len(out) != size:
        raise SnappyError(f"{len(out)} bytes where {size} were announced")
    return bytes(out)


def _length(data: bytes) -> tuple[int, int]:
    value = 0
    for at in range(5):
        value |= (data[at] & 0x7F) << 7 * at
        if not data[at] & 0x80:
            return value, at + 1
    raise SnappyError("the length has more than 32 bits")


def _element(data: bytes, at: int, out: bytearray) -> int:
    tag = data[at]
    kind, size = tag & 3, tag >> 2
    at += 1
    if kind == _LITERAL:
        return _literal(data, at, size, out)
    if kind == _COPY1:
        length, offset, at = (size & 7) + 4, (tag >> 5) << 8 | data[at], at + 1
    else:
        width = 2 if kind == _COPY2 else 4
        length, offset = size + 1, int.from_bytes(data[at : at + width], "little")
        at += width
    if not 0 < offset <= len(out):
        raise SnappyError("a copy from before the start")
    for _ in range(length):
        out.append(out[-offset])
    return at


def _literal(data: bytes, at: int, size: int, out: bytearray) -> int:
    if size >= 60:
        width = size - 59
        size = int.from_bytes(data[at : at + width], "little")
        at += width
    literal = data[at : at + size + 1]
    if len(literal) != size + 1:
        raise SnappyError("a literal ends early")
    out += literal
    return at + size + 1
