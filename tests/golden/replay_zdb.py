"""Hold a recorded conversation with a 0-db again, and write down what it answers now.

services/README.md describes the recording's form. A reply is written as there: `["+", text]`,
`["-", error]`, `[":", number]`, `["$", bytes or None]`, `["*", replies]`.
"""

import gzip
import hashlib
import json
import re
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

Json = Any
Step = dict[str, Json]

RECORDING: Final = Path(__file__).parent / "services" / "zdb.json.gz"
_LONG_BULK_BYTES: Final = 400
_LONG_ARRAY_ITEMS: Final = 100
_MANY_REPLIES: Final = 40
_FEW_ENTRIES: Final = 60
_MOST_PAGES: Final = 10_000
_PATIENCE_SECONDS: Final = 20.0  # for what was recorded; only a difference waits that long
_SILENCE_SECONDS: Final = 0.1  # for what was not; anything later would spoil the next answer
_VARYING: Final = re.compile(
    r"(index|data)_disk_freespace_|instance_id|boot_time|uptime|network_"
    r"|(index|data)_disk_(read|write)_(bytes|mb)"
)


def recorded() -> dict[str, Json]:
    """Return the whole recording."""
    with gzip.open(RECORDING, "rt", encoding="ascii") as file:
        document: dict[str, Json] = json.load(file)
    return document


class Server(Protocol):
    """A 0-db with a scenario's flags, on a data and an index directory of its own."""

    port: int
    data: Path
    index: Path

    def restart(self) -> None:
        """Stop it and start it again on its files."""

    def exit_code(self) -> int | None:
        """Return None while it serves."""


class _IncompleteError(Exception):
    """The bytes so far hold no whole reply."""


@dataclass
class _Connection:
    socket: socket.socket
    buffer: bytes = b""
    closed: bool = False

    @classmethod
    def to(cls, port: int) -> "_Connection":
        made = socket.create_connection(("127.0.0.1", port), 10)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return cls(made)

    def send(self, data: bytes) -> None:
        self.socket.settimeout(_PATIENCE_SECONDS)
        with suppress(OSError):  # a server may close while it is still being written to
            self.socket.sendall(data)

    def reply(self, wait_seconds: float) -> Json | None:
        """Return the next reply; None when there is none in that time or the server closes."""
        deadline = time.monotonic() + wait_seconds
        while True:
            try:
                reply, end = _parsed(self.buffer, 0)
            except _IncompleteError:
                if not self._more(deadline - time.monotonic()):
                    return None
            else:
                self.buffer = self.buffer[end:]
                return reply

    def _more(self, wait_seconds: float) -> bool:
        if self.closed:
            return False
        self.socket.settimeout(max(wait_seconds, 0.001))
        try:
            data = self.socket.recv(1 << 20)
        except TimeoutError:
            return False
        except OSError:
            data = b""
        self.closed = not data
        self.buffer += data
        return bool(data)


def _parsed(data: bytes, at: int) -> tuple[Json, int]:
    line = data.find(b"\r\n", at)
    if line < 0:
        raise _IncompleteError
    sign, text, at = chr(data[at]), data[at + 1 : line].decode("latin-1"), line + 2
    if sign in "+-":
        return [sign, text], at
    count = int(text)
    if sign == ":" or count < 0:
        return [sign, count if sign == ":" else None], at
    if sign == "*":
        items = []
        for _ in range(count):
            item, at = _parsed(data, at)
            items.append(item)
        return [sign, items], at
    if len(data) < at + count + 2:
        raise _IncompleteError
    return [sign, data[at : at + count].decode("latin-1")], at + count + 2


def _payload(seed: str, size: int) -> bytes:
    parts = (hashlib.sha256(f"{seed}:{n}".encode()).digest() for n in range(-(-size // 32)))
    return b"".join(parts)[:size]


def _digest(value: Json) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


@dataclass
class Player:
    """Holds one conversation with one server."""

    server: Server
    _began: int = field(default_factory=lambda: int(time.time()))
    _connections: dict[str, _Connection] = field(default_factory=dict)
    _kept: dict[str, bytes] = field(default_factory=dict)

    def answer(self, step: Step) -> Json:
        """Take one step; return what came of it in the recording's form."""
        match step.get("do"):
            case "restart":
                self.close()
                self.server.restart()
                return {}
            case "alive":
                code = self.server.exit_code()
                return {"alive": True} if code is None else {"alive": False, "exit": code}
            case "close":
                self._connections.pop(step["on"]).socket.close()
                return {}
        name = step.get("on", "a")
        if name not in self._connections:
            self._connections[name] = _Connection.to(self.server.port)
        connection = self._connections[name]
        if "walk" in step:
            return self._walked(connection, step)
        begin = time.monotonic()
        self._ask(connection, step)
        found = self._listened(connection, step)
        took_ms = (time.monotonic() - begin) * 1000
        if "took" in step:  # not before the time; how long after it is the machine's affair
            found["took within ms"] = step["took"] if took_ms >= step["took"][0] else took_ms
        return found

    def close(self) -> None:
        """Close every connection."""
        for connection in self._connections.values():
            connection.socket.close()
        self._connections.clear()

    # -- asking ------------------------------------------------------------------------------

    def _ask(self, connection: _Connection, step: Step) -> None:
        if step.get("do") == "shutdown":
            connection.socket.shutdown(socket.SHUT_WR)
        elif "raw" in step:
            parts = step["raw"] if isinstance(step["raw"], list) else [step["raw"]]
            connection.send(b"".join(self._bytes(part) for part in parts))
        else:
            requests = step.get("cmds", [step["cmd"]] if "cmd" in step else [])
            connection.send(b"".join(self._request(words) for words in requests))

    def _request(self, words: list[Json]) -> bytes:
        parts = [part for word in words for part in self._arguments(word)]
        return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(p), p) for p in parts)

    def _arguments(self, word: Json) -> Iterator[bytes]:
        if isinstance(word, dict) and "numbered" in word:
            pattern, first, count = word["numbered"]
            yield from ((pattern % n).encode("latin-1") for n in range(first, first + count))
        else:
            yield self._bytes(word)

    def _bytes(self, word: Json) -> bytes:
        match word:
            case str():
                return word.encode("latin-1")
            case {"repeat": [text, times]}:
                return bytes(text.encode("latin-1") * times)
            case {"payload": [seed, size]}:
                return _payload(seed, size)
            case {"kept": name}:
                return self._kept[name]
            case {"answer": [name, password]}:
                secret = self._kept.get(name, b"") + b":" + password.encode("latin-1")
                return hashlib.sha1(secret).hexdigest().encode()
        raise ValueError(word)

    # -- listening ---------------------------------------------------------------------------

    def _listened(self, connection: _Connection, step: Step) -> dict[str, Json]:
        """Wait for what was recorded, then a moment for more."""
        wanted = step.get("answer", {})
        count = step.get("count", len(step["cmds"]) if "cmds" in step else _count(step))
        patience = max(step.get("wait", 0) / 1000, _PATIENCE_SECONDS)
        expected = _replies_of(wanted)
        if wanted.get("reply", "") is None:  # recorded: no reply in this time
            patience = _SILENCE_SECONDS
        replies: list[Json] = []
        while len(replies) < max(expected, count):
            if (reply := connection.reply(patience)) is None:
                break
            replies.append(reply)
        if wanted.get("closed"):
            silence = patience
        else:
            silence = _SILENCE_SECONDS if count <= 0 or "quiet" in step else 0
        while silence and (extra := connection.reply(silence)) is not None:
            replies.append(extra)
        found = self._written(replies, step, single=count == 1 and "quiet" not in step)
        if connection.closed:
            found["closed"] = True
        if silence and connection.buffer:
            found["rest"] = connection.buffer.decode("latin-1")
            connection.buffer = b""
        return found

    def _written(self, replies: list[Json], step: Step, *, single: bool) -> dict[str, Json]:
        for name, path in step.get("keep", {}).items():
            self._kept[name] = _inner(replies[0], path) if replies else b""
        plain = [self._shown(reply) for reply in replies]
        if "any" in step:
            plain = [[kind, {"any": step["any"]}] for kind, _ in plain]
        if "unordered" in step:
            plain = [[kind, sorted(items, key=json.dumps)] for kind, items in plain]
        if len(plain) > _MANY_REPLIES and "cmds" in step:
            ends = {"first": plain[0], "last": plain[-1]}
            return {"replies": {"count": len(plain), "sha256": _digest(plain), **ends}}
        if single and len(plain) <= 1:
            return {"reply": plain[0] if plain else None}
        return {"replies": plain}

    def _walked(self, connection: _Connection, step: Step) -> dict[str, Json]:
        """Ask for page after page until an error."""
        cursor = [self._kept[step["from"]]] if "from" in step else []
        entries: list[Json] = []
        pages, reply = 0, None
        while pages < _MOST_PAGES:
            words = [*step["walk"], *(part.decode("latin-1") for part in cursor)]
            connection.send(self._request(words))
            reply = connection.reply(_PATIENCE_SECONDS)
            if reply is None or reply[0] != "*":
                break
            cursor = [_inner(reply, [0])]
            entries += reply[1][1][1]
            pages += 1
        if "keep" in step:
            self._kept[step["keep"]] = cursor[0] if cursor else b""
        found: dict[str, Json] = {"count": len(entries), "end": reply}
        if step.get("several"):
            found["more than one page"] = pages > 1
        plain = [self._shown(entry) for entry in entries]
        if len(plain) <= _FEW_ENTRIES:
            return found | {"entries": plain}
        digest = _digest([[entry[1][0][1], entry[1][1][1]] for entry in entries])
        ends = {"first": plain[0], "last": plain[-1]}
        return found | ends | {"keys and lengths sha256": digest}

    # -- writing down ------------------------------------------------------------------------

    def _shown(self, reply: Json) -> Json:
        kind, value = reply
        match kind:
            case ":" if self._is_now(value):
                return [kind, {"any": "time"}]
            case "*" if len(value) > _LONG_ARRAY_ITEMS:
                digest = _digest([self._shown(item) for item in value])
                return [kind, {"items": len(value), "sha256": digest}]
            case "*":
                items = [self._shown(item) for item in value]
                if len(items) == 2 and items[0] == ["$", {"any": "time"}]:
                    items[1] = ["$", {"any": "microseconds"}]
                return [kind, items]
            case "$" if value is not None:
                return [kind, self._shown_bulk(value)]
        return reply

    def _shown_bulk(self, value: str) -> Json:
        if 9 < len(value) < 12 and value.isdigit() and self._is_now(int(value)):
            return {"any": "time"}
        if value.startswith("# ") and ": " in value:
            return {"lines": [self._shown_line(line) for line in value.split("\n")]}
        if len(value) > _LONG_BULK_BYTES:
            digest = hashlib.sha256(value.encode("latin-1")).hexdigest()
            return {"length": len(value), "sha256": digest}
        return value

    def _shown_line(self, line: str) -> Json:
        name, mark, value = line.partition(": ")
        if mark and _VARYING.match(name):
            return {"any": name}
        if name.endswith("_revision"):
            value = value.removeprefix("v")  # `git describe` of the build
        for place, label in ((self.server.data, "<data>"), (self.server.index, "<index>")):
            value = value.replace(str(place), label)
        return name + mark + value

    def _is_now(self, seconds: int) -> bool:
        return self._began - 3 <= seconds <= time.time() + 3


def _count(step: Step) -> int:
    return -1 if "raw" in step or step.get("do") == "shutdown" else 1


def _replies_of(answer: dict[str, Json]) -> int:
    replies = answer.get("replies", [answer["reply"]] if answer.get("reply") else [])
    return replies["count"] if isinstance(replies, dict) else len(replies)


def _inner(reply: Json, path: list[int]) -> bytes:
    """Return the bytes of a reply's part; none where it has no such part."""
    with suppress(IndexError, TypeError):
        for at in path:
            reply = reply[1][at]
        return str(reply[1]).encode("latin-1")
    return b""
