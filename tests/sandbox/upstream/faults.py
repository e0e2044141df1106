"""Faults of an HTTP server: what a test wants to go wrong, for which paths, when, how often."""

import re
import threading
import time
from collections import Counter
from dataclasses import dataclass, replace
from typing import Final, Literal

from tests.sandbox.services.http import Connection, Request, Response, text

FaultKind = Literal[
    "status",
    "truncate",
    "flip",
    "reset",
    "hang",
    "html",
    "redirect-loop",
    "endless",
    "slow",
]
_HANG_LIMIT_SECONDS: Final = 600
_ENDLESS_LIMIT_BYTES: Final = 1 << 36
_PAGE: Final = "<!doctype html>\n<title>404 Not Found</title>\n<h1>This page is gone</h1>\n"


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong.

    path: pattern that the whole request path must match. after: matching requests that pass
    first. times: how many are hit, None for all that follow. status: for `status` and `html`.
    retry_after: value of a Retry-After header. at_byte: where `truncate`, `flip` and `reset`
    strike in the body (negative: from its end; None: its middle). bytes_per_second: for `slow`.
    """

    kind: FaultKind
    path: str = ".*"
    after: int = 0
    times: int | None = None
    status: int = 500
    retry_after: str | None = None
    at_byte: int | None = None
    bytes_per_second: int = 65536

    def position(self, size: int) -> int:
        """Return the byte at which the fault strikes in a body of this size."""
        if self.at_byte is None:
            return size // 2
        at = self.at_byte if self.at_byte >= 0 else size + self.at_byte
        return max(0, min(size - 1, at))


class Faults:
    """The faults of one server, applied in the order in which they were added."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: list[Fault] = []
        self._seen: Counter[int] = Counter()
        self._released = threading.Event()
        self.struck: Counter[str] = Counter()

    def add(self, fault: Fault) -> None:
        """Add a fault."""
        with self._lock:
            self._faults.append(fault)
            self._released.clear()

    def clear(self) -> None:
        """Remove every fault and let go of what hangs."""
        with self._lock:
            self._faults.clear()
            self._seen.clear()
            self._released.set()

    def _for(self, request: Request) -> Fault | None:
        with self._lock:
            for number, fault in enumerate(self._faults):
                if not re.fullmatch(fault.path, request.path):
                    continue
                seen = self._seen[number]
                self._seen[number] += 1
                if seen < fault.after:
                    continue
                if fault.times is None or seen < fault.after + fault.times:
                    self.struck[fault.kind] += 1
                    return fault
        return None

    def deliver(self, connection: Connection, request: Request, response: Response) -> bool:
        """Send the response, damaged if a fault says so; False closes the connection."""
        fault = self._for(request)
        if fault is None:
            return connection.send(request, response)
        if fault.kind == "hang":
            self._released.wait(_HANG_LIMIT_SECONDS)
            return False
        if fault.kind in {"status", "html", "redirect-loop"}:
            return connection.send(request, _instead(fault, request))
        if fault.kind == "flip":
            return connection.send(request, _flipped(fault, response))
        if fault.kind == "endless":
            return self._endless(connection, response)
        return self._cut(fault, connection, request, response)

    def _cut(
        self, fault: Fault, connection: Connection, request: Request, response: Response
    ) -> bool:
        """Send part of the body: slowly, then all; or up to a byte and no further."""
        body = b""
        if request.method != "HEAD":
            body = b"".join(response.content.blocks(response.start, response.length))
        connection.socket.sendall(connection.head(response, keep=True))
        if fault.kind == "slow":
            return self._slowly(fault, connection, body)
        connection.socket.sendall(body[: fault.position(len(body))])
        if fault.kind == "reset":
            connection.reset()
        return False

    def _slowly(self, fault: Fault, connection: Connection, body: bytes) -> bool:
        step = max(1, fault.bytes_per_second // 20)
        for start in range(0, len(body), step):
            connection.socket.sendall(body[start : start + step])
            if self._released.wait(0.05):
                return False
        return True

    def _endless(self, connection: Connection, response: Response) -> bool:
        head = connection.head(replace(response, headers=dict(response.headers)), keep=False)
        lines = [line for line in head.split(b"\r\n") if not line.startswith(b"Content-Length")]
        connection.socket.sendall(b"\r\n".join(lines))
        block, sent = b"endless " * 8192, 0
        deadline = time.monotonic() + _HANG_LIMIT_SECONDS
        while sent < _ENDLESS_LIMIT_BYTES and time.monotonic() < deadline:
            if self._released.is_set():
                break
            connection.socket.sendall(block)
            sent += len(block)
        return False


def _instead(fault: Fault, request: Request) -> Response:
    headers = {} if fault.retry_after is None else {"Retry_After": fault.retry_after}
    if fault.kind == "html":
        return text(_PAGE, fault.status, **headers)
    if fault.kind == "redirect-loop":
        return text("", 302, Location=request.path)
    return text("<title>Internal Server Error</title>", fault.status, **headers)


def _flipped(fault: Fault, response: Response) -> Response:
    body = bytearray(b"".join(response.content.blocks(response.start, response.length)))
    if body:
        body[fault.position(len(body))] ^= 1
    content = replace(response.content, data=bytes(body), path=None)
    return replace(response, content=content, start=0, length=None)
