"""Image tags to digests, asked of an OCI registry (distribution-spec: HEAD manifests)."""

import re
import socket
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import NewConnectionError

from sync.contract.dialing import dial

# The index of a multi-platform image is wanted, so that one pin serves every processor.
_ACCEPTED: Final = (
    "application/vnd.oci.image.index.v1+json, "
    "application/vnd.docker.distribution.manifest.list.v2+json, "
    "application/vnd.oci.image.manifest.v1+json, "
    "application/vnd.docker.distribution.manifest.v2+json"
)
_SECONDS: Final = 20
_DOCKER_HUB: Final = "docker.io"
_DOCKER_HUB_API: Final = "registry-1.docker.io"
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_PARAMETER: Final = re.compile(r'(\w+)="([^"]*)"')


class RegistryError(Exception):
    """The registry gives no digest; `str()` says why and what to do."""


class _Connection(HTTPConnection):
    """By whichever address of a name answers first: urllib3 waits for each in turn."""

    def _new_conn(self) -> socket.socket:
        try:
            return dial(self._dns_host, self.port, _SECONDS)
        except OSError as error:
            raise NewConnectionError(self, error.strerror or str(error)) from error


class _TlsConnection(_Connection, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *sizes: Any, **options: Any) -> None:
        super().init_poolmanager(*sizes, **options)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}


def open_session() -> requests.Session:
    """Return a session for a few questions to registries."""
    session = requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, _Adapter())
    return session


@dataclass(frozen=True)
class ImageName:
    """An image by tag: registry (host[:port]), repository, tag."""

    registry: str
    repository: str
    tag: str

    @classmethod
    def parse(cls, text: str) -> "ImageName":
        """Read NAME[:TAG][@DIGEST] as Docker does: no registry means Docker Hub."""
        plain = text.partition("@")[0]
        first, slash, rest = plain.partition("/")
        if not slash or not (set(".:") & set(first) or first == "localhost"):
            first, rest = _DOCKER_HUB, plain if slash else f"library/{plain}"
        repository, colon, tag = rest.rpartition(":")
        return cls(first, repository if colon else rest, tag if colon else "latest")

    def __str__(self) -> str:
        return f"{self.registry}/{self.repository}:{self.tag}"


def digest_of(image: ImageName, session: requests.Session) -> str:
    """Return `sha256:…` of the image's index (or of its manifest, if it has no index).

    Raises RegistryError. Plain http is spoken with a registry on loopback only.
    """
    url = f"{_api(image.registry)}/v2/{image.repository}/manifests/{image.tag}"
    try:
        response = _head(session, url, "")
        if response.status_code == HTTPStatus.UNAUTHORIZED:
            token = _token(session, image, response.headers.get("WWW-Authenticate", ""))
            response = _head(session, url, token)
    except requests.RequestException as error:
        raise RegistryError(
            f"{image}: {image.registry} cannot be reached ({error}); pin where it can be"
        ) from error
    if response.status_code == HTTPStatus.NOT_FOUND:
        raise RegistryError(f"{image}: the registry has no such tag; check the name")
    if response.status_code != HTTPStatus.OK:
        raise RegistryError(
            f"{image}: the registry answers {response.status_code}; a private image needs its "
            "digest in the stack file by hand"
        )
    digest = response.headers.get("Docker-Content-Digest", "")
    if not _DIGEST.fullmatch(digest):
        raise RegistryError(f"{image}: the registry names no sha256 digest; pin it by hand")
    return digest


def _api(registry: str) -> str:
    host = _DOCKER_HUB_API if registry == _DOCKER_HUB else registry
    loopback = host.rpartition(":")[0] in ("localhost", "127.0.0.1", "[::1]")
    return f"{'http' if loopback else 'https'}://{host}"


def _head(session: requests.Session, url: str, token: str) -> requests.Response:
    headers = {"Accept": _ACCEPTED} | ({"Authorization": f"Bearer {token}"} if token else {})
    return session.head(url, headers=headers, timeout=_SECONDS, allow_redirects=True)


def _token(session: requests.Session, image: ImageName, challenge: str) -> str:
    """Get an anonymous token from the server that the challenge names."""
    scheme, _space, rest = challenge.partition(" ")
    parameters = dict(_PARAMETER.findall(rest))
    realm = parameters.pop("realm", "")
    if scheme.lower() != "bearer" or not realm.startswith(("https://", "http://127.0.0.1:")):
        raise RegistryError(f"{image}: the registry wants a login of a kind that is not known here")
    asked = {
        "service": parameters.get("service", ""),
        "scope": parameters.get("scope", f"repository:{image.repository}:pull"),
    }
    response = session.get(realm, params=asked, timeout=_SECONDS)
    if response.status_code != HTTPStatus.OK:
        raise RegistryError(f"{image}: no anonymous token ({response.status_code}); is it private?")
    try:
        answer = response.json()
        return str(answer.get("token") or answer["access_token"])
    except (ValueError, KeyError, AttributeError) as error:
        raise RegistryError(f"{image}: {realm} answers with no token") from error
