"""What settings and specs call a machine or a service by: host, port, URL."""

import ipaddress
import re
from typing import Annotated, Final, TypeAlias
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, Field

HOST_LABEL: Final = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_HOST: Final = re.compile(rf"({HOST_LABEL}\.)*{HOST_LABEL}", re.IGNORECASE)
# RFC 3986 without the apostrophe: what passes a Caddyfile and a shell's quotes, and no line break,
# which urlsplit would drop in silence.
_URL: Final = re.compile(r"[A-Za-z0-9._~:/?#@!$&()*+,;=%\[\]-]+")


def bracketed(host: str) -> str:
    """Return a host name or address as it stands before `:PORT`: IPv6 in brackets."""
    return f"[{host}]" if ":" in host else host


def _host(value: str) -> str:
    try:
        if not _HOST.fullmatch(value):
            ipaddress.ip_address(value)
    except ValueError:
        message = "is neither a host name nor an IP address (IPv6 without brackets)"
        raise ValueError(message) from None
    return value


def split_url(value: str, wanted: str) -> SplitResult:
    """Split a URL; ValueError, which says what is wanted, where it is none, or its port is none."""
    try:
        parts = urlsplit(value)
        if _URL.fullmatch(value) and parts.port != 0:
            return parts
    except ValueError:
        pass
    raise ValueError(f"is not {wanted}")


def http_url(value: str) -> str:
    """Return a base URL without the last slash; ValueError says why it is none."""
    wanted = "an http:// or https:// URL without query"
    parts = split_url(value, wanted)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(f"is not {wanted}")
    if parts.username or parts.password:
        raise ValueError("must not hold a user name or password; no master asks for one")
    return value.rstrip("/")


Host: TypeAlias = Annotated[str, AfterValidator(_host)]
HttpUrl: TypeAlias = Annotated[str, AfterValidator(http_url)]
Port: TypeAlias = Annotated[int, Field(ge=1, le=65535)]
