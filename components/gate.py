"""The gate: what clients of the edge meet first, so that a rude one costs the others nothing.

It runs programs of ours (gate/) in the Python image that every stack has (docs/adr/0017).
"""

import json
from pathlib import Path
from typing import Any, Final

import pulumi

from components import bootstrap, hub
from components.caddyfile import (
    HTTP_PORT,
    HTTPS_PORT,
    LISTINGS_PORT,
    MEDIA_PORT,
    METRICS_PORT,
)
from components.container import PYTHON, ContainerConfig, Mount, PublishedPort, declare, digest
from components.host import Placement
from components.host_files import HostFile, write_files
from components.settings import Settings
from components.settings.capacity import builds_at_once, connections, connections_per_address
from sync.contract.layout import GATE, UID_GATE

# Its own ports, by Caddy's that it passes them on to.
PORTS: Final = {HTTP_PORT: 8080, HTTPS_PORT: 8443}
HEALTH_PORT: Final = 9181
# What is on its way to a client may be as much as the way holds; what waits here is little.
_SYSCTLS: Final = {
    "net.ipv4.tcp_notsent_lowat": "65536",
    "net.ipv4.tcp_rmem": "4096 131072 1048576",
}
# Boot media that wait to be built: two at a time, some 8 s each, make two minutes of the last.
_WAITING: Final = 32
_WAITING_PER_CLIENT: Final = 8
# With what is on its way (gate/service.py) in what capacity.py has for no clients.
_SHELF_BYTES: Final = 32 << 20
_SOURCES: Final = Path(__file__).parent.parent / "gate"
_PACKAGES: Final = "/opt/gridhub"
_PROBE: Final = (
    "import socket as s; "
    f"c = s.create_connection(('127.0.0.1', {HEALTH_PORT}), 8); c.settimeout(8); "
    "told = c.makefile().read(); print(told, end=''); raise SystemExit(not told)"
)
HEALTH: Final = ("CMD", "python3", "-c", _PROBE)


class Gate(pulumi.ComponentResource):
    """The gate's container and its programs."""

    def __init__(
        self, name: str, placement: Placement, caddy: pulumi.Resource, opts: pulumi.ResourceOptions
    ) -> None:
        super().__init__("gridhub:index:Gate", name, None, opts)
        files = write_files(f"{name}-files", placement, self, *_files())
        # Where Caddy had the public ports itself, as in releases before, it must have let them go.
        container = declare(
            f"{name}-container", placement, _container(placement), self, files, caddy
        )
        self.register_outputs({"container": container.name})


def _files() -> list[HostFile]:
    """Return the gate's programs; readable by all uids."""
    return [
        HostFile(f"{GATE}/{path.name}", 0, path.read_text(), 0o444)
        for path in sorted(_SOURCES.glob("*.py"))
    ]


def gate_config(settings: Settings) -> str:
    """Return what the gate reads of its environment (gate/__main__.py)."""
    config: dict[str, Any] = {
        "caddy": "caddy",
        "ask_port": METRICS_PORT,
        "lines": {str(own): port for port, own in PORTS.items()},
        "connections": connections(settings),
        "connections_per_address": connections_per_address(settings),
        "health_port": HEALTH_PORT,
        "listings": {"port": LISTINGS_PORT, "hub": "hub", "hub_port": hub.PORT},
    }
    if settings.bootstrap.enabled:
        config["media"] = {
            "port": MEDIA_PORT,
            "bootstrap": "bootstrap",
            "bootstrap_port": bootstrap.PORT,
            "modes": sorted(settings.bootstrap.run_modes),
            "builds": builds_at_once(settings),
            "waiting": _WAITING,
            "waiting_per_client": _WAITING_PER_CLIENT,
            "shelf_bytes": _SHELF_BYTES,
        }
    return json.dumps(config, sort_keys=True)


def _published(settings: Settings) -> list[PublishedPort]:
    pairs = ((settings.ports.http, HTTP_PORT), (settings.ports.https, HTTPS_PORT))
    return [
        PublishedPort(PORTS[port], external, address)
        for address in settings.bind.addresses
        for external, port in pairs
    ]


def _container(placement: Placement) -> ContainerConfig:
    settings = placement.settings
    return ContainerConfig(
        service="gate",
        image="python",
        uid=UID_GATE,
        health=HEALTH,
        command=("python3", "-m", "gate"),
        mounts=(Mount(placement.path(GATE), f"{_PACKAGES}/gate"),),
        ports=_published(settings),
        environment={
            **PYTHON,
            "GRIDHUB_GATE": gate_config(settings),
            "PYTHONPATH": _PACKAGES,
        },
        sysctls=_SYSCTLS,
        revision={"programs": digest("".join(str(file.content) for file in _files()))},
    )
