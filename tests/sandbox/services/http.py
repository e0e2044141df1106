"""A small threaded HTTP/1.1 server with keep-alive: what a client of upstream sees behind Caddy.

An application is a function from Request to Response. A server may be given a `deliver` function,
which decides how a response travels: whole (the default) or damaged (tests).
"""

import contextlib
import email.utils
import os
import socket
import ssl
import threading
import urllib.parse
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from pathlib import Path
from typing import Final

_HEAD_LIMIT_BYTES: Final = 64 << 10
_BODY_LIMIT_BYTES: Final = 1 << 30
_IDLE_SECONDS: Final = 120.0
_BLOCK_BYTES: Final = 1 << 20
# What a client that does not read holds here (Werkzeug's wrap_file: 8 KiB).
_FILE_BLOCK_BYTES: Final = 128 << 10


@dataclass(frozen=True)
class Request:
    """path: percent-decoded, never normalised. headers: names in lower case."""

    method: str
    path: str
    query: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    client: str = ""


@dataclass(frozen=True)
class Content:
    """Bytes with the time of their last change (seconds), in memory or in a file."""

    modified: float
    data: bytes | None = None
    path: Path | None = None
    digest: str | None = None

    @property
    def size(self) -> int:
        """Length in bytes."""
        if self.data is not None:
            return len(self.data)
        return self.path.stat().st_size if self.path else 0

    def blocks(self, start: int = 0, length: int | None = None) -> Iterator[bytes | memoryview]:
        """Yield a part of the content, a block at a time."""
        wanted = self.size - start if length is None else length
        if self.data is not None:
            yield memoryview(self.data)[start : start + wanted]
        elif self.path is not None:
            yield from _file_blocks(self.path, start, wanted)

    def read(self) -> bytes:
        """Return all bytes."""
        return self.data if self.data is not None else b"".join(self.blocks())


def _file_blocks(path: Path, start: int, length: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(start)
        while length > 0:
            block = file.read(min(_FILE_BLOCK_BYTES, length))
            if not block:
                return
            length -= len(block)
            yield block


@dataclass(frozen=True)
class Response:
    """What a server answers: `content` from `start`, `length` bytes. endpoint: for counting."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    content: Content = Content(0.0, b"")
    start: int = 0
    length: int | None = None
    endpoint: str = ""

    @property
    def body_bytes(self) -> int:
        """Length of the body."""
        return self.content.size - self.start if self.length is None else self.length

    def at(self, endpoint: str) -> "Response":
        """Name the endpoint that answered."""
        return replace(self, endpoint=endpoint)


Application = Callable[[Request], Response]
Deliver = Callable[["Connection", Request, Response], bool]


def text(
    body: str, status: int = 200, kind: str = "text/html; charset=utf-8", **headers: str
) -> Response:
    """Answer with a text."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(status, {"Content-Type": kind, **named}, Content(0.0, body.encode()))


class Connection:
    """One client's connection: reads requests, sends responses."""

    def __init__(self, sock: socket.socket, client: str) -> None:
        self.socket, self.client = sock, client
        self._buffer = b""

    def request(self) -> Request | None:
        """Read the next request; None when the client is done. Raises ValueError for nonsense."""
        head = self._head()
        if head is None:
            return None
        lines = head.decode("latin-1").split("\r\n")
        method, target, _ = lines[0].split(" ", 2)
        headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            # A trailing blank stays: upstream's server takes `bearer ` for an empty token.
            headers[name.strip().lower()] = value.lstrip()
        if lines[0].endswith("HTTP/1.0"):
            headers.setdefault("connection", "close")
        path, _, query = target.partition("?")
        if headers.get("expect", "").lower() == "100-continue":
            self.socket.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = self._body(headers)
        fields = dict(urllib.parse.parse_qsl(query))
        return Request(method, urllib.parse.unquote(path), fields, headers, body, self.client)

    def _head(self) -> bytes | None:
        while b"\r\n\r\n" not in self._buffer:
            if len(self._buffer) > _HEAD_LIMIT_BYTES:
                raise ValueError("the request's head is too long")
            data = self.socket.recv(_HEAD_LIMIT_BYTES)
            if not data:
                return None
            self._buffer += data
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        return head

    def _body(self, headers: dict[str, str]) -> bytes:
        if "chunked" in headers.get("transfer-encoding", ""):
            return self._chunked_body()
        length = int(headers.get("content-length") or 0)
        if not 0 <= length <= _BODY_LIMIT_BYTES:
            raise ValueError("the request's body is too long")
        return self._take(length)

    def _chunked_body(self) -> bytes:
        parts: list[bytes] = []
        while sum(map(len, parts)) <= _BODY_LIMIT_BYTES:
            size = int(self._line().split(b";")[0], 16)
            parts.append(self._take(size))
            self._take(2)
            if size == 0:
                return b"".join(parts)
        raise ValueError("the request's body is too long")

    def _line(self) -> bytes:
        while b"\r\n" not in self._buffer:
            self._fill()
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line

    def _take(self, length: int) -> bytes:
        parts, have = [self._buffer], len(self._buffer)
        while have < length:
            self._buffer = b""
            self._fill()
            parts.append(self._buffer)
            have += len(self._buffer)
        data = b"".join(parts)
        self._buffer = data[length:]
        return data[:length]

    def _fill(self) -> None:
        data = self.socket.recv(_BLOCK_BYTES)
        if not data:
            raise ValueError("the client left in mid-request")
        self._buffer += data

    def send(self, request: Request, response: Response) -> bool:
        """Send a response whole; False when the connection is to be closed."""
        keep = request.headers.get("connection", "").lower() != "close"
        self.socket.sendall(self.head(response, keep=keep) + self._first(request, response))
        if request.method != "HEAD" and response.body_bytes > _BLOCK_BYTES:
            for block in response.content.blocks(response.start, response.length):
                self.socket.sendall(block)
        return keep

    def _first(self, request: Request, response: Response) -> bytes:
        """Return a small body, to travel with the head."""
        if request.method == "HEAD" or response.body_bytes > _BLOCK_BYTES:
            return b""
        return b"".join(response.content.blocks(response.start, response.length))

    def head(self, response: Response, *, keep: bool) -> bytes:
        """Return the status line and headers."""
        reason = HTTPStatus(response.status).phrase
        lines = [f"HTTP/1.1 {response.status} {reason}"]
        headers = {"Server": "Caddy", **response.headers}
        if response.status != HTTPStatus.NOT_MODIFIED:
            headers.setdefault("Content-Length", str(response.body_bytes))
        headers.setdefault("Date", email.utils.formatdate(usegmt=True))
        if not keep:
            headers["Connection"] = "close"
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")

    def reset(self) -> None:
        """End the connection with a RST."""
        linger = b"\x01\0\0\0\0\0\0\0"
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)


class HttpServer:
    """Serves an application on one address with a thread per connection.

    requests: how often each endpoint was asked. bytes_sent: bodies given to clients. tls: set it
    before `start` to serve https.
    """

    def __init__(self, application: Application, address: str = "127.0.0.1", port: int = 0) -> None:
        self.application = application
        self.deliver: Deliver = Connection.send
        self.requests: Counter[str] = Counter()
        self.bytes_sent = 0
        self.tls: ssl.SSLContext | None = None
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._listener = socket.create_server(
            (address, port), family=family, dualstack_ipv6=address == "::", backlog=256
        )
        self.address, self.port = address, int(self._listener.getsockname()[1])
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._stopping = False
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Base URL."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{'http' if self.tls is None else 'https'}://{host}:{self.port}"

    def start(self) -> "HttpServer":
        """Serve in a thread of its own."""
        self._thread = threading.Thread(target=self.serve, name="http", daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        """Close the listener and every connection."""
        self._stopping = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.drop_connections()
        if self._thread is not None:
            self._thread.join(10)

    def drop_connections(self) -> None:
        """End every open connection."""
        with self._lock:
            for sock in self._open:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def serve(self) -> None:
        """Accept until `stop`."""
        while not self._stopping:
            try:
                sock, peer = self._listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.settimeout(_IDLE_SECONDS)
            with self._lock:
                self._open.add(sock)
            worker = threading.Thread(target=self._converse, args=(sock, peer[0]), daemon=True)
            worker.start()

    def _converse(self, sock: socket.socket, client: str) -> None:
        try:
            if self.tls is not None:
                sock = self._secured(self.tls, sock)
            connection = Connection(sock, client)
            while not self._stopping:
                request = connection.request()
                if request is None or not self._answer(connection, request):
                    return
        except (OSError, ValueError, UnicodeError):
            return  # a client that left or talks nonsense gets no answer
        finally:
            with self._lock:
                self._open.discard(sock)
            sock.close()

    def _secured(self, tls: ssl.SSLContext, sock: socket.socket) -> socket.socket:
        with self._lock:
            self._open.discard(sock)
        secured = tls.wrap_socket(sock, server_side=True)
        with self._lock:
            self._open.add(secured)
        return secured

    def _answer(self, connection: Connection, request: Request) -> bool:
        response = self._respond(request)
        with self._lock:
            self.requests[response.endpoint or request.path] += 1
            self.bytes_sent += response.body_bytes
        return self.deliver(connection, request, response)

    def _respond(self, request: Request) -> Response:
        try:
            return self.application(request)
        except Exception as error:
            if os.environ.get("STANDIN_DEBUG"):
                raise
            return text(f"<title>500 Internal Server Error</title>{type(error).__name__}", 500)
