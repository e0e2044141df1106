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
# What an object takes beside the bytes of its text, with its place in a list (CPython 3.11).
_OBJECT_BYTES: Final = 120
_LIST_BYTES: Final = 160
_ERROR_BYTES: Final = 640
_ERROR_TEXT_COPIES: Final = 2


class _Array:
    """An array of which elements are still to come."""

    __slots__ = ("count", "items")

    def __init__(self, count: int) -> None:
        self.count = count
        self.items: list[Reply] = []


class ReplyParser:
    """Takes replies, one by one, out of a stream of bytes.

    receive: returns the next bytes, never none (it raises when there are no more; the reply under
    way goes on where it was with the next call). What replies cost as objects is bounded while they
    are parsed: a few bytes on the wire may be hundreds here.
    """

    def __init__(self, receive: Callable[[], bytes], most_bytes: int = _REPLY_BYTES) -> None:
        self._receive = receive
        self._buffer = bytearray()
        self._taken = 0
        self._most_bytes = most_bytes
        self._spent_bytes = 0
        # Of the reply under way: arrays that are not complete, the outermost one first.
        self._open: list[_Array] = []
        self._one_by_one = False

    @property
    def buffered_bytes(self) -> int:
        """Bytes received and not parsed yet."""
        return len(self._buffer) - self._taken

    @property
    def held_bytes(self) -> int:
        """What was received and what was made of it since `allow` takes here."""
        return len(self._buffer) + self._spent_bytes

    def allow(self, most_bytes: int) -> None:
        """Say what the replies that follow may cost, all together."""
        self._most_bytes = most_bytes
        self._spent_bytes = 0

    def allow_more(self, more_bytes: int) -> None:
        """Say that they may cost so much more: something else was asked for."""
        self._most_bytes += more_bytes

    def reply(self) -> Reply:
        """Parse one reply; errors of the server are returned, not raised (a pipeline goes on).

        Raises ZdbProtocolError for bytes that are no RESP or pass a limit.
        """
        while True:
            item = self._item()
            if isinstance(item, _Array):
                self._open.append(item)
                continue
            while self._open:
                array = self._open[-1]
                array.items.append(item)
                if len(array.items) < array.count:
                    break
                self._open.pop()
                item = array.items
            else:
                return item

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

    def quick(
        self, parse: Callable[[bytearray, int], tuple[_Parsed, int] | None]
    ) -> "_Parsed | Reply":
        """Parse one reply with `parse`, or as any other one where it returns None.

        It is given what the reply may take in memory, returns as well how many bytes it took, and
        raises NeedMoreBytes for a beginning.
        """
        while not self._one_by_one:
            try:
                data = self._buffer[self._taken :] if self._taken else self._buffer
                found = parse(data, self._most_bytes)
            except NeedMoreBytes:
                self._more()
                continue
            if found:
                self._taken += found[1]
                return found[0]
            self._one_by_one = True
        reply = self.reply()
        self._one_by_one = False
        return reply

    def _item(self) -> "Reply | _Array":
        """Take the next element that is complete, or the head of an array."""
        line = self._line()
        kind, rest = line[:1], line[1:]
        line_bytes = len(line) + len(_LINE_END)
        if kind == b"$":
            return self._bulk(line_bytes, self._number(rest, "length", MAX_PAYLOAD_BYTES))
        if kind == b"*":
            return self._array(line_bytes, self._number(rest, "count", _ARRAY_ITEMS))
        if kind == b"-":
            self._take(line_bytes, _ERROR_BYTES + _ERROR_TEXT_COPIES * len(line))
            # It answers one request: those behind it in the pipeline are answered all the same.
            return ZdbReplyError(rest.decode("ascii", "replace"))
        if kind == b":":
            number = self._number(rest, "number", (1 << 63) - 1)
            self._take(line_bytes, _OBJECT_BYTES)
            return number
        if kind == b"+":
            self._take(line_bytes, _OBJECT_BYTES + len(line))
            return Status(rest.decode("ascii", "replace"))
        raise ZdbProtocolError(
            f"not a 0-db: the reply starts with {bytes(line[:16])!r}; check host and port"
        )

    def _bulk(self, line_bytes: int, length: int) -> bytes | None:
        if length == -1:
            self._take(line_bytes, _OBJECT_BYTES)
            return None
        self._require(_OBJECT_BYTES + length)
        end = line_bytes + length + len(_LINE_END)
        while self.buffered_bytes < end:
            self._more()
        start = self._taken + line_bytes
        body = bytes(memoryview(self._buffer)[start : start + length])
        if not self._buffer.startswith(_LINE_END, start + length):
            raise ZdbProtocolError("a payload does not end where its length says")
        self._take(end, _OBJECT_BYTES + length)
        return body

    def _array(self, line_bytes: int, count: int) -> "Reply | _Array":
        if count == -1:
            self._take(line_bytes, _OBJECT_BYTES)
            return None
        if len(self._open) == _DEPTH:
            raise ZdbProtocolError("arrays nested deeper than 0-db's are")
        self._take(line_bytes, _LIST_BYTES)
        return _Array(count) if count else []

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

    def _require(self, cost_bytes: int) -> None:
        most_bytes = min(self._most_bytes, _REPLY_BYTES)
        if self._spent_bytes + cost_bytes > most_bytes:
            raise ZdbProtocolError(
                f"a reply passes the limit of {most_bytes} bytes; ask for fewer keys"
            )

    def _take(self, count: int, cost_bytes: int) -> None:
        """Leave so many bytes behind, of which an object was made that costs so much."""
        self._require(cost_bytes)
        self._spent_bytes += cost_bytes
        self._taken += count

    def _line(self) -> bytes:
        """Return the next line; it is not taken yet."""
        longest = _LINE_BYTES + len(_LINE_END)
        while (end := self._buffer.find(_LINE_END, self._taken, self._taken + longest)) < 0:
            if self.buffered_bytes >= longest:
                raise ZdbProtocolError(f"a line of more than {_LINE_BYTES} bytes: not a 0-db")
            self._more()
        return bytes(self._buffer[self._taken : end])

    def _more(self) -> None:
        # A whole reply in the buffer is parsed before more is received, so little is moved.
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


def parser_of(data: bytes | bytearray) -> ReplyParser:
    """Return a parser of these bytes, which raises NeedMoreBytes where there are no more."""
    pieces = [bytes(data)] if data else []

    def receive() -> bytes:
        if not pieces:
            raise NeedMoreBytes
        return pieces.pop()

    return ReplyParser(receive)


def parse_reply(data: bytes | bytearray) -> tuple[Reply, int]:
    """Parse one reply from the start of `data`; returns it and how many bytes it took.

    Raises NeedMoreBytes, ZdbProtocolError.
    """
    parser = parser_of(data)
    reply = parser.reply()
    return reply, len(data) - parser.buffered_bytes
