"""A 0-db that has every chunk, or one payload for all keys: quick enough for millions of them."""

import contextlib
import re
import socket
from collections.abc import Callable
from typing import Final, Self

from sync.contract.spec import ZdbEndpoint
from tests.agent.chunks.scripted_zdb import Script, ScriptedZdb, bulk

_YES: Final = b":1\r\n"
# A nudge may come between the others.
_ANSWERS: Final = {b"EXISTS": _YES, b"PING": b"+PONG\r\n"}
_WORDS: Final = re.compile(b"|".join(_ANSWERS))


class Existing:
    """Serves on loopback, with all keys; chunk: with none, but with this payload for each."""

    def __init__(self, chunk: bytes | None) -> None:
        self._chunk = chunk
        self._stored: set[bytes] = set()
        self._zdb = _Quick(self._answer, quick=chunk is None)
        self.endpoint: ZdbEndpoint = self._zdb.endpoint

    def __enter__(self) -> Self:
        self._zdb.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._zdb.__exit__()

    def _answer(self, request: list[bytes]) -> bytes | None:
        chunk, (command, *keys) = self._chunk, request
        if chunk is None or not keys:
            return b"*1\r\n" + bulk(b"default") if command == b"NSLIST" else None
        answers: dict[bytes, Callable[[], bytes]] = {
            b"EXISTS": lambda: _YES if keys[0] in self._stored else b":0\r\n",
            b"LENGTH": lambda: b":%d\r\n" % len(chunk),
            b"KEYTIME": lambda: b":1600000000\r\n",
            b"MGET": lambda: b"*%d\r\n" % len(keys) + bulk(chunk) * len(keys),
            b"SET": lambda: self._store(keys[0]),
        }
        return answers[command]() if command in answers else None

    def _store(self, key: bytes) -> bytes:
        self._stored.add(key)
        return bulk(key)


class _Quick(ScriptedZdb):
    """Answers EXISTS without looking at the key."""

    def __init__(self, script: Script, *, quick: bool) -> None:
        super().__init__(script)
        self._quick = quick

    def _serve(self, client: socket.socket) -> None:
        if not self._quick:
            super()._serve(client)
            return
        with client, contextlib.suppress(OSError):
            rest = b""
            while data := client.recv(1 << 16):
                rest += data
                # A word may be cut off; whatever else is asked stands alone.
                words = _WORDS.findall(rest)
                if words:
                    client.sendall(b"".join([_ANSWERS[word] for word in words]))
                    end = max(rest.rfind(word) + len(word) for word in _ANSWERS)
                    rest = rest[end:][-64:]
                    continue
                rest = self._others(client, rest)

    def _others(self, client: socket.socket, received: bytes) -> bytes:
        """Answer what is no EXISTS; returns what is not complete yet."""
        for word, answer in self._words().items():
            if word in received:
                client.sendall(answer)
                return b""
        return received[-64:]

    def _words(self) -> dict[bytes, bytes]:
        requests = {
            b"CHALLENGE": [b"AUTH", b"SECURE", b"CHALLENGE"],
            b"NSLIST": [b"NSLIST"],
            b"NSINFO": [b"NSINFO"],
            b"SELECT": [b"SELECT"],
            b"SECURE": [b"AUTH"],
            b"INFO": [b"INFO"],
        }
        answers = {word: self._usual(request) for word, request in requests.items()}
        return {**answers, b"NSLIST": b"*1\r\n" + bulk(b"default")}
