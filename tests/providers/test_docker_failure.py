"""What a failing docker command printed becomes the error that names the remedy, and no other."""

import pytest

from sync.providers.host.commands import Completed
from sync.providers.host.connection import HostDockerError, HostError, HostSpaceError
from sync.providers.host.docker_failure import docker_failure

PULLED = "Unable to find image 'python@sha256:ab' locally\nStatus: Downloaded newer image\n"


@pytest.mark.parametrize(
    ("status", "said", "kind", "words"),
    [
        (127, "sh: docker: not found", HostDockerError, "install Docker"),
        (1, "permission denied while trying to connect", HostDockerError, "docker group"),
        (1, "Cannot connect to the Docker daemon at unix", HostDockerError, "does not run"),
        (1, "write /x: no space left on device", HostSpaceError, "no space left"),
        (125, f"{PULLED}manifest unknown", HostDockerError, "image cannot be had"),
        (1, f"{PULLED}Traceback", HostError, "docker exited with 1: .*Traceback"),
    ],
)
def test_each_failure_has_its_remedy(
    status: int, said: str, kind: type[HostError], words: str
) -> None:
    error = docker_failure("unix:///x", Completed(status, b"", said.encode()))
    assert type(error) is kind
    with pytest.raises(kind, match=f"(?s)^unix:///x: .*{words}"):
        raise error
