"""How a stack reaches its mirror host: the connection's settings, addresses and failures."""

from dataclasses import dataclass
from typing import ClassVar
from urllib.parse import urlsplit

from pydantic import ConfigDict
from pydantic.alias_generators import to_camel


class HostError(Exception):
    """The host, or the way to it, refused; `str()` says what, where, and the remedy."""


class HostUnreachableError(HostError):
    """The host did not answer, or refused the connection."""


class HostKeyError(HostError):
    """The host's key is unknown, or not the pinned one: nothing was sent."""


class HostLoginError(HostError):
    """The host refused our key, or the key cannot be used."""


class HostShellError(HostError):
    """The user's login shell does not run commands."""


class HostDockerError(HostError):
    """Docker on the host is missing, not running, or closed to this user."""


class HostSpaceError(HostError):
    """The host has no space left."""


class HostSessionsError(HostError):
    """The SSH server takes no further session or connection."""


class HostTimeoutError(HostError):
    """A command on the host took longer than it may; its effect is not known."""


class DataRootGoneError(HostError):
    """The data root does not exist on the host."""


@dataclass(frozen=True)
class HostConnection:
    """Settings of the connection; every resource takes them as `host`, its keys in camelCase.

    docker_host: `unix:///path` (this machine) or `ssh://user@host[:port]`. ssh_key_path: private
    key; empty lets the SSH agent answer. known_hosts_path: the project's pinned host keys.
    helper_image: image with Python 3.11 that runs our one-shot operations on the host.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(alias_generator=to_camel)

    docker_host: str
    ssh_key_path: str = ""
    known_hosts_path: str = ""
    helper_image: str = ""


@dataclass(frozen=True)
class SshAddress:
    """user, host (name or address, IPv6 without brackets) and port of an `ssh://` URL."""

    user: str
    host: str
    port: int = 22

    @classmethod
    def parse(cls, url: str) -> "SshAddress":
        """Parse `ssh://user@host[:port]`; HostError names what is wrong with it."""
        try:
            parts = urlsplit(url)
            port = parts.port or 22
        except ValueError as error:
            raise HostError(f"host {url!r} is not ssh://user@host[:port]: {error}") from error
        if parts.scheme != "ssh" or not parts.hostname or parts.password:
            raise HostError(f"host {url!r} is not ssh://user@host[:port]")
        return cls(parts.username or "root", parts.hostname, port)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"ssh://{self.user}@{host}" + ("" if self.port == 22 else f":{self.port}")  # noqa: PLR2004
