"""HTTP GET with names resolved by hand: to reach a mirror whose DNS records do not exist yet."""

import http.client
import socket
import ssl
import urllib.parse
from pathlib import Path
from typing import Final

_TIMEOUT_SECONDS: Final = 30
_REDIRECTS: Final = 5


class FetchError(Exception):
    """A URL that could not be fetched whole."""


class Resolver:
    """Addresses for names and ports; what it does not know, the system resolves."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int], tuple[str, int]] = {}

    def add(self, name: str, port: int, address: str) -> None:
        """Lead `name:port` to an address, or to `ADDRESS,PORT`."""
        host, _, other = address.partition(",")
        self._known[(name, port)] = (host.strip("[]"), int(other or port))

    def resolve(self, name: str, port: int) -> tuple[str, int]:
        """Return where to connect."""
        return self._known.get((name, port), (name, port))


class _Connection(http.client.HTTPConnection):
    """Connects where the resolver says, and speaks TLS for the name it was asked for."""

    def __init__(self, name: str, port: int, where: tuple[str, int]) -> None:
        super().__init__(name, port, timeout=_TIMEOUT_SECONDS)
        self.where = where
        self.tls: ssl.SSLContext | None = None

    def connect(self) -> None:
        self.sock = socket.create_connection(self.where, _TIMEOUT_SECONDS)
        if self.tls is not None:
            self.sock = self.tls.wrap_socket(self.sock, server_hostname=self.host)


class Fetcher:
    """Fetches URLs; keeps one connection per server."""

    def __init__(self, resolver: Resolver | None = None, ca_file: Path | None = None) -> None:
        self._resolver = resolver or Resolver()
        self._tls = ssl.create_default_context(cafile=ca_file)
        self._open: dict[tuple[str, str, int], _Connection] = {}

    def get(self, url: str) -> bytes:
        """Return the body of a 200 answer, redirects followed; raises FetchError."""
        for _ in range(_REDIRECTS):
            answer = self._once(url)
            if isinstance(answer, bytes):
                return answer
            url = urllib.parse.urljoin(url, answer)
        raise FetchError(f"{url}: more than {_REDIRECTS} redirects")

    def _once(self, url: str) -> bytes | str:
        """Return the body, or where a redirect leads."""
        parts = urllib.parse.urlsplit(url)
        reused = (parts.scheme, *_endpoint(parts)) in self._open
        try:
            response, body = self._answer(parts)
        except (OSError, http.client.HTTPException) as error:
            self._forget(parts)
            if reused:  # the server may have closed it while it was idle
                return self._once(url)
            raise FetchError(f"{url}: {error or type(error).__name__}") from error
        if response.status in {301, 302, 307, 308}:
            return response.headers.get("Location", "")
        if response.status != http.HTTPStatus.OK:
            raise FetchError(f"{url}: status {response.status}")
        return body

    def _answer(self, parts: urllib.parse.SplitResult) -> tuple[http.client.HTTPResponse, bytes]:
        connection = self._connection(parts)
        connection.request("GET", urllib.parse.quote(parts.path, safe="/~+@=,:%") or "/")
        response = connection.getresponse()
        return response, response.read()

    def _connection(self, parts: urllib.parse.SplitResult) -> _Connection:
        name, port = _endpoint(parts)
        key = (parts.scheme, name, port)
        if key not in self._open:
            made = _Connection(name, port, self._resolver.resolve(name, port))
            made.tls = self._tls if parts.scheme == "https" else None
            self._open[key] = made
        return self._open[key]

    def _forget(self, parts: urllib.parse.SplitResult) -> None:
        connection = self._open.pop((parts.scheme, *_endpoint(parts)), None)
        if connection is not None:
            connection.close()


def _endpoint(parts: urllib.parse.SplitResult) -> tuple[str, int]:
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise FetchError(f"{parts.geturl()!r} is no http or https URL")
    return parts.hostname, parts.port or {"http": 80, "https": 443}[parts.scheme]
