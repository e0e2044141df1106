"""What a docker command that failed on the host has printed, as the error that names the remedy."""

from typing import Final

from sync.providers.host.commands import Completed
from sync.providers.host.connection import HostDockerError, HostError, HostSpaceError

_SOCKET: Final = "start it (systemctl start docker)"
_REMEDIES: Final[tuple[tuple[str, type[HostError], str], ...]] = (
    (
        "permission denied while trying to connect",
        HostDockerError,
        "this user may not use Docker: add it to the docker group (usermod -aG docker USER)",
    ),
    ("dial unix", HostDockerError, f"Docker does not answer on its socket: {_SOCKET}"),
    ("cannot connect to the docker daemon", HostDockerError, f"Docker does not run: {_SOCKET}"),
    ("no space left on device", HostSpaceError, "no space left: free some, or move Docker's data"),
)
_NOT_FOUND: Final = 127  # the shell's "command not found"
# `docker run` itself failed. It says "Unable to find image" before every pull, also before one that
# succeeds and is followed by a failure of the program.
_NOT_RUN: Final = 125


def docker_failure(where: str, completed: Completed) -> HostError:
    """Return the error of a docker command that failed; where: the host."""
    text = completed.error_text
    if completed.status == _NOT_FOUND:
        return HostDockerError(
            f"{where}: docker is not on the PATH there: install Docker (apt install docker.io)"
        )
    for words, kind, remedy in _REMEDIES:
        if words in text.lower():
            return kind(f"{where}: {remedy}\n{text}")
    if completed.status == _NOT_RUN and "Unable to find image" in text:
        remedy = "check its name, and that the host reaches its registry"
        return HostDockerError(f"{where}: the helper image cannot be had: {remedy}\n{text}")
    return HostError(f"{where}: docker exited with {completed.status}: {text or 'no message'}")
