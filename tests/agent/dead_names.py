"""Names of a master that died, each in one of the ways in which a name can."""

import contextlib
import selectors
import socket
import ssl
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.agent.scripted import Answer, ScriptedServer

# RFC 6761: never a host.
NOWHERE = "hub.invalid"
_BACKLOG = 8


@dataclass(frozen=True)
class Dead:
    """Where nobody answers, and what is said of it; https: it shows in a TLS handshake only."""

    host: str
    port: int
    says: str
    https: bool = False

    @property
    def url(self) -> str:
        return f"{'https' if self.https else 'http'}://{self.host}:{self.port}"


def no_such_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the resolver know no host NOWHERE, whatever the network of the test is."""
    resolve = socket.getaddrinfo

    def answer(host: str, *rest: Any, **options: Any) -> Any:
        if host == NOWHERE:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return resolve(host, *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", answer)


@contextmanager
def _refused() -> Iterator[Dead]:
    with socket.create_server(("127.0.0.1", 0)) as once:
        port = once.getsockname()[1]
    yield Dead("127.0.0.1", port, "refused")


@contextmanager
def _no_connection() -> Iterator[Dead]:
    """Drop every SYN: the queue of a listener that accepts nobody is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(_BACKLOG):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield Dead("127.0.0.1", listener.getsockname()[1], "")


@contextmanager
def _served(meet: Callable[[socket.socket], None], says: str, *, https: bool) -> Iterator[Dead]:
    """Accept connections on a thread; `meet` does with each what it wants, and ends it."""
    stopping, wake = socket.socketpair()
    with socket.create_server(("127.0.0.1", 0)) as listener, stopping, wake:

        def accept() -> None:
            with selectors.DefaultSelector() as selector, contextlib.ExitStack() as kept:
                selector.register(listener, selectors.EVENT_READ)
                selector.register(stopping, selectors.EVENT_READ)
                while all(key.fileobj is listener for key, _ in selector.select()):
                    client = kept.enter_context(listener.accept()[0])
                    # Gone already: whoever asked did not wait for the end.
                    with contextlib.suppress(OSError):
                        meet(client)

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield Dead("127.0.0.1", listener.getsockname()[1], says, https)
        finally:
            wake.send(b"!")
            thread.join(5)


def _reset(client: socket.socket) -> None:
    client.recv(1)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def _close(client: socket.socket) -> None:
    client.recv(1 << 16)
    client.shutdown(socket.SHUT_RDWR)


def _say_plainly(client: socket.socket) -> None:
    """Answer a TLS greeting as a plain web server does."""
    client.recv(1 << 16)
    client.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
    client.shutdown(socket.SHUT_RDWR)


def _keep_silent(client: socket.socket) -> None:
    """Leave it open until the end."""
    del client


@contextmanager
def _no_address() -> Iterator[Dead]:
    yield Dead(NOWHERE, 9, "not known")


# What both a web server and a 0-db can die of.
OF_ANY: dict[str, Callable[[], AbstractContextManager[Dead]]] = {
    "DNS": _no_address,
    "refused": _refused,
    "no connection in time": _no_connection,
    "reset before an answer": lambda: _served(_reset, "", https=False),
    "closed before an answer": lambda: _served(_close, "closed", https=False),
    "silence": lambda: _served(_keep_silent, "", https=False),
}


@contextmanager
def _answering(answer: Answer, says: str) -> Iterator[Dead]:
    with ScriptedServer(lambda _: answer) as server:
        yield Dead("127.0.0.1", server.server_address[1], says)


def _certificate(path: Path) -> None:
    """Write a key and a certificate that ended, of nobody's authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "hub.example")])
    ended = datetime(2025, 6, 1, tzinfo=UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name)
    builder = builder.public_key(key.public_key()).serial_number(1)
    builder = builder.not_valid_before(ended - timedelta(days=90)).not_valid_after(ended)
    encoding = serialization.Encoding.PEM
    plain = serialization.NoEncryption()
    private = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, plain)
    path.write_bytes(private + builder.sign(key, hashes.SHA256()).public_bytes(encoding))


@contextmanager
def _wrong_certificate() -> Iterator[Dead]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "hub.pem")
        _certificate(path)
        context.load_cert_chain(path)

    def greet(client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            context.wrap_socket(client, server_side=True)

    with _served(greet, "certificate", https=True) as dead:
        yield dead


def _elsewhere() -> AbstractContextManager[Dead]:
    headers = {"Location": "https://parked.example/"}
    return _answering(Answer(status=302, headers=headers), "redirected")


OF_HTTP: dict[str, Callable[[], AbstractContextManager[Dead]]] = {
    **OF_ANY,
    "no TLS": lambda: _served(_say_plainly, "no TLS", https=True),
    "a certificate that ended": _wrong_certificate,
    "silence in the TLS handshake": lambda: _served(_keep_silent, "no TLS", https=True),
    "502 for all": lambda: _answering(Answer(status=502), "502"),
    "503 for all": lambda: _answering(Answer(status=503), "503"),
    "503 for an hour": lambda: _answering(
        Answer(status=503, headers={"Retry-After": "3600"}), "503"
    ),
    "504 for all": lambda: _answering(Answer(status=504), "504"),
    "leads elsewhere": _elsewhere,
}
