"""`docker:index/remoteImage:RemoteImage` on a Docker Engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from docker.errors import DockerException, NotFound
from typing_extensions import override

from tests.sandbox.plugins.conversion import State
from tests.sandbox.plugins.docker.connection import daemon_message
from tests.sandbox.plugins.docker.handler import DockerHandler
from tests.sandbox.plugins.docker.other_schemas import IMAGE
from tests.sandbox.plugins.resource import ResourceError


def _inspect(client: Any, name: str) -> Mapping[str, Any] | None:
    try:
        return dict(client.inspect_image(name))
    except NotFound:
        return None


def find_image(client: Any, name: str, platform: str = "") -> Mapping[str, Any]:
    """Return the image of this name or id, pulled if it is not there; raises ResourceError."""
    if not name:
        raise ResourceError("empty image name is not allowed")
    try:
        found = _inspect(client, name)
        if found is None:
            client.pull(name, platform=platform or None)
            found = _inspect(client, name)
    except DockerException as error:
        raise ResourceError(
            f"unable to pull image {name}: error pulling image {name}: {daemon_message(error)}"
        ) from error
    if found is None:
        raise ResourceError(f"unable to find or pull image {name}")
    return found


def repo_digest(name: str, digests: list[str]) -> str:
    """Return the digest of the repository that the image is named by, empty for a local build."""
    repository = name.split("@", 1)[0]
    last = repository.rsplit("/", 1)[-1]
    if ":" in last:
        repository = repository[: -len(last)] + last.split(":")[0]
    for digest in digests:
        if digest.split("@", 1)[0] == repository:
            return digest
    return digests[0] if len(digests) == 1 else ""


class ImageHandler(DockerHandler):
    """Images of one Docker host."""

    schema = IMAGE

    @override
    def create(self, planned: State) -> str:
        """Find the image, pulling it if it is not there."""
        client = self._host.client()
        try:
            found = find_image(client, planned["name"], planned["platform"] or "")
        except ResourceError as error:
            raise ResourceError(f"Unable to read Docker image into resource: {error}") from error
        return str(found["Id"]) + str(planned["name"])

    @override
    def read(self, identity: str, state: State) -> tuple[str, State] | None:
        """Return the image that the name stands for now, or None when there is none."""
        name = state["name"]
        try:
            found = _inspect(self._host.client(), name)
        except DockerException as error:
            raise ResourceError(
                f'resourceDockerImageRead: error looking up local image "{name}": '
                f"{daemon_message(error)}"
            ) from error
        if found is None:
            return None
        digest = repo_digest(name, found.get("RepoDigests") or [])
        return f"{found['Id']}{name}", {"image_id": found["Id"], "repo_digest": digest}

    @override
    def update(self, identity: str, prior: State, planned: State) -> tuple[str, State] | None:
        """Look the image up again."""
        self.create(planned)
        return self.read(identity, planned)

    @override
    def delete(self, identity: str, state: State) -> None:
        """Remove the image unless it is to be kept."""
        if state["keep_locally"]:
            return
        client = self._host.client()
        name = state["name"]
        try:
            if _inspect(client, name) is not None:
                client.remove_image(name, force=bool(state["force_remove"]))
        except DockerException as error:
            message = daemon_message(error)
            raise ResourceError(f"Unable to remove Docker image: {message}") from error
