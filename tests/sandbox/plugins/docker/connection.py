"""A connection to the Docker Engine, over a Unix socket or through `ssh`.

Over ssh it runs the command that the real plugin runs (`ssh … docker system
dial-stdio`), one process per connection, so that the operator's ssh options hold.
"""

from __future__ import annotations

import http.client
import socket
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import docker
import requests
import urllib3
import urllib3.connection
from docker.errors import APIError, DockerException
from docker.transport.basehttpadapter import BaseHTTPAdapter
from typing_extensions import override

from tests.sandbox.plugins.resource import ResourceError

_CALL_SECONDS = 600
_CONNECTIONS = 8
_ERROR_BYTES = 4096
_SSH_END_SECONDS = 5
_MINIMUM_API = "1.24"
# Any name: the connections go through ssh, to whatever Engine answers there.
_SSH_URL = "http://docker.example.com:80"


@dataclass(frozen=True)
class HostAddress:
    """Where the Engine answers, and the options of `ssh` to reach it."""

    url: str
    ssh_options: tuple[str, ...] = ()

    @property
    def is_ssh(self) -> bool:
        """Whether the Engine is reached through ssh."""
        return self.url.startswith("ssh://")

    def ssh_command(self) -> list[str]:
        """Return the command whose standard input and output are a connection to the Engine."""
        parts = urlsplit(self.url)
        if not parts.hostname:
            raise ResourceError(f"host {self.url!r} names no machine; write ssh://user@host:port")
        login = ["-l", parts.username] if parts.username else []
        port = ["-p", str(parts.port)] if parts.port else []
        options = [*login, *port, *self.ssh_options, "-o", "ConnectTimeout=30", "-T"]
        return ["ssh", *options, "--", parts.hostname, "docker", "system", "dial-stdio"]


class SshEndedError(OSError):
    """The ssh process ended; the message says how, and what it said."""


class _SshConnection(urllib3.connection.HTTPConnection):
    """An HTTP connection whose wire is an ssh process."""

    def __init__(self, command: Sequence[str]) -> None:
        super().__init__("localhost")
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._complaint = ""

    @override
    def connect(self) -> None:
        self._complaint = ""
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                self._command,
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=subprocess.PIPE,
            )
        self.sock = ours

    @override
    def close(self) -> None:
        super().close()
        process, self._process = self._process, None
        if process is None:
            return
        try:
            process.wait(_SSH_END_SECONDS)
            self._complaint = self._ended(process)
        except subprocess.TimeoutExpired:
            process.terminate()
            process.wait()
        if process.stderr:
            process.stderr.close()

    def _ended(self, process: subprocess.Popen[bytes]) -> str:
        """Return how an ended process ended and what it said, nothing if it ended well."""
        said = process.stderr.read(_ERROR_BYTES).decode(errors="replace") if process.stderr else ""
        if process.returncode == 0:
            return ""
        return (
            f"command [{' '.join(self._command)}] has exited with exit status "
            f"{process.returncode}, make sure the URL is valid, and Docker 18.09 or later is "
            f"installed on the remote host: stderr={said}"
        )

    @override
    def send(self, data: Any) -> None:
        try:
            super().send(data)
        except OSError as error:
            self._explain(error)
            raise

    @override
    def getresponse(self) -> Any:
        try:
            return super().getresponse()
        except (OSError, http.client.HTTPException) as error:
            self._explain(error)
            raise

    def _explain(self, error: Exception) -> None:
        """Raise what ssh said, if it is ssh that ended; closing waits for that."""
        self.close()
        if self._complaint:
            raise SshEndedError(self._complaint) from error


class _SshPool(urllib3.connectionpool.HTTPConnectionPool):
    def __init__(self, command: Sequence[str]) -> None:
        super().__init__("localhost", maxsize=_CONNECTIONS)
        self._command = command

    def _new_conn(self) -> Any:
        return _SshConnection(self._command)


class _SshAdapter(BaseHTTPAdapter):
    """Sends every request through connections made by ssh."""

    def __init__(self, command: Sequence[str]) -> None:
        self._pool = _SshPool(command)
        super().__init__()

    @override
    def get_connection(self, url: str | bytes, proxies: Any = None) -> Any:
        return self._pool

    @override
    def get_connection_with_tls_context(
        self, request: Any, verify: Any, proxies: Any = None, cert: Any = None
    ) -> Any:
        return self._pool

    @override
    def request_url(self, request: Any, proxies: Any) -> str:
        return str(request.path_url)

    def close(self) -> None:
        self._pool.close()


class DockerHost:
    """The Engine that a provider is configured with, connected on first use."""

    def __init__(self) -> None:
        self._address = HostAddress("unix:///var/run/docker.sock")
        # docker.APIClient: Any, as calls that it has no method for go through its private ones.
        self._client: Any = None
        self._lock = threading.Lock()

    @property
    def address(self) -> HostAddress:
        """Where the Engine answers."""
        return self._address

    def configure(self, address: HostAddress) -> None:
        """Take an address; as in the real plugin a local daemon must answer at once."""
        with self._lock:
            self._address = address
            self._client = None
        if not address.is_ssh:
            try:
                self.client()
            except ResourceError as error:
                raise ResourceError(
                    "docker native provider returned an unexpected error from Configure: failed "
                    f"to connect to any docker daemon ({error})"
                ) from error

    def client(self) -> Any:
        """Return the client, connected; raises ResourceError in the real plugin's words."""
        with self._lock:
            if self._client is None:
                self._client = self._connect()
            return self._client

    def _connect(self) -> Any:
        try:
            if self._address.is_ssh:
                return _ssh_client(self._address)
            return docker.APIClient(base_url=self._address.url, timeout=_CALL_SECONDS)
        except (DockerException, requests.RequestException, OSError) as error:
            raise ResourceError(
                "failed to create Docker client: Error pinging Docker server, please make sure "
                f"that {self._address.url} is reachable and has a  '_ping' endpoint. "
                f"Error: {_cause(error)}"
            ) from error


def _ssh_client(address: HostAddress) -> Any:
    client: Any = docker.APIClient(base_url=_SSH_URL, version=_MINIMUM_API, timeout=_CALL_SECONDS)
    client.mount(_SSH_URL, _SshAdapter(address.ssh_command()))
    # The client negotiates in its constructor only, before this adapter can be there.
    client._version = client.version(api_version=False)["ApiVersion"]
    return client


def _cause(error: BaseException) -> str:
    """Return the innermost message of a chain of connection errors."""
    seen = error
    while not isinstance(seen, SshEndedError) and (seen.__cause__ or seen.__context__):
        seen = seen.__cause__ or seen.__context__ or seen
    return str(seen) or str(error)


def daemon_message(error: DockerException) -> str:
    """Return what the daemon said, as the real plugin quotes it."""
    if isinstance(error, APIError):
        return f"Error response from daemon: {error.explanation or error}"
    return str(error)


def is_gone(error: DockerException) -> bool:
    """Whether the daemon does not know the thing."""
    return isinstance(error, APIError) and error.status_code == requests.codes.not_found


def address_of(config: Mapping[str, Any], environment: Mapping[str, str]) -> HostAddress:
    """Return the configured address, else that of the environment, else the default."""
    default = environment.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
    options = config.get("sshOpts") or environment.get("DOCKER_SSH_OPTS", "").split()
    return HostAddress(str(config.get("host") or default), tuple(map(str, options)))
