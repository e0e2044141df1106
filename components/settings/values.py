"""The kinds of value a setting can have, each with the sentence that says what is wrong with it.

Those that a spec has as well are in sync/contract/sections.py.
"""

import ipaddress
import re
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Annotated, Final, TypeAlias

from pydantic import AfterValidator, BeforeValidator

from sync.contract.addresses import HOST_LABEL, http_url, split_url
from sync.contract.spec import Endpoints, Urls
from sync.contract.zdb_memory import LEAST_MIB

_EMAIL: Final = re.compile(rf"[A-Za-z0-9._%+-]+@({HOST_LABEL}\.)+{HOST_LABEL}", re.IGNORECASE)
_DOMAIN: Final = re.compile(rf"({HOST_LABEL}\.)+{HOST_LABEL}")
_REPOSITORY: Final = r"[a-z0-9]+([._-][a-z0-9]+)*(:[0-9]+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)*"
_TAG: Final = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}"
_IMAGE: Final = re.compile(
    rf"{_REPOSITORY}(:{_TAG})?@sha256:[0-9a-f]{{64}}|localhost/{_REPOSITORY}:{_TAG}"
)
# Folders of the system itself: a data root there would take over what is not ours. Nothing below
# the first is anybody's to fill; below the others storage may well be mounted.
_SYSTEM_TREES: Final = frozenset(
    ["/bin", "/boot", "/dev", "/etc", "/lib", "/lib64", "/proc", "/sbin", "/sys", "/usr"]
)
_SYSTEM: Final = frozenset(["/", "/home", "/opt", "/root", "/run", "/tmp", "/var"])  # noqa: S108


def _fits(fits: Callable[[str], object], message: str) -> AfterValidator:
    """Take a text that fits; else the message says what it is not."""

    def check(value: str) -> str:
        if not fits(value):
            raise ValueError(message)
        return value

    return AfterValidator(check)


def _parsed(parse: Callable[[str], object], message: str) -> AfterValidator:
    """Take a text as what it parses to writes itself; else the message says what it is not."""

    def check(value: str) -> str:
        try:
            return str(parse(value))
        except ValueError:
            raise ValueError(message) from None

    return AfterValidator(check)


def _is_domain(value: str) -> bool:
    return bool(_DOMAIN.fullmatch(value)) and not value.rsplit(".", 1)[1].isdigit()


def _authority(value: str) -> str:
    if value in {"letsencrypt", "letsencrypt-staging", "internal"}:
        return value
    wanted = "letsencrypt, letsencrypt-staging, internal or an https:// URL"
    parts = split_url(value, wanted)
    if parts.scheme != "https" or not parts.hostname:
        raise ValueError(f"is not {wanted}")
    return value


def _docker_host(value: str) -> str:
    wanted = "unix:///PATH or ssh://USER@HOST[:PORT]"
    parts = split_url(value, wanted)
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
    if value != value.strip():
        raise ValueError("ends in a blank; remove it")
    return f"/{str(path).lstrip('/')}"  # POSIX lets two slashes mean something else


def _data_root(value: str) -> str:
    path = _absolute(value)
    if path in _SYSTEM or f"/{path.split('/')[1]}" in _SYSTEM_TREES:
        raise ValueError("is a folder of the system; choose one of its own, such as /srv")
    if not re.fullmatch(r"[A-Za-z0-9._/-]+", path):
        raise ValueError("holds characters other than letters, digits and ._-/")
    return path


def _ipv4_usable(value: str) -> bool:
    network = ipaddress.IPv4Network(value)
    return network.is_private and 16 <= network.prefixlen <= 28  # noqa: PLR2004


def _ipv6_usable(value: str) -> bool:
    return 48 <= ipaddress.IPv6Network(value).prefixlen <= 112  # noqa: PLR2004


def _zdb_memory(value: int) -> int:
    if value < LEAST_MIB:
        raise ValueError(
            f"MB is less than 0-db takes without a single key; give {LEAST_MIB} or more, 130 bytes "
            "for each key"
        )
    return value


def _one_url(value: object) -> object:
    """Take a single URL as a list of one."""
    return [http_url(value)] if isinstance(value, str) else value


def _one_zdb(value: object) -> object:
    """Take a single 0-db as a list of one."""
    return [value] if isinstance(value, dict) else value


Domain: TypeAlias = Annotated[
    str, _fits(_is_domain, "is not a domain name; give it in lower case, as in grid.example.org")
]
Email: TypeAlias = Annotated[str, _fits(_EMAIL.fullmatch, "is not an e-mail address")]
SourceUrls: TypeAlias = Annotated[Urls, BeforeValidator(_one_url)]
SourceEndpoints: TypeAlias = Annotated[Endpoints, BeforeValidator(_one_zdb)]
CertificateAuthority: TypeAlias = Annotated[str, AfterValidator(_authority)]
DockerHost: TypeAlias = Annotated[str, AfterValidator(_docker_host)]
# ssh takes the rest for tokens, variables, or the end of a quoted path (ssh_config(5), TOKENS,
# ENVIRONMENT VARIABLES; openssh: misc.c, argv_split): Docker's client would look at another file.
SshPath: TypeAlias = Annotated[
    str,
    AfterValidator(_absolute),
    _fits(
        re.compile(r"""([^%"\\$]|\$(?!\{))+""").fullmatch,
        'holds %, ", \\ or ${, which ssh reads as its own; give the file a plainer path',
    ),
]
DataRoot: TypeAlias = Annotated[str, AfterValidator(_data_root)]
ImageReference: TypeAlias = Annotated[
    str,
    _fits(
        _IMAGE.fullmatch,
        "is not pinned; `gridhub pin-images --stack <stack>` adds the digest; "
        "for an image built on the host give localhost/NAME:TAG",
    ),
]
Ipv4: TypeAlias = Annotated[str, _parsed(ipaddress.IPv4Address, "is not an IPv4 address")]
Ipv6: TypeAlias = Annotated[str, _parsed(ipaddress.IPv6Address, "is not an IPv6 address")]
Ipv4Subnet: TypeAlias = Annotated[
    str,
    _parsed(ipaddress.IPv4Network, "is not an IPv4 subnet such as 10.99.0.0/24"),
    _fits(_ipv4_usable, "is not a private subnet of /16 to /28"),
]
Ipv6Subnet: TypeAlias = Annotated[
    str,
    _parsed(ipaddress.IPv6Network, "is not an IPv6 subnet such as fd00:9900::/64"),
    _fits(_ipv6_usable, "is not a subnet of /48 to /112"),
]
ZdbMemory: TypeAlias = Annotated[int, AfterValidator(_zdb_memory)]
