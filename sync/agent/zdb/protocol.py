"""RESP as 0-db speaks it: requests encoded, replies parsed within limits (0-db: zdbd/redis.c)."""

from collections.abc import Callable
from typing import Final, TypeAlias, TypeVar

from sync.agent.zdb.errors import ZdbProtocolError, ZdbReplyError

MAX_KEY_BYTES: Final = 255  # MAX_KEY_LENGTH (libzdb/index.h)
MAX_PAYLOAD_BYTES: Final = 8 << 20  # REDIS_MAX_PAYLOAD (zdbd/redis.h)
# What a reply may be at most; past it the connection is given up.
_LINE_BYTES: Final = 1024
_ARRAY_ITEMS: Final = 65_536
# A list of entries is SCAN's deepest reply: array, array, array (zdbd/commands_scan.c).
_DEPTH: Final = 3
_REPLY_BYTES: Final = 512 << 20


class NeedMoreBytes(Exception):  # noqa: N818 - not an error: the reply is not complete yet
    """The reply is not complete yet."""


class Status(str):
    """A simple string reply (+OK), as opposed to a payload."""

    __slots__ = ()


_Kind = TypeVar("_Kind")
_Parsed = TypeVar("_Parsed")
Reply: TypeAlias = "bytes | int | Status | ZdbReplyError | list[Reply] | None"


def encode(*arguments: bytes) -> bytes:
    """One request: an array of bulk strings."""
    parts = [b"*%d\r\n" % len(arguments)]
    parts += [b"$%d\r\n%b\r\n" % (len(argument), argument) for argument in arguments]
    return b"".join(parts)


# The shortest reply that there is (zdbd/commands_dataset.c, command_exists).
_YES: Final = b":1\r\n"
_FLAG_BYTES: Final = len(_YES)
_LINE_END: Final = b"\r\n"


class ReplyParser:
    """Takes replies, one by one, out of a stream of bytes.

    receive: returns the next bytes, never none (it raises when there are no more).
    """

    def __init__(self, receive: Callable[[], bytes]) -> None:
        self._receive = receive
        self._buffer = bytearray()
        self._taken = 0
        self._budget = 0

    @property
    def buffered_bytes(self) -> int:
        """Bytes received and not parsed yet."""
        return len(self._buffer) - self._taken

    def reply(self) -> Reply:
        """Parse one reply; errors of the server are returned, not raised (a pipeline goes on).

        Raises ZdbProtocolError for bytes that are no RESP or pass a limit.
        """
        self._budget = _REPLY_BYTES
        return self._reply(_DEPTH)

    def replies(self, count: int) -> list[Reply]:
        """Parse so many replies; quick where all are :0 or :1, as the answers to EXISTS are.

        No reply is shorter than those, so that waiting for as many bytes waits for no more.
        """
        wanted = count * _FLAG_BYTES
        while self.buffered_bytes < wanted:
            self._more()
        data = self._buffer[self._taken : self._taken + wanted]
        if data == _YES * count:
            self._taken += wanted
            return [1] * count
        digits = data[1::_FLAG_BYTES]
        if data == b"".join([b":%c\r\n" % digit for digit in digits]) and not digits.strip(b"01"):
            self._taken += wanted
            return [digit - ord("0") for digit in digits]
        return [self.reply() for _ in range(count)]

    def quick(self, parse: Callable[[bytearray], tuple[_Parsed, int] | None]) -> "_Parsed | Reply":
        """Parse one reply with `parse`, or as any other one where it returns None.

        It returns as well how many bytes it took, and raises NeedMoreBytes for a beginning.
        """
        while True:
            try:
                found = parse(self._buffer[self._taken :])
            except NeedMoreBytes:
                self._more()
                continue
            if found is None:
                return self.reply()
            self._taken += found[1]
            return found[0]

    def _reply(self, depth: int) -> Reply:
        line = self._line()
        kind, rest = line[:1], line[1:]
        if kind == b"$":
            return self._bulk(self._number(rest, "length", MAX_PAYLOAD_BYTES))
        if kind == b":":
            return self._number(rest, "number", (1 << 63) - 1)
        if kind == b"*":
            return self._array(self._number(rest, "count", _ARRAY_ITEMS), depth)
        text = rest.decode("ascii", "replace")
        if kind == b"+":
            return Status(text)
        # It answers one request: those behind it in the pipeline are answered all the same.
        if kind == b"-":
            return ZdbReplyError(text)
        raise ZdbProtocolError(
            f"not a 0-db: the reply starts with {bytes(line[:16])!r}; check host and port"
        )

    def _bulk(self, length: int) -> bytes | None:
        if length == -1:
            return None
        self._spend(length)
        body = self._exactly(length + 2)
        if body[-2:] != b"\r\n":
            raise ZdbProtocolError("a payload does not end where its length says")
        return body[:-2]

    def _array(self, count: int, depth: int) -> Reply:
        if count == -1:
            return None
        if depth == 0:
            raise ZdbProtocolError("arrays nested deeper than 0-db's are")
        return [self._reply(depth - 1) for _ in range(count)]

    def _number(self, digits: bytes, what: str, largest: int) -> int:
        plain = digits[1:] if digits[:1] == b"-" else digits
        if not plain.isdigit():
            raise ZdbProtocolError(f"a {what} that is no number: {digits[:32]!r}")
        number = int(digits)
        if what != "number" and number < -1:
            raise ZdbProtocolError(f"a negative {what}: {number}")
        if abs(number) > largest:
            raise ZdbProtocolError(f"a {what} of {number} passes the limit of {largest}")
        return number

    def _spend(self, count: int) -> None:
        self._budget -= count
        if self._budget < 0:
            raise ZdbProtocolError(
                f"a reply passes the limit of {_REPLY_BYTES} bytes; ask for fewer keys"
            )

    def _line(self) -> bytes:
        longest = _LINE_BYTES + len(_LINE_END)
        while (end := self._buffer.find(_LINE_END, self._taken, self._taken + longest)) < 0:
            if self.buffered_bytes >= longest:
                raise ZdbProtocolError(f"a line of more than {_LINE_BYTES} bytes: not a 0-db")
            self._more()
        line = bytes(self._buffer[self._taken : end])
        self._taken = end + 2
        self._spend(len(line))
        return line

    def _exactly(self, count: int) -> bytes:
        while self.buffered_bytes < count:
            self._more()
        data = bytes(memoryview(self._buffer)[self._taken : self._taken + count])
        self._taken += count
        return data

    def _more(self) -> None:
        if self._taken:
            del self._buffer[: self._taken]
            self._taken = 0
        self._buffer += self._receive()


def expect(reply: Reply, kind: type[_Kind], command: str) -> _Kind:
    """Return the reply of a command if it is a list, bytes or an int, as `kind` says.

    Raises ZdbProtocolError naming the command.
    """
    if not isinstance(reply, kind):
        raise ZdbProtocolError(f"{command}: expected {kind.__name__}, got {type(reply).__name__}")
    return reply


def parse_reply(data: bytes | bytearray) -> tuple[Reply, int]:
    """Parse one reply from the start of `data`; returns it and how many bytes it took.

    Raises NeedMoreBytes, ZdbProtocolError.
    """
    pieces = [bytes(data)] if data else []

    def receive() -> bytes:
        if not pieces:
            raise NeedMoreBytes
        return pieces.pop()

    parser = ReplyParser(receive)
    reply = parser.reply()
    return reply, len(data) - parser.buffered_bytes
