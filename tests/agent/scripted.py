"""A small HTTP/1.1 server whose every answer is scripted by the test: for bad input and faults."""

import email.utils
import json
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self


@dataclass
class Answer:
    """One answer; fault: what goes wrong while it is sent."""

    body: bytes = b""
    status: int = 200
    mtime: float | None = 1_700_000_000.0
    headers: dict[str, str] = field(default_factory=dict)
    fault: str = ""  # "", truncate, reset, hang, endless, drip, trickle, flip, no-length


@dataclass
class Asked:
    """One request as it came."""

    method: str
    path: str
    headers: dict[str, str]


Script = Callable[[Asked], Answer | None]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: "ScriptedServer"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        asked = Asked(self.command, self.path, dict(self.headers.items()))
        with self.server.lock:
            self.server.asked.append(asked)
        answer = self.server.answer(asked)
        if answer is None:
            answer = Answer(b"<h1>not found</h1>", 404, headers={"Content-Type": "text/html"})
        self._send(asked, answer)
        self.wfile.flush()

    do_HEAD = do_GET  # noqa: N815 - the handler's protocol

    def _send(self, asked: Asked, answer: Answer) -> None:
        body, status, extra = self._ranged(asked, answer)
        self.send_response(status)
        for name, value in (answer.headers | extra).items():
            self.send_header(name, value)
        if answer.mtime is not None and answer.status == 200:
            self.send_header("Last-Modified", email.utils.formatdate(answer.mtime, usegmt=True))
        if answer.fault == "no-length":
            self.send_header("Connection", "close")
        elif answer.fault != "endless":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if asked.method == "HEAD":
            return
        self._send_body(body, answer.fault)

    def _ranged(self, asked: Asked, answer: Answer) -> tuple[bytes, int, dict[str, str]]:
        wanted = asked.headers.get("Range", "")
        if not wanted.startswith("bytes=") or answer.status != 200:
            return answer.body, answer.status, {}
        start = int(wanted.removeprefix("bytes=").partition("-")[0])
        total = len(answer.body)
        return answer.body[start:], 206, {"Content-Range": f"bytes {start}-{total - 1}/{total}"}

    def _send_body(self, body: bytes, fault: str) -> None:
        if fault in {"truncate", "reset", "hang"}:
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self._break(fault)
            return
        if fault == "endless":
            self._endless()
            return
        if fault in {"drip", "trickle"}:
            # A byte at a time, or just so much that something keeps coming.
            size, seconds = (1, 0.05) if fault == "drip" else (1100, 0.1)
            for at in range(0, len(body), size):
                if self.server.closing.wait(seconds):
                    break
                self.wfile.write(body[at : at + size])
                self.wfile.flush()
            return
        if fault == "flip" and body:
            body = body[:-1] + bytes([body[-1] ^ 1])
        self.wfile.write(body)
        if fault == "no-length":
            self.close_connection = True

    def _break(self, fault: str) -> None:
        self.close_connection = True
        if fault == "hang":
            self.server.closing.wait(30)
        if fault == "reset":
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.connection.close()

    def _endless(self) -> None:
        self.close_connection = True
        try:
            for _ in range(1 << 14):
                if self.server.closing.is_set():
                    return
                self.wfile.write(bytes(1 << 16))
        except OSError:
            return


class ScriptedServer(ThreadingHTTPServer):
    """Listens on 127.0.0.1; `script` decides each answer, `pages` answers what it leaves."""

    daemon_threads = True

    def __init__(self, script: Script | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script = script
        self.pages: dict[str, Answer] = {}
        self.asked: list[Asked] = []
        self.lock = threading.Lock()
        self.closing = threading.Event()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def answer(self, asked: Asked) -> Answer | None:
        answer = self.script(asked) if self.script else None
        return answer or self.pages.get(asked.path)

    def put_json(self, path: str, data: object) -> None:
        self.pages[path] = Answer(json.dumps(data).encode(), mtime=None)

    def handle_error(self, *_: object) -> None:
        """Say nothing: a client that goes away is what these tests are about."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self.shutdown()
        self.server_close()
