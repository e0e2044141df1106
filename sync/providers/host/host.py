"""The mirror host as the providers see it: commands, Docker, and one-shot operations as root.

One connection per host and process: the engine runs every provider of a stack in one process with
four worker threads, so all of them share it.
"""

import json
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter

from sync.contract import dialing
from sync.providers.host import cache
from sync.providers.host.commands import Command, Completed, Running
from sync.providers.host.connection import (
    DataRootGoneError,
    HostConnection,
    HostError,
    HostSpaceError,
)
from sync.providers.host.docker_failure import docker_failure

_CONTAINER_SECONDS: Final = 600
_BOOT: Final = "import sys;i=sys.stdin.buffer;exec(i.read(int(i.readline())))"
_ROOT_HELPER: Final = Path(__file__).with_name("root_helper.py")
# What a script imports of ours goes before it: the helper image has nothing of it.
_MODULES: Final = {
    "root_helper.py": ("sync.providers.host.descent", Path(__file__).with_name("descent.py")),
    "probe.py": ("sync.contract.dialing", Path(dialing.__file__)),
}
_CAPABILITIES: Final = ("CHOWN", "DAC_OVERRIDE", "FOWNER")
_REPLY: Final = TypeAdapter(dict[str, object])  # {"result"}, or {"error", "kind"}


class Host(ABC):
    """One mirror host; threads share it."""

    # What the user's login shell prints before each command; nothing where there is none.
    shell_prints = ""

    def __init__(self, connection: HostConnection) -> None:
        self.connection = connection

    def dead_addresses(self) -> tuple[str, ...]:
        """Return addresses of the host at which nobody answered though another one did."""
        return ()

    @abstractmethod
    def run(self, command: Command) -> Completed:
        """Run to the end; HostError for everything that kept it from running."""

    @abstractmethod
    def start(self, argv: Sequence[str]) -> Running:
        """Start a command whose output is read while it runs; the caller ends it."""

    def docker(self, *arguments: str) -> list[str]:
        """Argument list of the docker CLI on the host: on the default of the user over there."""
        return ["docker", *arguments]

    def run_docker(self, *arguments: str, timeout_seconds: float = 60) -> str:
        """Run a docker command that must succeed and return its stdout."""
        completed = self.run(Command(self.docker(*arguments), timeout_seconds=timeout_seconds))
        if completed.status != 0:
            raise docker_failure(self.connection.docker_host, completed)
        return completed.stdout.decode(errors="replace")

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
        where = self.connection.docker_host
        if not self.connection.helper_image:
            raise HostError(
                "images.python is not set: it runs the operations on the host (Python 3.11)"
            )
        argv = self.docker(
            *("run", "--rm", "--interactive", "--read-only", "--user=0:0", "--cap-drop=ALL"),
            *(f"--cap-add={name}" for name in _CAPABILITIES),
            *("--security-opt=no-new-privileges", "--label=gridhub.one-shot=1"),
            *("--log-driver=none", "--entrypoint=python3"),
            *(*options, self.connection.helper_image, "-I", "-B", "-c", _BOOT),
        )
        stdin = _framed([_source(script), json.dumps(request).encode()], stream)
        completed = self.run(Command(argv, stdin, timeout_seconds=_CONTAINER_SECONDS))
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


def _source(script: Path) -> bytes:
    text = script.read_text(encoding="utf-8")
    if script.name in _MODULES:
        name, file = _MODULES[script.name]
        module = file.read_text(encoding="utf-8")
        made = f"import sys,types;made=sys.modules[{name!r}]=types.ModuleType({name!r})"
        text = f"{made}\nexec({module!r},vars(made))\n{text}"
    return text.encode()


def _framed(messages: Iterable[bytes], stream: Iterable[bytes]) -> Iterator[bytes]:
    for message in messages:
        yield f"{len(message)}\n".encode() + message
    yield from stream


_HOSTS: Final[dict[HostConnection, Host]] = {}
_LOCK: Final = threading.Lock()


def connect(connection: HostConnection) -> Host:
    """Return this process's Host for a connection; connects on first use."""
    with _LOCK:
        if connection not in _HOSTS:
            _HOSTS[connection] = _host(connection)
        return _HOSTS[connection]


def _host(connection: HostConnection) -> Host:
    if connection.docker_host.startswith("unix://"):
        from sync.providers.host.local import LocalHost

        return LocalHost(connection)
    if connection.docker_host.startswith("ssh://"):
        from sync.providers.host.ssh import SshHost

        return SshHost(connection)
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

    def as_root(
        self,
        operation: str,
        stream: Iterable[bytes] = (),
        *,
        create: bool = False,
        **parameters: object,
    ) -> object:
        """Run one operation of root_helper.py as root on the data root; returns its result.

        After one that changes something what was seen before counts no more. Raises
        DataRootGoneError where the data root is missing and create is false.
        """
        root = self.path
        if len(Path(root).parts) < 2 or not root.startswith("/") or ".." in Path(root).parts:  # noqa: PLR2004
            raise HostError(f"data root {root!r} is not an absolute path below /")
        bind = f"--mount=type=bind,source={root},target={root}"
        options = ["--network=none", f"--volume={root}:{root}" if create else bind]
        request = {"operation": operation, "root": root, **parameters}
        try:
            return self.on_host().run_script(_ROOT_HELPER, options, request, stream)
        finally:
            if operation != "facts":
                cache.invalidate()
