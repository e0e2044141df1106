"""The kinds of value a setting can have, each with the sentence that says what is wrong with it."""

import ipaddress
import re
from pathlib import PurePosixPath
from typing import Annotated, Final, TypeAlias, TypeVar
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field

from sync.contract.names import RefusedNameError, checked_plain
from sync.contract.spec import MOST_SOURCES
from sync.contract.zdb_memory import LEAST_MIB

_LABEL: Final = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_DOMAIN: Final = re.compile(rf"({_LABEL}\.)+{_LABEL}")
_HOST: Final = re.compile(rf"({_LABEL}\.)*{_LABEL}", re.IGNORECASE)
_EMAIL: Final = re.compile(rf"[A-Za-z0-9._%+-]+@({_LABEL}\.)+{_LABEL}", re.IGNORECASE)
_REPOSITORY: Final = r"[a-z0-9]+([._-][a-z0-9]+)*(:[0-9]+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)*"
_TAG: Final = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}"
_BY_DIGEST: Final = re.compile(rf"{_REPOSITORY}(:{_TAG})?@sha256:[0-9a-f]{{64}}")
_LOCAL: Final = re.compile(rf"localhost/{_REPOSITORY}:{_TAG}")
# Folders of the system itself: a data root there would take over what is not ours.
_SYSTEM_FOLDERS: Final = (
    *("bin", "boot", "dev", "etc", "home", "lib", "lib64", "opt", "proc", "root", "run"),
    *("sbin", "sys", "tmp", "usr", "var"),
)
_SYSTEM: Final = frozenset(["/", *(f"/{name}" for name in _SYSTEM_FOLDERS)])
# Nothing below these is anybody's to fill; below the others storage may well be mounted.
_SYSTEM_TREES: Final = tuple(
    f"/{name}/"
    for name in ("bin", "boot", "dev", "etc", "lib", "lib64", "proc", "sbin", "sys", "usr")
)
# RFC 3986 without the apostrophe: what passes a Caddyfile and a shell's quotes, and no line break,
# which urlsplit would drop in silence.
_URL: Final = re.compile(r"[A-Za-z0-9._~:/?#@!$&()*+,;=%\[\]-]+")
SMALLEST_IPV4: Final = 28
LARGEST_IPV4: Final = 16
SMALLEST_IPV6: Final = 112
LARGEST_IPV6: Final = 48


def _domain(value: str) -> str:
    if not _DOMAIN.fullmatch(value) or value.rsplit(".", 1)[1].isdigit():
        raise ValueError("is not a domain name; give it in lower case, as in grid.example.org")
    return value


def _host(value: str) -> str:
    if not _HOST.fullmatch(value) and not _is_address(value):
        raise ValueError("is neither a host name nor an IP address (IPv6 without brackets)")
    return value


def _is_address(value: str) -> bool:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return True


def _email(value: str) -> str:
    if not _EMAIL.fullmatch(value):
        raise ValueError("is not an e-mail address")
    return value


def _split(value: str, wanted: str) -> SplitResult:
    """Split a URL; ValueError where it is none, or its port is none."""
    if not _URL.fullmatch(value):
        raise ValueError(f"is not {wanted}")
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        raise ValueError(f"is not {wanted}") from None
    if port == 0:
        raise ValueError(f"is not {wanted}")
    return parts


def _http_url(value: str) -> str:
    wanted = "an http:// or https:// URL without query"
    parts = _split(value, wanted)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(f"is not {wanted}")
    if parts.username or parts.password:
        raise ValueError("must not hold a user name or password; no master asks for one")
    return value.rstrip("/")


def _one_or_more_urls(value: object) -> object:
    """Take a single URL as a list of one."""
    return [_http_url(value)] if isinstance(value, str) else value


_AnyItem = TypeVar("_AnyItem")


def in_order(values: list[_AnyItem]) -> list[_AnyItem]:
    """Return names in order of preference where they are some and distinct. Raises ValueError."""
    if not values:
        raise ValueError("names none; name at least one, or remove the key")
    if len(values) > MOST_SOURCES:
        raise ValueError(f"names more than {MOST_SOURCES}; keep those that are needed")
    if any(value in values[:number] for number, value in enumerate(values)):
        raise ValueError("names one of them twice; remove it")
    return values


def _authority(value: str) -> str:
    if value in {"letsencrypt", "letsencrypt-staging", "internal"}:
        return value
    wanted = "letsencrypt, letsencrypt-staging, internal or an https:// URL"
    parts = _split(value, wanted)
    if parts.scheme != "https" or not parts.hostname:
        raise ValueError(f"is not {wanted}")
    return value


def _docker_host(value: str) -> str:
    wanted = "unix:///PATH or ssh://USER@HOST[:PORT]"
    parts = _split(value, wanted)
    if parts.scheme == "unix" and not parts.netloc and parts.path.startswith("/"):
        return value
    if parts.scheme == "ssh" and parts.hostname and parts.username and parts.path in {"", "/"}:
        if parts.password:
            raise ValueError("must not hold a password; use a key (host.sshKeyPath)")
        return value.rstrip("/")
    raise ValueError(f"is not {wanted}")


def _absolute(value: str) -> str:
    path = PurePosixPath(value)
    if not path.is_absolute() or ".." in path.parts or "\0" in value:
        raise ValueError("is not an absolute path without `..`")
    return f"/{str(path).lstrip('/')}"  # POSIX lets two slashes mean something else


def _data_root(value: str) -> str:
    path = _absolute(value)
    if path in _SYSTEM or path.startswith(_SYSTEM_TREES):
        raise ValueError("is a folder of the system; choose one of its own, such as /srv")
    if not re.fullmatch(r"[A-Za-z0-9._/-]+", path):
        raise ValueError("holds characters other than letters, digits and ._-/")
    return path


def _image(value: str) -> str:
    if not _BY_DIGEST.fullmatch(value) and not _LOCAL.fullmatch(value):
        raise ValueError(
            "is not pinned; `make pin-images STACK=stacks/Pulumi.<stack>.yaml` adds the digest; "
            "for an image built on the host give localhost/NAME:TAG"
        )
    return value


def _ipv4(value: str) -> str:
    try:
        return str(ipaddress.IPv4Address(value))
    except ValueError:
        raise ValueError("is not an IPv4 address") from None


def _ipv6(value: str) -> str:
    try:
        return str(ipaddress.IPv6Address(value))
    except ValueError:
        raise ValueError("is not an IPv6 address") from None


def _ipv4_subnet(value: str) -> str:
    try:
        network = ipaddress.IPv4Network(value)
    except ValueError:
        raise ValueError("is not an IPv4 subnet such as 10.99.0.0/24") from None
    if not network.is_private or not LARGEST_IPV4 <= network.prefixlen <= SMALLEST_IPV4:
        raise ValueError("is not a private subnet of /16 to /28")
    return str(network)


def _ipv6_subnet(value: str) -> str:
    try:
        network = ipaddress.IPv6Network(value)
    except ValueError:
        raise ValueError("is not an IPv6 subnet such as fd00:9900::/64") from None
    if not LARGEST_IPV6 <= network.prefixlen <= SMALLEST_IPV6:
        raise ValueError("is not a subnet of /48 to /112")
    return str(network)


def _plain_name(value: str) -> str:
    try:
        return checked_plain(value, "setting")
    except RefusedNameError:
        raise ValueError("is not a plain name (letters, digits, ._+@:~=,-)") from None


def _zdb_memory(value: int) -> int:
    if value < LEAST_MIB:
        raise ValueError(
            f"MB is less than 0-db takes without a single key; give {LEAST_MIB} or more, 130 bytes "
            "for each key"
        )
    return value


Domain = Annotated[str, AfterValidator(_domain)]
Host = Annotated[str, AfterValidator(_host)]
Email = Annotated[str, AfterValidator(_email)]
HttpUrl = Annotated[str, AfterValidator(_http_url)]
HttpUrls = Annotated[list[HttpUrl], AfterValidator(in_order), BeforeValidator(_one_or_more_urls)]
CertificateAuthority = Annotated[str, AfterValidator(_authority)]
DockerHost = Annotated[str, AfterValidator(_docker_host)]
AbsolutePath = Annotated[str, AfterValidator(_absolute)]
DataRoot = Annotated[str, AfterValidator(_data_root)]
ImageReference = Annotated[str, AfterValidator(_image)]
Ipv4 = Annotated[str, AfterValidator(_ipv4)]
Ipv6 = Annotated[str, AfterValidator(_ipv6)]
Ipv4Subnet = Annotated[str, AfterValidator(_ipv4_subnet)]
Ipv6Subnet = Annotated[str, AfterValidator(_ipv6_subnet)]
PlainName = Annotated[str, AfterValidator(_plain_name)]
ZdbMemory = Annotated[int, AfterValidator(_zdb_memory)]
Port: TypeAlias = Annotated[int, Field(ge=1, le=65535)]
