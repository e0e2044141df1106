"""0-bootstrap: serves kernels, net links and boot scripts."""

from dataclasses import dataclass
from typing import Any, Final

import pulumi

from components import container
from components.pyconfig import render
from components.settings.model import BootstrapSettings
from sync.contract.layout import KERNELS, SECRETS, UID_BOOTSTRAP

PORT: Final = 5555
CONFIG_PATH: Final = f"{SECRETS}/bootstrap/config.py"
_PROBE: Final = (
    "import http.client as h, sys; "
    f"c = h.HTTPConnection('127.0.0.1', {PORT}, timeout=8); "
    "c.request('GET', '/images'); "
    "sys.exit(c.getresponse().status >= 500)"
)
HEALTH: Final = ("CMD", "python3", "-c", _PROBE)


@dataclass(frozen=True)
class BootstrapConfig:
    """public_url: of the bootstrap server. rotation: counter of its API token."""

    placement: container.Placement
    settings: BootstrapSettings
    public_url: str
    api_token: pulumi.Output[str]
    rotation: int


class Bootstrap(pulumi.ComponentResource):
    """The bootstrap container and its configuration file.

    It runs without privileges, so it builds every boot medium except the UEFI disk image, which
    wants loop devices and mounts. The kernels are the kernels job's: here they are read-only.
    """

    def __init__(
        self, name: str, config: BootstrapConfig, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("gridhub:index:Bootstrap", name, None, opts)
        content = config.api_token.apply(lambda token: render(bootstrap_config(config, token)))
        self.files = container.write_files(
            f"{name}-config",
            config.placement,
            [container.HostFile(CONFIG_PATH, UID_BOOTSTRAP, content)],
            self,
        )
        self.container = container.declare(
            f"{name}-container", config.placement, _container(config), self, self.files
        )
        self.register_outputs({"container": self.container.name})


def bootstrap_config(config: BootstrapConfig, api_token: str) -> dict[str, Any]:
    """Return bootstrap's `config` (0-bootstrap: config.py.sample)."""
    return {
        "api-token": api_token,
        "base-host": config.public_url,
        "bootstrap-db": "db/bootstrap.sqlite3",
        "debug": False,
        "http-port": PORT,
        "ipxe-template": "/opt/ipxe-template",
        "ipxe-template-uefi": "/opt/ipxe-template-uefi",
        "kernel-net-path": "/opt/kernels/net",
        "kernel-path": "/opt/kernels",
        "popular": [],
        "popular-description": {},
        "runmodes": dict(config.settings.run_modes),
    }


def _container(config: BootstrapConfig) -> container.ContainerConfig:
    path = config.placement.path
    shown = render(bootstrap_config(config, "hidden"))
    return container.ContainerConfig(
        service="bootstrap",
        image="bootstrap",
        uid=UID_BOOTSTRAP,
        health=HEALTH,
        mounts=(
            container.Mount(path(KERNELS), "/opt/kernels"),
            container.Mount(path(CONFIG_PATH), "/bootstrap/config.py"),
        ),
        environment={"PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"},
        # Boot media are compiled there, by tools that are compiled there first.
        tmpfs={"/tmp": "size=512m,mode=1777,exec"},  # noqa: S108
        revision={
            "bootstrapToken": str(config.rotation),
            "config": container.digest(shown),
        },
    )
