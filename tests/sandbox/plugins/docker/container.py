"""`docker:index/container:Container`: create, read, update, delete on a Docker Engine."""

from __future__ import annotations

import base64
import io
import tarfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from docker.errors import APIError, DockerException, NotFound
from typing_extensions import override

from tests.sandbox.plugins.conversion import State
from tests.sandbox.plugins.docker.connection import daemon_message
from tests.sandbox.plugins.docker.container_request import create_request, resources, value_of
from tests.sandbox.plugins.docker.container_schema import CONTAINER
from tests.sandbox.plugins.docker.container_view import container_view
from tests.sandbox.plugins.docker.handler import DockerHandler
from tests.sandbox.plugins.docker.image import find_image
from tests.sandbox.plugins.resource import PartialError, ResourceError

_HEALTH_POLL_SECONDS = 0.25
_UNHEALTHY = "container failed to be in healthy state"
_NO_HEALTHCHECK = (
    "you have supplied a 'wait' argument, but the container does not have a healthcheck defined. "
    "Please remove the 'wait' argument or add a 'healthcheck' attribute"
)
_IN_PLACE = (
    "restart",
    "max_retry_count",
    "cpu_shares",
    "memory",
    "memory_reservation",
    "cpu_set",
    "memory_swap",
)


class ContainerHandler(DockerHandler):
    """Containers of one Docker host."""

    schema = CONTAINER

    @override
    def create(self, planned: State) -> str:
        """Create, connect, fill and start a container, and wait for its health if asked to."""
        client = self._host.client()
        try:
            find_image(client, planned["image"])
        except ResourceError as error:
            raise ResourceError(
                f"Unable to create container with image {planned['image']}: {error}"
            ) from error
        try:
            made = client.create_container_from_config(
                create_request(planned), planned["name"], value_of(planned, "platform")
            )
        except DockerException as error:
            raise ResourceError(f"Unable to create container: {daemon_message(error)}") from error
        identity = str(made["Id"])
        try:
            self._complete(client, identity, planned)
        except ResourceError as error:
            raise PartialError(identity, str(error)) from error
        return identity

    def _complete(self, client: Any, identity: str, planned: State) -> None:
        _connect_networks(client, identity, planned)
        for upload in planned["upload"]:
            _upload(client, identity, upload)
        if not planned["start"]:
            return
        try:
            client.start(identity)
        except DockerException as error:
            raise ResourceError(f"Unable to start container: {daemon_message(error)}") from error
        if planned["wait"]:
            _wait_for_health(client, identity, planned["wait_timeout"])

    @override
    def read(self, identity: str, state: State) -> tuple[str, State] | None:
        """Return what is seen of the container, or None when it is gone."""
        client = self._host.client()
        try:
            return identity, container_view(client.inspect_container(identity), state)
        except NotFound:
            return None
        except DockerException as error:
            raise ResourceError(daemon_message(error)) from error

    @override
    def update(self, identity: str, prior: State, planned: State) -> tuple[str, State] | None:
        """Apply limits and the restart policy; whatever else changed is only recorded.

        That a changed health check, init or tmpfs does not reach the container is what the real
        plugin does.
        """
        client = self._host.client()
        try:
            if prior["must_run"] is False and planned["must_run"] and planned["start"]:
                client.start(identity)
        except DockerException as error:
            raise ResourceError(f"Unable to start container: {daemon_message(error)}") from error
        if all(prior[name] == planned[name] for name in _IN_PLACE):
            return None
        body = {
            **resources(planned),
            "RestartPolicy": {
                "Name": planned["restart"],
                "MaximumRetryCount": value_of(planned, "max_retry_count", 0),
            },
        }
        try:
            url = client._url("/containers/{0}/update", identity)
            client._result(client._post_json(url, data=body), True)
        except DockerException as error:
            message = daemon_message(error)
            raise ResourceError(f"Unable to update a container: {message}") from error
        return None

    @override
    def delete(self, identity: str, state: State) -> None:
        """Stop the container within its grace and remove it."""
        client = self._host.client()
        grace = max(value_of(state, "destroy_grace_seconds", 0), 0)
        try:
            client.stop(identity, timeout=grace)
        except NotFound:
            return
        except DockerException as error:
            message = daemon_message(error)
            raise ResourceError(f"Error stopping container {identity}: {message}") from error
        try:
            removes = value_of(state, "remove_volumes", True)
            client.remove_container(identity, v=removes, force=True)
        except DockerException as error:
            message = daemon_message(error)
            if "No such container" not in message and "is already in progress" not in message:
                raise ResourceError(f"Error deleting container {identity}: {message}") from error
        _wait_until_gone(client, identity)


def _connect_networks(client: Any, identity: str, planned: State) -> None:
    if not planned["networks_advanced"]:
        return
    try:
        client.disconnect_container_from_network(identity, "bridge")
    except DockerException as error:
        message = daemon_message(error)
        if "is not connected to the network bridge" not in message:
            raise ResourceError(f"Unable to disconnect the default network: {message}") from error
    for network in planned["networks_advanced"]:
        try:
            client.connect_container_to_network(
                identity,
                network["name"],
                ipv4_address=network["ipv4_address"] or None,
                ipv6_address=network["ipv6_address"] or None,
                aliases=network["aliases"],
                link_local_ips=network["link_local_ips"] or None,
                driver_opt=dict(e.split("=", 1) for e in network["driver_opts"]) or None,
                mac_address=network["mac_address"] or None,
            )
        except DockerException as error:
            message = daemon_message(error)
            name = network["name"]
            raise ResourceError(f"Unable to connect to network '{name}': {message}") from error


def _upload(client: Any, identity: str, upload: Mapping[str, Any]) -> None:
    content = _upload_content(upload)
    mode = 0o744 if upload["executable"] else 0o644
    entry = tarfile.TarInfo(upload["file"])
    entry.size = len(content)
    entry.mode = int(upload["permissions"], 8) if upload["permissions"] else mode
    entry.mtime = int(time.time())
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(entry, io.BytesIO(content))
    try:
        client.put_archive(identity, "/", buffer.getvalue())
    except DockerException as error:
        raise ResourceError(f"Unable to upload volume content: {daemon_message(error)}") from error


def _upload_content(upload: Mapping[str, Any]) -> bytes:
    given = [upload[key] for key in ("content", "content_base64", "source") if upload[key]]
    if len(given) != 1:
        which = "one of" if not given else "only one of"
        end = "must be set" if not given else "can be set"
        raise ResourceError(
            f"error with upload content: {which} 'content', 'content_base64', or 'source' {end}"
        )
    if upload["content"]:
        return str(upload["content"]).encode()
    if upload["content_base64"]:
        return base64.b64decode(upload["content_base64"])
    try:
        return Path(upload["source"]).read_bytes()
    except OSError as error:
        raise ResourceError(f"could not read file: {error}") from error


def _wait_for_health(client: Any, identity: str, seconds: int) -> None:
    deadline = time.monotonic() + seconds
    while True:
        health = client.inspect_container(identity)["State"].get("Health")
        if health is None:
            raise ResourceError(_NO_HEALTHCHECK)
        if health["Status"] == "healthy":
            return
        if time.monotonic() >= deadline:
            raise ResourceError(_UNHEALTHY)
        time.sleep(_HEALTH_POLL_SECONDS)


def _wait_until_gone(client: Any, identity: str) -> None:
    try:
        client.wait(identity)
    except APIError as error:
        message = daemon_message(error)
        if "No such container" not in message and "is already in progress" not in message:
            raise ResourceError(
                f"Error waiting for container removal '{identity}': {message}"
            ) from error
