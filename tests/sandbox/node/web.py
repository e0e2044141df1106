"""HTTP GET as a node's programs make it: one kept connection, or a new one for each request."""

import http.client
import ssl
import urllib.parse
from dataclasses import dataclass
from typing import Final

from tests.sandbox.node.network import Network
from tests.sandbox.node.report import NodeError, Phase

_REDIRECTS: Final = 10  # as reqwest and Go's net/http
_MOVED: Final = frozenset({301, 302, 303, 307, 308})
_SAFE: Final = "/:@!$&'()*+,;=~"


@dataclass(frozen=True)
class Answer:
    """url: of the last request, after redirects. status, body: as they came."""

    url: str
    status: int
    body: bytes
    location: str = ""

    @property
    def moved(self) -> bool:
        """Whether it leads elsewhere."""
        return self.status in _MOVED

    def ok(self) -> "Answer":
        """Return itself; raises NodeError unless the status is 200."""
        if self.status != http.HTTPStatus.OK:
            raise NodeError(f"{self.url}: {self.words}")
        return self

    @property
    def words(self) -> str:
        """What came."""
        if self.moved:
            return f"status {self.status}, led to {self.location or 'nowhere'}"
        return f"status {self.status}"


class Connection(http.client.HTTPConnection):
    """Connects where the network leads; TLS (where it is given) is for the name that was asked."""

    def __init__(self, url: str, network: Network, tls: ssl.SSLContext | None) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise NodeError(f"{url!r} is no http or https URL")
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
        super().__init__(parts.hostname, port)
        self.base = (parts.scheme, parts.netloc)
        # As a node writes it: without the port where that is the scheme's own.
        self._host_header = parts.netloc
        self._network, self._tls = network, tls if parts.scheme == "https" else None

    def connect(self) -> None:
        """Connect; raises NodeError where no address takes it, OSError where TLS fails."""
        self.sock = self._network.connect(self.host, self.port)
        if self._tls is not None:
            self.sock = self._tls.wrap_socket(self.sock, server_hostname=self.host)

    def certificate(self) -> bytes | None:
        """Return the server's certificate (DER) of the open connection."""
        return self.sock.getpeercert(True) if isinstance(self.sock, ssl.SSLSocket) else None

    def get(self, url: str, headers: dict[str, str] | None = None) -> Answer:
        """Ask once, without following anything; raises OSError or HTTPException."""
        target = urllib.parse.urlsplit(url)
        path = target.path + (f"?{target.query}" if target.query else "")
        self.request("GET", path or "/", headers={"Host": self._host_header, **(headers or {})})
        response = self.getresponse()
        return Answer(url, response.status, response.read(), response.headers.get("Location", ""))


@dataclass
class Web:
    """Asks over https and http. keep: one connection per server, as Go's client has it.

    Whatever is asked is noted in `phase`.
    """

    network: Network
    tls: ssl.SSLContext
    phase: Phase
    keep: bool = False

    def __post_init__(self) -> None:
        self._open: dict[tuple[str, str], Connection] = {}

    def get(self, url: str) -> Answer:
        """Return the answer, redirects followed; raises NodeError where none comes."""
        for _ in range(_REDIRECTS + 1):
            answer = self.once(url)
            if not answer.moved:
                return answer
            url = urllib.parse.urljoin(url, answer.location)
        raise NodeError(f"{url}: more than {_REDIRECTS} redirects")

    def once(self, url: str) -> Answer:
        """Return the answer to one request; raises NodeError where none comes."""
        made = Connection(url, self.network, self.tls)
        connection = self._open.pop(made.base, made)
        reused = connection is not made
        try:
            answer = connection.get(url)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            if reused:  # the server may have closed it while it was idle
                return self.once(url)
            words = str(error) or type(error).__name__
            self.phase.note(f"GET {url}", words)
            raise NodeError(f"{url}: {words}") from error
        self.phase.note(f"GET {url}", f"{answer.words}, {len(answer.body)} bytes")
        if self.keep and connection.sock is not None:
            self._open[made.base] = connection
        else:
            connection.close()
        return answer

    def close(self) -> None:
        """Close what is kept."""
        while self._open:
            self._open.popitem()[1].close()


def quoted(path: str) -> str:
    """Return a path as it stands in a URL."""
    return urllib.parse.quote(path, safe=_SAFE)
