"""A 0-db that answers by a test's script: for replies that no real server gives."""

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Self

from sync.agent.zdb.protocol import NeedMoreBytes, expect, parse_reply
from sync.contract.spec import ZdbEndpoint

# Given a request's arguments: bytes to send, or None to close the connection.
Script = Callable[[list[bytes]], bytes | None]

NSINFO = "name: default\nentries: {entries}\npublic: yes\npassword: yes\ndata_size_bytes: 10\n"


def bulk(data: bytes) -> bytes:
    """Encode a payload."""
    return b"$%d\r\n%b\r\n" % (len(data), data)


def page(cursor: bytes, *entries: tuple[bytes, int, int]) -> bytes:
    """Encode a page of SCAN."""
    items = [b"*3\r\n%b:%d\r\n:%d\r\n" % (bulk(key), size, at) for key, size, at in entries]
    return b"*2\r\n%b*%d\r\n%b" % (bulk(cursor), len(items), b"".join(items))


class ScriptedZdb:
    """Serves `script` on loopback; requests it has no answer for get the usual ones."""

    def __init__(self, script: Script, entries: int = 1) -> None:
        self.requests: list[list[bytes]] = []
        self._script = script
        self._entries = entries
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = ZdbEndpoint(host="127.0.0.1", port=self._listener.getsockname()[1])
        self._open: set[socket.socket] = set()
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for client in list(self._open):
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._open.add(client)
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        received = b""
        with client, contextlib.suppress(OSError):
            while data := client.recv(1 << 16):
                received += data
                while received:
                    try:
                        request, taken = parse_reply(received)
                    except NeedMoreBytes:
                        break
                    received = received[taken:]
                    parts = expect(request, list, "request")
                    arguments = [part for part in parts if isinstance(part, bytes)]
                    self.requests.append(arguments)
                    answer = self._script(arguments)
                    if answer is None:
                        answer = self._usual(arguments)
                    client.sendall(answer)

    def _usual(self, arguments: list[bytes]) -> bytes:
        if arguments[0] == b"AUTH":
            return b"+challenge\r\n" if arguments[-1] == b"CHALLENGE" else b"+OK\r\n"
        usual = {
            b"NSINFO": bulk(NSINFO.format(entries=self._entries).encode()),
            b"INFO": bulk(b"instance_id: 1\nboot_time: 2\n"),
            b"DBSIZE": b":%d\r\n" % self._entries,
            b"SCAN": b"-No more data\r\n",
            b"RSCAN": b"-No more data\r\n",
            b"PING": b"+PONG\r\n",
            b"WAIT": b"",
        }
        return usual.get(arguments[0], b"+OK\r\n")
