"""A raw RESP connection for tests: replies as Python values, errors as values too."""

import shutil
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self


@dataclass(frozen=True)
class ErrorReply:
    """A `-…` reply."""

    text: str


class Wire:
    """One connection to a 0-db."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self.socket = socket.create_connection((host, port), 10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file = self.socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        self.socket.close()

    def raw(self, data: bytes) -> Any:
        """Send bytes as they are and read one reply."""
        self.socket.sendall(data)
        return self.read()

    def ask(self, *words: bytes | str | int) -> Any:
        """Send one request and read its reply."""
        return self.raw(encoded(*words))

    def read(self) -> Any:
        """Read one reply; None is nil, EOFError the end of the connection."""
        line = self._file.readline()
        if not line:
            raise EOFError
        rest = line[1:-2]
        match line[:1]:
            case b"-":
                return ErrorReply(rest.decode())
            case b"+":
                return rest.decode()
            case b":":
                return int(rest)
            case b"*":
                return [self.read() for _ in range(int(rest))]
            case _:
                return None if rest == b"-1" else self._file.read(int(rest) + 2)[:-2]


def encoded(*words: bytes | str | int) -> bytes:
    """Encode a request."""
    parts = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(p), p) for p in parts)


def started(command: list[str], port: int, cwd: Path) -> "subprocess.Popen[bytes]":
    """Start a server and wait until its port answers; the caller ends it."""
    process = subprocess.Popen(
        command, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return process
    ended(process)
    raise RuntimeError(f"{command[0]} does not listen on port {port}")


def ended(process: "subprocess.Popen[bytes]") -> None:
    """Kill a process and wait for it."""
    process.kill()
    process.wait(10)


def real_zdbd(named: str | None) -> str | None:
    """Return the real zdbd: the one named, else one on PATH, else None."""
    return named or shutil.which("zdbd")
