"""Plain 0-db clients: of the bare protocol, and what the hub and a booting node need of it."""

import hashlib
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

Reply = bytes | int | str | list["Reply"] | None


@dataclass(frozen=True)
class ErrorReply:
    """A `-…` reply."""

    text: str


class ZdbError(Exception):
    """The 0-db refused, or is not there."""


class Wire:
    """One connection, blocking, requests answered in order: errors are values like any reply."""

    def __init__(self, port: int, host: str = "127.0.0.1", timeout_seconds: float = 10) -> None:
        self.socket = socket.create_connection((host, port), timeout_seconds)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file = self.socket.makefile("rb", buffering=1 << 16)

    def close(self) -> None:
        """Close the connection."""
        self._file.close()
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, *words: bytes | str | int) -> None:
        """Send one request without waiting for its reply."""
        self.socket.sendall(encoded(*words))

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
        if not line.endswith(b"\r\n"):
            raise EOFError
        rest = line[1:-2]
        match line[:1]:
            case b"-":
                return ErrorReply(rest.decode("utf-8", "replace"))
            case b"+":
                return rest.decode()
            case b":":
                return int(rest)
            case b"*":
                return [self.read() for _ in range(int(rest))]
            case _:
                return self._bulk(int(rest))

    def _bulk(self, length: int) -> bytes | None:
        if length < 0:
            return None
        data: bytes = self._file.read(length + 2)
        if len(data) != length + 2:
            raise EOFError
        return data[:-2]


def encoded(*words: bytes | str | int) -> bytes:
    """Encode a request."""
    parts = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(p), p) for p in parts)


class ZdbClient(Wire):
    """One connection whose errors are raised."""

    def __init__(self, host: str, port: int, timeout_seconds: float = 30) -> None:
        try:
            super().__init__(port, host, timeout_seconds)
        except OSError as error:
            raise ZdbError(f"0-db {host}:{port} does not answer: {error}") from error

    def command(self, *arguments: bytes | str | int) -> Reply:
        """Send one request and return its reply; raises ZdbError for an error reply."""
        self.send(*arguments)
        return self.reply()

    def reply(self) -> Reply:
        """Read one reply; raises ZdbError for an error, also one in a list."""
        try:
            found: Reply = self.read()
        except EOFError:
            raise ZdbError("0-db closed the connection") from None
        for part in found if isinstance(found, list) else [found]:
            if isinstance(part, ErrorReply):
                raise ZdbError(part.text)
        return found

    def authenticate(self, password: str) -> None:
        """Become admin without sending the password itself."""
        self.command("AUTH", "SECURE", self._proof(password))

    def select(self, namespace: str, password: str | None = None) -> None:
        """Choose a namespace; with its password, for writing."""
        if password is None:
            self.command("SELECT", namespace)
        else:
            self.command("SELECT", namespace, "SECURE", self._proof(password))

    def _proof(self, password: str) -> str:
        challenge = str(self.command("AUTH", "SECURE", "CHALLENGE"))
        return hashlib.sha1(f"{challenge}:{password}".encode(), usedforsecurity=False).hexdigest()

    def get_many(self, keys: Sequence[bytes], batch_keys: int = 64) -> Iterator[bytes | None]:
        """Yield the payload of each key in order, None where there is none."""
        for start in range(0, len(keys), batch_keys):
            found = self.command("MGET", *keys[start : start + batch_keys])
            if not isinstance(found, list):
                raise ZdbError("MGET was not answered with a list")
            for payload in found:
                if payload is not None and not isinstance(payload, bytes):
                    raise ZdbError("MGET was not answered with payloads")
                yield payload
