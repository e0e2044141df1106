"""The edge: Caddy in front of hub and bootstrap, with certificates, logs and metrics."""

from typing import Final

import pulumi

from components.caddyfile import LOG_MOUNT, METRICS_PORT, caddyfile
from components.container import NEAR, ContainerConfig, Mount, PublishedPort, declare, digest
from components.host import Placement
from components.host_files import HostFile, write_files
from components.settings import Settings
from sync.contract.layout import CADDY_CONFIG, CADDY_DATA, CADDY_LOG, CONFIG, UID_CADDY

CONFIG_DIRECTORY: Final = f"{CONFIG}/caddy"
# Bounded by `timeout`, which every busybox has; `wget -T` is a choice of its build, and Debian's
# dies of it.
HEALTH: Final = (
    "CMD-SHELL",
    f"busybox timeout 5 busybox wget -q -O /dev/null http://127.0.0.1:{METRICS_PORT}/healthz",
)
# Caddy before 2.7 refuses a file that names the wrapper by which it takes the clients' addresses
# from the gate; it logs the gate's instead.
_START: Final = (
    "caddy list-modules | grep -qx caddy.listeners.proxy_protocol && "
    "export GRIDHUB_LISTENER=proxied; "
    "exec caddy run --config /etc/caddy/Caddyfile --adapter caddyfile"
)


class Edge(pulumi.ComponentResource):
    """The Caddy container and its Caddyfile.

    Its data folder holds the certificates and their keys; it outlives the container.
    """

    def __init__(self, name: str, placement: Placement, opts: pulumi.ResourceOptions) -> None:
        super().__init__("gridhub:index:Edge", name, None, opts)
        text = caddyfile(placement.stack)
        file = HostFile(f"{CONFIG_DIRECTORY}/Caddyfile", UID_CADDY, text)
        files = write_files(f"{name}-config", placement, self, file)
        config = _container(placement, text)
        self.container = declare(f"{name}-container", placement, config, self, files)
        self.register_outputs({"container": self.container.name})


def _published(settings: Settings) -> list[PublishedPort]:
    if (metrics := settings.ports.metrics) is None:
        return []
    return [PublishedPort(METRICS_PORT, metrics, host) for host in ("127.0.0.1", "::1")]


def _container(placement: Placement, text: str) -> ContainerConfig:
    path = placement.path
    return ContainerConfig(
        service="caddy",
        uid=UID_CADDY,
        health=HEALTH,
        command=("sh", "-c", _START),
        mounts=(
            Mount(path(CONFIG_DIRECTORY), "/etc/caddy"),
            Mount(path(CADDY_DATA), "/data", read_only=False),
            Mount(path(CADDY_CONFIG), "/config", read_only=False),
            Mount(path(CADDY_LOG), LOG_MOUNT, read_only=False),
        ),
        ports=_published(placement.settings),
        environment={"HOME": "/data", "XDG_CONFIG_HOME": "/config", "XDG_DATA_HOME": "/data"},
        # Low ports need none here; but the official image's binary carries this one as a file
        # capability, and the kernel refuses to run it where it cannot be had.
        capabilities=("CAP_NET_BIND_SERVICE",),
        sysctls=NEAR,
        revision={"config": digest(text)},
    )
