"""`docker:index/network:Network` on a Docker Engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from docker.errors import APIError, DockerException
from typing_extensions import override

from tests.sandbox.plugins.conversion import State
from tests.sandbox.plugins.docker.connection import daemon_message
from tests.sandbox.plugins.docker.container_request import value_of
from tests.sandbox.plugins.docker.handler import DockerHandler, until_removed
from tests.sandbox.plugins.docker.other_schemas import NETWORK
from tests.sandbox.plugins.resource import ResourceError


class NetworkHandler(DockerHandler):
    """Networks of one Docker host."""

    schema = NETWORK

    @override
    def create(self, planned: State) -> str:
        """Create a network."""
        client = self._host.client()
        url = client._url("/networks/create")
        try:
            made = client._result(client._post_json(url, data=_create_request(planned)), True)
        except DockerException as error:
            raise ResourceError(f"Unable to create network: {daemon_message(error)}") from error
        return str(made["Id"])

    @override
    def read(self, identity: str, state: State) -> tuple[str, State] | None:
        """Return what is seen of the network; any refusal of the daemon means that it is gone."""
        client = self._host.client()
        try:
            inspected = client.inspect_network(identity)
        except APIError:
            return None
        return identity, _view(inspected)

    @override
    def delete(self, identity: str, state: State) -> None:
        """Remove the network, once the containers on it are gone."""
        client = self._host.client()

        def remove() -> bool:
            try:
                client.inspect_network(identity)
            except APIError:
                return True
            try:
                client.remove_network(identity)
            except DockerException as error:
                message = daemon_message(error)
                if "has active endpoints" not in message:
                    raise ResourceError(message) from error
                return False
            return True

        until_removed(remove, "pending")


def _create_request(planned: State) -> dict[str, Any]:
    body: dict[str, Any] = {
        "Name": planned["name"],
        "Labels": {e["label"]: e["value"] for e in planned["labels"]},
        "Driver": value_of(planned, "driver", ""),
        "Options": value_of(planned, "options", {}),
        "Internal": value_of(planned, "internal", False),
        "Attachable": value_of(planned, "attachable", False),
        "Ingress": value_of(planned, "ingress", False),
        "CheckDuplicate": True,
        "IPAM": {
            "Driver": planned["ipam_driver"],
            "Options": value_of(planned, "ipam_options"),
            "Config": [_ipam_request(e) for e in value_of(planned, "ipam_config", [])],
        },
    }
    if value_of(planned, "ipv6"):
        body["EnableIPv6"] = True
    return body


def _ipam_request(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "Subnet": config["subnet"],
        "IPRange": config["ip_range"],
        "Gateway": config["gateway"],
        "AuxiliaryAddresses": config["aux_address"] or {},
    }


def _view(inspected: Mapping[str, Any]) -> State:
    ipam = inspected["IPAM"]
    labels = inspected["Labels"] or {}
    return {
        "name": inspected["Name"],
        "labels": [{"label": key, "value": labels[key]} for key in sorted(labels)],
        "driver": inspected["Driver"],
        "internal": inspected["Internal"],
        "attachable": inspected["Attachable"],
        "ingress": inspected["Ingress"],
        "ipv6": inspected["EnableIPv6"],
        "ipam_driver": ipam["Driver"],
        "ipam_options": ipam["Options"] or {},
        "scope": inspected["Scope"],
        "options": inspected["Options"] or {},
        "ipam_config": [_ipam_view(config) for config in ipam["Config"] or []],
    }


def _ipam_view(config: Mapping[str, Any]) -> State:
    return {
        "subnet": config.get("Subnet", ""),
        "ip_range": config.get("IPRange", ""),
        "gateway": config.get("Gateway", ""),
        "aux_address": config.get("AuxiliaryAddresses") or {},
    }
