"""The edge: Caddy in front of hub and bootstrap, with certificates, logs and metrics."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import pulumi

from components import container
from components.caddyfile import LOG_MOUNT, METRICS_PORT, CaddyfileConfig, caddyfile
from components.settings.model import PortSettings
from sync.contract.layout import CADDY_CONFIG, CADDY_DATA, CADDY_LOG, CONFIG, UID_CADDY

HTTP_PORT: Final = 80
HTTPS_PORT: Final = 443
CONFIG_DIRECTORY: Final = f"{CONFIG}/caddy"
# Bounded by `timeout`, which every busybox has; `wget -T` is a choice of its build, and Debian's
# dies of it.
HEALTH: Final = (
    "CMD-SHELL",
    f"busybox timeout 5 busybox wget -q -O /dev/null http://127.0.0.1:{METRICS_PORT}/healthz",
)


@dataclass(frozen=True)
class EdgeConfig:
    """addresses: of the host, both families. ports: of the host."""

    placement: container.Placement
    addresses: Sequence[str]
    ports: PortSettings
    caddyfile: CaddyfileConfig


class Edge(pulumi.ComponentResource):
    """The Caddy container and its Caddyfile.

    Its data folder holds the certificates and their keys; it outlives the container.
    """

    def __init__(
        self, name: str, config: EdgeConfig, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("gridhub:index:Edge", name, None, opts)
        text = caddyfile(config.caddyfile)
        file = container.HostFile(f"{CONFIG_DIRECTORY}/Caddyfile", UID_CADDY, text)
        self.files = container.write_files(f"{name}-config", config.placement, [file], self)
        self.container = container.declare(
            f"{name}-container", config.placement, _container(config, text), self, self.files
        )
        self.register_outputs({"container": self.container.name})


def _published(config: EdgeConfig) -> list[container.PublishedPort]:
    pairs = ((config.ports.http, HTTP_PORT), (config.ports.https, HTTPS_PORT))
    ports = [
        container.PublishedPort(internal, external, address)
        for address in config.addresses
        for external, internal in pairs
    ]
    if (metrics := config.ports.metrics) is not None:
        ports += [
            container.PublishedPort(METRICS_PORT, metrics, host) for host in ("127.0.0.1", "::1")
        ]
    return ports


def _container(config: EdgeConfig, text: str) -> container.ContainerConfig:
    path = config.placement.path
    return container.ContainerConfig(
        service="caddy",
        image="caddy",
        uid=UID_CADDY,
        health=HEALTH,
        command=("caddy", "run", "--config", "/etc/caddy/Caddyfile", "--adapter", "caddyfile"),
        mounts=(
            container.Mount(path(CONFIG_DIRECTORY), "/etc/caddy"),
            container.Mount(path(CADDY_DATA), "/data", read_only=False),
            container.Mount(path(CADDY_CONFIG), "/config", read_only=False),
            container.Mount(path(CADDY_LOG), LOG_MOUNT, read_only=False),
        ),
        ports=_published(config),
        environment={"HOME": "/data", "XDG_CONFIG_HOME": "/config", "XDG_DATA_HOME": "/data"},
        # Low ports need none here; but the official image's binary carries this one as a file
        # capability, and the kernel refuses to run it where it cannot be had.
        capabilities=("CAP_NET_BIND_SERVICE",),
        revision={"config": container.digest(text)},
    )
