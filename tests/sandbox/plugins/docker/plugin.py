"""The stand-in for the docker plugin: its configuration and its resources."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from tests.sandbox.plugins.docker.connection import DockerHost, address_of
from tests.sandbox.plugins.docker.container import ContainerHandler
from tests.sandbox.plugins.docker.image import ImageHandler
from tests.sandbox.plugins.docker.network import NetworkHandler
from tests.sandbox.plugins.docker.volume import VolumeHandler
from tests.sandbox.plugins.provider import Plugin
from tests.sandbox.plugins.resource import Handler
from tests.sandbox.plugins.schema import Attribute, Fields, Kind

# The release of pulumi-docker that this stands in for.
VERSION = "5.2.0"

_CONFIG: Fields = {
    "host": Attribute(Kind.STRING),
    "ssh_opts": Attribute(Kind.LIST, pulumi="sshOpts"),
    "context": Attribute(Kind.STRING, supported=False),
    "ca_material": Attribute(Kind.STRING, supported=False),
    "cert_material": Attribute(Kind.STRING, supported=False),
    "key_material": Attribute(Kind.STRING, supported=False),
    "cert_path": Attribute(Kind.STRING, supported=False),
    "registry_auth": Attribute(Kind.SET, supported=False),
    "disable_docker_daemon_check": Attribute(Kind.BOOL, supported=False),
}


class DockerPlugin(Plugin):
    """Containers, networks, volumes and images of one Docker host."""

    def __init__(self) -> None:
        super().__init__("docker", VERSION, _CONFIG)
        self._host = DockerHost()
        handlers: list[Handler] = [
            ContainerHandler(self._host),
            NetworkHandler(self._host),
            VolumeHandler(self._host),
            ImageHandler(self._host),
        ]
        self.handlers = {handler.schema.token: handler for handler in handlers}

    def configure(self, config: Mapping[str, Any]) -> None:
        """Take the host and the options of ssh."""
        self._host.configure(address_of(config, os.environ))
