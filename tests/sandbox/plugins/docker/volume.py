"""`docker:index/volume:Volume` on a Docker Engine."""

from __future__ import annotations

from docker.errors import DockerException
from typing_extensions import override

from tests.sandbox.plugins.conversion import State
from tests.sandbox.plugins.docker.connection import daemon_message, is_gone
from tests.sandbox.plugins.docker.container_request import value_of
from tests.sandbox.plugins.docker.handler import DockerHandler, until_removed
from tests.sandbox.plugins.docker.other_schemas import VOLUME
from tests.sandbox.plugins.resource import ResourceError


class VolumeHandler(DockerHandler):
    """Volumes of one Docker host."""

    schema = VOLUME

    @override
    def create(self, planned: State) -> str:
        """Create a volume, or take the one of that name that is there, as the daemon does."""
        try:
            made = self._host.client().create_volume(
                name=value_of(planned, "name"),
                driver=value_of(planned, "driver"),
                driver_opts=value_of(planned, "driver_opts"),
                labels={e["label"]: e["value"] for e in planned["labels"]} or None,
            )
        except DockerException as error:
            raise ResourceError(f"Unable to create volume: {daemon_message(error)}") from error
        return str(made["Name"])

    @override
    def read(self, identity: str, state: State) -> tuple[str, State] | None:
        """Return what is seen of the volume, or None when it is gone."""
        try:
            inspected = self._host.client().inspect_volume(identity)
        except DockerException as error:
            if is_gone(error):
                return None
            raise ResourceError(f"Unable to inspect volume: {daemon_message(error)}") from error
        labels = inspected["Labels"] or {}
        return identity, {
            "name": inspected["Name"],
            "labels": [{"label": key, "value": labels[key]} for key in sorted(labels)],
            "driver": inspected["Driver"],
            "driver_opts": inspected["Options"] or {},
            "mountpoint": inspected["Mountpoint"],
        }

    @override
    def delete(self, identity: str, state: State) -> None:
        """Remove the volume, once no container uses it."""
        client = self._host.client()

        def remove() -> bool:
            try:
                client.remove_volume(identity, force=True)
            except DockerException as error:
                message = daemon_message(error)
                if not is_gone(error) and "volume is in use" not in message:
                    raise ResourceError(message) from error
                return is_gone(error)
            return True

        until_removed(remove, "in_use")
