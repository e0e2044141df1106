"""The mirror host as the providers see it: commands, Docker, and one-shot operations as root.

One connection per host and process: the engine runs every provider of a stack in one process with
four worker threads, so all of them share it.
"""

import json
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter

from sync.providers.host.connection import (
    Command,
    Completed,
    HostConnection,
    HostDockerError,
    HostError,
    HostSpaceError,
    Running,
    Transport,
)
from sync.providers.host.local import LocalTransport

_CONTAINER_SECONDS: Final = 600
_BOOT: Final = "import sys;i=sys.stdin.buffer;exec(i.read(int(i.readline())))"
_ROOT_HELPER: Final = Path(__file__).with_name("root_helper.py")
_CAPABILITIES: Final = ("CHOWN", "DAC_OVERRIDE", "FOWNER")

# What a failing docker CLI prints, and what to do about it.
_REMEDIES: Final[tuple[tuple[str, type[HostError], str], ...]] = (
    (
        "permission denied while trying to connect",
        HostDockerError,
        "this user may not use Docker: add it to the docker group (usermod -aG docker USER)",
    ),
    (
        "dial unix",
        HostDockerError,
        "Docker does not answer on its socket: start it (systemctl start docker)",
    ),
    (
        "Cannot connect to the Docker daemon",
        HostDockerError,
        "Docker does not run: start it (systemctl start docker)",
    ),
    ("no space left on device", HostSpaceError, "no space left: free some, or move Docker's data"),
)
_NOT_FOUND: Final = 127  # the shell's "command not found"
# `docker run` itself failed. It says "Unable to find image" before every pull, also before one that
# succeeds and is followed by a failure of the program.
_NOT_RUN: Final = 125


_REPLY: Final = TypeAdapter(dict[str, object])  # {"result"}, or {"error", "kind"}


class DataRootGoneError(HostError):
    """The data root does not exist on the host."""


class Host:
    """One mirror host."""

    def __init__(self, connection: HostConnection, transport: Transport) -> None:
        self.connection = connection
        self._transport = transport

    def run(self, command: Command) -> Completed:
        """Run a command; HostError for everything that kept it from running."""
        return self._transport.run(command)

    def start(self, argv: Sequence[str]) -> Running:
        """Start a command whose output is read while it runs; the caller ends it."""
        return self._transport.start(argv)

    def docker(self, *arguments: str) -> list[str]:
        """Argument list of the docker CLI on the host."""
        if self.connection.remote:
            return ["docker", *arguments]  # the user's own default over there
        return ["docker", "--host", self.connection.docker_host, *arguments]

    def run_docker(self, *arguments: str, timeout_seconds: float = 60) -> str:
        """Run a docker command that must succeed and return its stdout."""
        completed = self.run(Command(self.docker(*arguments), timeout_seconds=timeout_seconds))
        if completed.status != 0:
            raise docker_failure(self.connection.docker_host, completed)
        return completed.stdout.decode(errors="replace")

    def as_root(
        self,
        operation: str,
        root: str,
        parameters: Mapping[str, object],
        stream: Iterable[bytes] = (),
        *,
        create_root: bool = False,
    ) -> object:
        """Run one operation of root_helper.py as root on the data root; returns its result.

        Raises DataRootGoneError where root is missing and create_root is false.
        """
        if len(Path(root).parts) < 2 or not root.startswith("/") or ".." in Path(root).parts:  # noqa: PLR2004
            raise HostError(f"data root {root!r} is not an absolute path below /")
        request = {"operation": operation, "root": root, **parameters}
        mount = (
            ["--volume", f"{root}:{root}"]
            if create_root
            else ["--mount", f"type=bind,source={root},target={root}"]
        )
        return self.run_script(_ROOT_HELPER, ["--network=none", *mount], request, stream)

    def run_script(
        self,
        script: Path,
        options: Iterable[str],
        request: Mapping[str, object],
        stream: Iterable[bytes] = (),
    ) -> object:
        """Run a script of the standard library in a one-shot container; returns its result.

        options: of `docker run`. The script and the request go on stdin, never on a command line.
        """
        if not self.connection.helper_image:
            raise HostError(
                "images.python is not set: it runs the operations on the host (Python 3.11)"
            )
        capabilities = [f"--cap-add={name}" for name in _CAPABILITIES]
        argv = self.docker(
            *("run", "--rm", "--interactive", "--read-only", "--user=0:0", "--cap-drop=ALL"),
            *(*capabilities, "--security-opt=no-new-privileges", "--label=gridhub.one-shot=1"),
            *("--log-driver=none", "--entrypoint=python3"),
            *(*options, self.connection.helper_image, "-I", "-B", "-c", _BOOT),
        )
        stdin = _framed([script.read_bytes(), json.dumps(request).encode()], stream)
        completed = self.run(Command(argv, stdin, timeout_seconds=_CONTAINER_SECONDS))
        return self._result(completed)

    def _result(self, completed: Completed) -> object:
        where = self.connection.docker_host
        if completed.status != 0:
            if "bind source path does not exist" in completed.error_text:
                raise DataRootGoneError(f"{where}: {completed.error_text}")
            raise docker_failure(where, completed)
        reply = _REPLY.validate_json(completed.stdout)
        if "error" not in reply:
            return reply["result"]
        if reply["kind"] == "space":
            raise HostSpaceError(f"{where}: no space left ({reply['error']}): free some or grow it")
        raise HostError(f"{where}: {reply['error']}")


def _framed(messages: Iterable[bytes], stream: Iterable[bytes]) -> Iterator[bytes]:
    for message in messages:
        yield f"{len(message)}\n".encode() + message
    yield from stream


def docker_failure(where: str, completed: Completed) -> HostError:
    """Turn a docker command that failed into the error that names the remedy."""
    text = completed.error_text
    if completed.status == _NOT_FOUND:
        return HostDockerError(
            f"{where}: docker is not on the PATH there: install Docker (apt install docker.io)"
        )
    for words, kind, remedy in _REMEDIES:
        if words.lower() in text.lower():
            return kind(f"{where}: {remedy}\n{text}")
    if completed.status == _NOT_RUN and "Unable to find image" in text:
        remedy = "check its name, and that the host reaches its registry"
        return HostDockerError(f"{where}: the helper image cannot be had: {remedy}\n{text}")
    return HostError(f"{where}: docker exited with {completed.status}: {text or 'no message'}")


_HOSTS: Final[dict[HostConnection, Host]] = {}
_LOCK: Final = threading.Lock()


def connect(connection: HostConnection) -> Host:
    """Return this process's Host for a connection; connects on first use."""
    with _LOCK:
        if connection not in _HOSTS:
            _HOSTS[connection] = Host(connection, _transport(connection))
        return _HOSTS[connection]


def _transport(connection: HostConnection) -> Transport:
    if connection.docker_host.startswith("unix://"):
        return LocalTransport()
    if connection.remote:
        from sync.providers.host.ssh import SshTransport

        return SshTransport(connection)
    raise HostError(
        f"host.docker {connection.docker_host!r} is neither unix:///path nor ssh://user@host"
    )


@dataclass(frozen=True)
class DataRoot:
    """The folder of a stack on its host; path: absolute."""

    connection: HostConnection
    path: str

    def on_host(self) -> Host:
        """Return the host."""
        return connect(self.connection)
