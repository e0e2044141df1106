"""A mirror's edge over the stand-ins: plain and encrypted, all names on the same two ports."""

import datetime as dt
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests.sandbox.flist import Backend
from tests.sandbox.node import Mirror
from tests.sandbox.services.http import Application, HttpServer, Request, Response
from tests.sandbox.upstream import Faults, Upstream, UpstreamModel

DOMAIN = "grid.test"
LOOPBACKS = ("127.0.0.1", "::1")
Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


class Certificate:
    """A certificate that signs itself: its file, and a server's context with it."""

    def __init__(self, place: Path, key: Key, names: Sequence[str]) -> None:
        self.file, key_file = place.with_suffix(".pem"), place.with_suffix(".key")
        self.file.write_bytes(_signed(key, names).public_bytes(serialization.Encoding.PEM))
        key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(self.file, key_file)


def _signed(key: Key, names: Sequence[str]) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, names[0])])
    now, day = dt.datetime.now(dt.UTC), dt.timedelta(days=1)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - day)
        .not_valid_after(now + day)
        .add_extension(x509.SubjectAlternativeName(list(map(x509.DNSName, names))), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )


@dataclass(frozen=True)
class Certificates:
    """rsa: as boot media need it. ecdsa: as most servers have it. stranger: of another name."""

    rsa: Certificate
    ecdsa: Certificate
    stranger: Certificate


class Edge:
    """A running mirror on both loopbacks; a context manager.

    plain_faults, tls_faults: what goes wrong on the plain port, and on the encrypted one.
    """

    def __init__(self, model: UpstreamModel, certificate: Certificate) -> None:
        self.model, self.certificate = model, certificate
        self.upstream = Upstream(model, LOOPBACKS)
        # What is packed from now on names this mirror's 0-db.
        model.backend = Backend(f"hub.{DOMAIN}", self.upstream.zdb.port)
        self.plain_faults, self.tls_faults = Faults(), Faults()
        self.plain = _on_both(self._by_name)
        self.tls = _on_both(self._by_name)
        for plain, tls in zip(self.plain, self.tls, strict=True):
            plain.deliver, tls.deliver = self.plain_faults.deliver, self.tls_faults.deliver
        self.present(certificate)

    def present(self, certificate: Certificate) -> None:
        """Show this certificate from the next connection on."""
        for server in self.tls:
            server.tls = certificate.context

    def _by_name(self, request: Request) -> Response:
        name = request.headers.get("host", "").partition(":")[0]
        api = self.upstream.hub_api if name == f"hub.{DOMAIN}" else self.upstream.bootstrap_api
        with self.model.lock:
            return api(request)

    @property
    def mirror(self) -> Mirror:
        """The mirror as a node knows it; flists without a backend lead to it too."""
        known = Mirror.of_domain(
            DOMAIN,
            LOOPBACKS,
            https=self.tls[0].port,
            http=self.plain[0].port,
            zdb=self.upstream.zdb.port,
            ca_file=self.certificate.file,
        )
        return replace(known, default_store=self.model.backend)

    def well(self) -> None:
        """Take all faults away."""
        self.plain_faults.clear()
        self.tls_faults.clear()
        self.present(self.certificate)

    def __enter__(self) -> Self:
        self.upstream.start()
        for server in (*self.plain, *self.tls):
            server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.well()
        for server in (*self.plain, *self.tls):
            server.stop()
        self.upstream.stop()


def _on_both(application: Application) -> tuple[HttpServer, HttpServer]:
    first = HttpServer(application, LOOPBACKS[0])
    return first, HttpServer(application, LOOPBACKS[1], first.port)
