"""How a stack reaches its mirror host: the connection's settings, results and failures."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final, Protocol
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


class HostDockerError(HostError):
    """Docker on the host is missing, not running, or closed to this user."""


class HostSpaceError(HostError):
    """The host has no space left."""


class HostSessionsError(HostError):
    """The SSH server takes no further session or connection."""


class HostTimeoutError(HostError):
    """A command on the host took longer than it may; its effect is not known."""


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

    @property
    def remote(self) -> bool:
        """Whether the host is reached by SSH."""
        return self.docker_host.startswith("ssh://")


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

    @property
    def known_hosts_name(self) -> str:
        """The host as known_hosts files name it (OpenSSH sshd(8), SSH_KNOWN_HOSTS FORMAT)."""
        return self.host if self.port == 22 else f"[{self.host}]:{self.port}"  # noqa: PLR2004

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"ssh://{self.user}@{host}" + ("" if self.port == 22 else f":{self.port}")  # noqa: PLR2004


@dataclass(frozen=True)
class Command:
    """One program to run on the host.

    stdin: pieces written to it in order (a bundle is streamed so). output_limit_bytes bounds
    stdout and stderr each; more is an error.
    """

    argv: Sequence[str]
    stdin: Iterable[bytes] = ()
    timeout_seconds: float = 60
    output_limit_bytes: int = 8 << 20


@dataclass(frozen=True)
class Completed:
    """How a command ended: exit status (negative: killed by that signal), stdout, stderr."""

    status: int
    stdout: bytes
    stderr: bytes

    @property
    def error_text(self) -> str:
        """The end of stderr, for a message."""
        return self.stderr.decode(errors="replace").strip()[-2000:]


@dataclass(frozen=True)
class Running:
    """A command that still runs on the host.

    readline: returns the next line of stdout and stderr, merged, or the first so many bytes of it;
    nothing at the end. status: waits for the end and returns the exit status; HostUnreachableError
    where the connection broke. end: closes its stdin, which `until_stdin_ends` waits for.
    """

    readline: Callable[[int], bytes]
    status: Callable[[], int]
    end: Callable[[], None]


_UNTIL_STDIN_ENDS: Final = """
exec 3<&0
"$@" 3<&- < /dev/null & command=$!
{ read -r _ <&3; kill "$command"; } > /dev/null 2>&1 & watch=$!
wait "$command"; status=$?
kill "$watch" 2> /dev/null
exit "$status"
"""


def until_stdin_ends(*argv: str) -> list[str]:
    """Return the command that runs `argv`, and ends it when its own stdin does.

    Neither sshd nor Docker ends a command that prints nothing when its client goes away (RFC 4254,
    5.3: a closed channel is all that the server learns); the end of stdin reaches every kind.
    """
    return ["sh", "-c", _UNTIL_STDIN_ENDS, "sh", *argv]


class Transport(Protocol):
    """Runs commands on the host; safe to share between threads."""

    def run(self, command: Command) -> Completed:
        """Run to the end; HostError for everything that kept it from running."""

    def start(self, argv: Sequence[str]) -> Running:
        """Start a command whose output is read while it runs; the caller ends it."""


def expand(path: str) -> Path:
    """Path of a key or known_hosts file: `~` expanded, relative to the project's directory."""
    return Path(path).expanduser()
