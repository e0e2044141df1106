"""RESP as zdbd reads it: arrays of bulk strings, cut out of a stream quickly.

Runs of MGET with 16-byte keys and of SET are recognised by their fixed layout and come out as one
request: they are what a mirror sends by the hundred thousand.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

MAX_ARGUMENTS: Final = 1024
MAX_PAYLOAD_BYTES: Final = 8 << 20
BUFFER_BYTES: Final = 8192
_NUMBER: Final = re.compile(rb"\s*([+-]?\d{1,40})")
_KEY_STRIDE: Final = 23  # `$16`, line end, 16 bytes, line end
_SET_HEAD: Final = re.compile(
    rb"\*([34])\r\n\$3\r\nSET\r\n\$16\r\n(.{16})\r\n\$(0|[1-9]\d{0,6})\r\n", re.DOTALL
)
_SET_STAMP: Final = re.compile(rb"\r\n\$(\d{1,2})\r\n(1?\d{1,9})\r\n")
_SET_JOINT: Final = re.compile(
    rb"\r\n\$(\d{1,2})\r\n(1?\d{1,9})\r\n"
    rb"\*4\r\n\$3\r\nSET\r\n\$16\r\n(.{16})\r\n\$(0|[1-9]\d{0,6})\r\n",
    re.DOTALL,
)
# Of a SET with a timestamp, without the digits of the payload's length.
_HEAD_BYTES: Final = len(b"*4\r\n$3\r\nSET\r\n$16\r\n\r\n$\r\n") + 16
_MGET_HEAD: Final = b"\r\n$4\r\nMGET\r\n"


class ProtocolError(ValueError):
    """The stream is not a RESP request; str() is zdbd's text, "" where it says nothing.

    fatal: it ends the connection. One that is not jams it: the bytes stay, and whatever comes
    behind them finds them again.
    """

    def __init__(self, text: str, *, fatal: bool) -> None:
        super().__init__(text)
        self.fatal = fatal


@dataclass(frozen=True)
class Command:
    """One request: its arguments, the first being the command's name."""

    arguments: list[bytes]


@dataclass(frozen=True)
class Fetch:
    """One MGET of keys of 16 bytes."""

    keys: tuple[bytes, ...]


# Key, payload as the bulk reply of GET has it, which is as SET has it, its length in bytes, and the
# timestamp (None: now).
SetRequest = tuple[bytes, bytes, int, int | None]


@dataclass(frozen=True)
class Sets:
    """Consecutive SETs."""

    writes: list[SetRequest]


Request = Command | Fetch | Sets


class Parser:
    """Cuts requests out of the bytes a client sends; keeps the incomplete rest."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._missing_bytes = 0  # of a request that is known to be longer

    def feed(self, data: bytes) -> Iterator[Request]:
        """Yield every request completed by these bytes; raises ProtocolError."""
        self._parts.append(data)
        self._missing_bytes -= len(data)
        if self._missing_bytes > 0:
            return
        buffer = b"".join(self._parts)
        self._missing_bytes = position = 0
        try:
            while position < len(buffer):
                request, end = _next(buffer, position)
                if request is None:
                    self._missing_bytes = end - len(buffer)
                    break
                position = end
                yield request
        except ProtocolError as error:
            error.fatal = error.fatal or len(buffer) - position >= BUFFER_BYTES
            raise
        finally:
            self._parts = [buffer[position:]] if position < len(buffer) else []

    @property
    def between_requests(self) -> bool:
        """Whether the bytes so far end exactly where a request ends."""
        return not self._parts


def _next(buffer: bytes, position: int) -> tuple[Request | None, int]:
    """Read a request: None where it is not complete; where it ends, at least."""
    writes, end = _sets(buffer, position)
    if writes:
        return Sets(writes), end
    fetch, end = _mget(buffer, position)
    if fetch is not None:
        return fetch, end
    arguments, end = _array(buffer, position)
    return None if arguments is None else Command(arguments), end


def _sets(buffer: bytes, position: int) -> tuple[list[SetRequest], int]:
    writes: list[SetRequest] = []
    head, joint, stamp, size = _SET_HEAD.match, _SET_JOINT.match, _SET_STAMP.match, len(buffer)
    add = writes.append
    while found := head(buffer, position):
        count, key, digits = found.groups()
        payload, length = found.end(), int(digits)
        end = payload + length
        # Most are followed by another of their kind: one match for its end and the next one's head.
        while count == b"4" and length <= MAX_PAYLOAD_BYTES and (found := joint(buffer, end)):
            stamp_digits, timestamp, next_key, next_digits = found.groups()
            if len(timestamp) != int(stamp_digits):
                break
            add((key, buffer[payload - len(digits) - 3 : end + 2], length, int(timestamp)))
            key, digits, payload, length = next_key, next_digits, found.end(), int(next_digits)
            position = payload - len(digits) - _HEAD_BYTES
            end = payload + length
        if end + 2 > size or length > MAX_PAYLOAD_BYTES:
            break
        bulk = buffer[payload - len(digits) - 3 : end + 2]
        if bulk[-2:] != b"\r\n":
            break
        if count == b"3":
            add((key, bulk, length, None))
            position = end + 2
            continue
        timed = stamp(buffer, end)
        if timed is None or len(timed[2]) != int(timed[1]):
            break
        add((key, bulk, length, int(timed[2])))
        position = timed.end()
    return writes, position


@lru_cache(maxsize=2048)
def _keys_struct(count: int) -> struct.Struct:
    return struct.Struct("5x16s2x" * count)


def _mget(buffer: bytes, position: int) -> tuple[Fetch | None, int]:
    head = buffer.find(_MGET_HEAD, position, position + 6 + len(_MGET_HEAD))
    if head < 0 or not buffer[position + 1 : head].isdigit():
        return None, position
    count = int(buffer[position + 1 : head]) - 1
    start = head + len(_MGET_HEAD)
    end = start + count * _KEY_STRIDE
    if not 1 <= count < MAX_ARGUMENTS or end > len(buffer):
        return None, position
    body = buffer[start:end]
    frame = zip(b"$16\r\n\r\n", (0, 1, 2, 3, 4, 21, 22), strict=True)
    if any(body[at::_KEY_STRIDE].count(byte) != count for byte, at in frame):
        return None, position
    return Fetch(_keys_struct(count).unpack(body)), end


def _array(buffer: bytes, position: int) -> tuple[list[bytes] | None, int]:
    count, at = _header(buffer, position, b"*", "Malformed request, array expected", fatal=True)
    if count is None:
        return None, len(buffer) + 1
    if count < 0:
        raise ProtocolError("Internal memory error", fatal=True)
    if count == 0:
        raise ProtocolError("Missing arguments", fatal=False)
    if count > MAX_ARGUMENTS:
        raise ProtocolError("Too many arguments", fatal=False)
    arguments = []
    for _ in range(count):
        length, at = _header(buffer, at, b"$", "Malformed query string", fatal=False)
        if length is None:
            return None, len(buffer) + 1
        if length > MAX_PAYLOAD_BYTES:
            raise ProtocolError("Payload too big", fatal=True)
        if length < -2:  # it allocates two bytes more for the line's end
            raise ProtocolError("Internal memory error", fatal=True)
        if (end := at + max(length + 2, 1)) > len(buffer):
            return None, end
        arguments.append(buffer[at : at + max(length, 0)])
        at += length + 2
    return arguments, at


def _header(
    buffer: bytes, at: int, sign: bytes, complaint: str, *, fatal: bool
) -> tuple[int | None, int]:
    """Read a count or length: its value (None: not yet complete), where the next line starts."""
    line = buffer.find(b"\n", at, at + BUFFER_BYTES)
    if line < 0:
        if len(buffer) - at >= BUFFER_BYTES:
            raise ProtocolError("", fatal=True)
        return None, at
    if buffer[at : at + 1] != sign:
        raise ProtocolError(complaint, fatal=fatal)
    return int32(atoll(buffer[at + 1 : line])), line + 1


def atoll(text: bytes) -> int:
    """Read a number as C does: a sign and digits, 64 bits, else 0."""
    found = _NUMBER.match(text)
    return min(max(int(found[1]), -(1 << 63)), (1 << 63) - 1) if found else 0


def int32(number: int) -> int:
    """Cut a number to 32 bits, as C does."""
    return (number + (1 << 31) & 0xFFFFFFFF) - (1 << 31)
