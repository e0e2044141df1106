"""The boot medium: a kernel over IPv4, with the TLS that iPXE knows (threefoldtech/ipxe).

Sources: src/config/general.h (no IPv6), src/crypto/mishmash (suites), src/config/crypto.h;
0-bootstrap, templates/boot.ipxe (three tries, then a reboot).
"""

import http.client
import re
import ssl
from typing import Final
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from tests.sandbox.node.mirror import Mirror
from tests.sandbox.node.network import Network
from tests.sandbox.node.report import NodeError, Phase
from tests.sandbox.node.web import Connection, Web

TRIES: Final = 3
_SUITES: Final = (
    *("ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-RSA-AES256-GCM-SHA384"),
    *("ECDHE-RSA-AES128-SHA256", "ECDHE-RSA-AES256-SHA384"),
    *("ECDHE-RSA-AES128-SHA", "ECDHE-RSA-AES256-SHA"),
    *("DHE-RSA-AES128-GCM-SHA256", "DHE-RSA-AES256-GCM-SHA384"),
    *("DHE-RSA-AES128-SHA256", "DHE-RSA-AES256-SHA256", "DHE-RSA-AES128-SHA", "DHE-RSA-AES256-SHA"),
    *("AES128-GCM-SHA256", "AES256-GCM-SHA384", "AES128-SHA256", "AES256-SHA256"),
    *("AES128-SHA", "AES256-SHA"),
)
# A Linux kernel with an EFI stub is a PE image: every boot.efi begins so.
KERNEL_MAGIC: Final = b"MZ"
_FETCH: Final = re.compile(r"^imgfetch\b.*?\s(https?://\S+)", re.MULTILINE)


def tls(mirror: Mirror) -> ssl.SSLContext:
    """Return iPXE's TLS: at most 1.2, RSA only. Raises OSError for a missing authority."""
    context = ssl.create_default_context(cafile=mirror.ca_file)
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(":".join(_SUITES))
    return context


class Medium:
    """A boot medium that a mirror made, started on a machine of a farm."""

    def __init__(self, mirror: Mirror, timeout_seconds: float = 30) -> None:
        self.phase = Phase("medium", 4)
        self._mirror = mirror
        self._network = Network(mirror.names, 4, timeout_seconds)

    def boot(self, mode: str, farm: str = "1") -> None:
        """Fetch a run mode's kernel as media do that were made here, encrypted and plain."""
        mirror = self._mirror
        kernels = [self._from(base, mode, farm) for base in (mirror.bootstrap, mirror.unsecure)]
        if None not in kernels and len(set(kernels)) > 1:
            self.phase.fail(f"{mode}: another kernel over plain http", unseen=True)

    def _from(self, base: str | None, mode: str, farm: str) -> bytes | None:
        """Boot a medium made under this name of the server; None where that failed."""
        kernel = None
        if base is not None:
            with self.phase.trying():
                kernel = self._kernel(self._url(base, mode, farm), tls(self._mirror))
        return kernel

    def _url(self, base: str, mode: str, farm: str) -> str:
        """Return the kernel that the boot script names, as it was asked for by its maker."""
        asked = f"{base}/ipxe/{mode}/{farm}"
        web = Web(self._network, self._mirror.tls, self.phase)
        named = _FETCH.search(web.once(asked).ok().body.decode("utf-8", "replace"))
        wanted = f"{base}/kernel/net/{mode}.efi"
        if named is None or named[1] != wanted:
            raise NodeError(f"{asked}: the script fetches {named and named[1]}, not {wanted}")
        return wanted

    def _kernel(self, url: str, context: ssl.SSLContext) -> bytes:
        """Fetch a kernel in at most three tries."""
        last = ""
        for _ in range(TRIES):
            try:
                return self._once(url, context)
            except (OSError, http.client.HTTPException, NodeError) as error:
                last = str(error) or type(error).__name__
                self.phase.note(f"GET {url}", last)
        raise NodeError(f"{url}: {last}, {TRIES} times: the machine reboots")

    def _once(self, url: str, context: ssl.SSLContext) -> bytes:
        connection = Connection(url, self._network, context)
        try:
            connection.connect()
            _rsa(connection.certificate())
            answer = connection.get(url)
        finally:
            connection.close()
        if answer.moved and urlsplit(answer.location).scheme != urlsplit(url).scheme:
            raise NodeError(f"led to {answer.location}, which this medium is not made for")
        if answer.status != http.HTTPStatus.OK:
            raise NodeError(answer.words)
        if not answer.body.startswith(KERNEL_MAGIC):
            raise NodeError(f"what came begins with {answer.body[:8]!r}, which is no kernel")
        self.phase.note(f"GET {url}", f"status 200, {len(answer.body)} bytes")
        self.phase.done += 1
        return answer.body


def _rsa(certificate: bytes | None) -> None:
    if certificate is None:
        return
    key = x509.load_der_x509_certificate(certificate).public_key()
    if not isinstance(key, RSAPublicKey):
        raise NodeError(f"the certificate's key is {type(key).__name__}, not RSA")
