"""The base of all sections of settings and specs, and the kinds of value that both have."""

import ipaddress
import re
from typing import Annotated, Final, TypeAlias
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from sync.contract.names import RefusedNameError, checked_plain

HOST_LABEL: Final = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_HOST: Final = re.compile(rf"({HOST_LABEL}\.)*{HOST_LABEL}", re.IGNORECASE)
# RFC 3986 without the apostrophe: what passes a Caddyfile and a shell's quotes, and no line break,
# which urlsplit would drop in silence.
_URL: Final = re.compile(r"[A-Za-z0-9._~:/?#@!$&()*+,;=%\[\]-]+")


class Section(BaseModel):
    """A group of values: no key that is not declared, no number that JSON does not have.

    A spec.json has the python names. A stack file has them in camelCase, and is read strictly and
    by these aliases only (components.settings.loading). A default that differs between two uses of
    a section is a subclass, not a default value of the section: a stack file that sets one key of
    it must leave the others as they are.
    """

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_alias=False,
        validate_by_name=True,
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
    )


def _host(value: str) -> str:
    try:
        if not _HOST.fullmatch(value):
            ipaddress.ip_address(value)
    except ValueError:
        message = "is neither a host name nor an IP address (IPv6 without brackets)"
        raise ValueError(message) from None
    return value


def _plain_name(value: str) -> str:
    try:
        return checked_plain(value, "setting")
    except RefusedNameError:
        raise ValueError("is not a plain name (letters, digits, ._+@:~=,-)") from None


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
PlainName: TypeAlias = Annotated[str, AfterValidator(_plain_name)]
HttpUrl: TypeAlias = Annotated[str, AfterValidator(http_url)]
Port: TypeAlias = Annotated[int, Field(ge=1, le=65535)]
Count: TypeAlias = Annotated[int, Field(ge=0)]
Positive: TypeAlias = Annotated[int, Field(ge=1)]
Seconds: TypeAlias = Annotated[float, Field(gt=0)]
Days: TypeAlias = Annotated[float, Field(ge=0)]
Fraction: TypeAlias = Annotated[float, Field(ge=0, le=1)]
