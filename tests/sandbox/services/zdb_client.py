"""A plain 0-db client: what the hub and a booting node need of the protocol."""

import hashlib
import socket
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

Reply = bytes | int | str | list["Reply"] | None


class ZdbError(Exception):
    """The 0-db refused, or is not there."""


class ZdbClient:
    """One connection, blocking, requests answered in order."""

    def __init__(self, host: str, port: int, timeout_seconds: float = 30) -> None:
        try:
            self._socket = socket.create_connection((host, port), timeout_seconds)
        except OSError as error:
            raise ZdbError(f"0-db {host}:{port} does not answer: {error}") from error
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file = self._socket.makefile("rb", buffering=1 << 16)

    def close(self) -> None:
        """Close the connection."""
        self._file.close()
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def send(self, *arguments: bytes | str | int) -> None:
        """Send one request without waiting for its reply."""
        words = [word if isinstance(word, bytes) else str(word).encode() for word in arguments]
        parts = [b"*%d\r\n" % len(words), *(b"$%d\r\n%b\r\n" % (len(w), w) for w in words)]
        self._socket.sendall(b"".join(parts))

    def command(self, *arguments: bytes | str | int) -> Reply:
        """Send one request and return its reply; raises ZdbError for an error reply."""
        self.send(*arguments)
        return self.reply()

    def reply(self) -> Reply:
        """Read one reply."""
        line = self._file.readline()
        if not line.endswith(b"\r\n"):
            raise ZdbError("0-db closed the connection")
        sign, rest = line[:1], line[1:-2]
        if sign == b"-":
            raise ZdbError(rest.decode("utf-8", "replace"))
        if sign == b"+":
            return rest.decode()
        if sign == b":":
            return int(rest)
        if sign == b"*":
            return [self.reply() for _ in range(int(rest))]
        return self._bulk(int(rest))

    def _bulk(self, length: int) -> bytes | None:
        if length < 0:
            return None
        data: bytes = self._file.read(length + 2)
        if len(data) != length + 2:
            raise ZdbError("0-db closed the connection in mid-reply")
        return data[:-2]

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
