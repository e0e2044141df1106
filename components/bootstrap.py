"""0-bootstrap: serves kernels, net links and boot scripts."""

from typing import Any, Final

import pulumi

from components.container import NEAR, PYTHON, ContainerConfig, Mount, declare, digest
from components.host import Placement
from components.host_files import HostFile, python_config, write_files
from components.naming import Stack
from components.settings import Settings
from components.settings.capacity import BUILD_MB, builds_at_once
from sync.contract.layout import KERNELS, SECRETS, UID_BOOTSTRAP

PORT: Final = 5555
CONFIG_PATH: Final = f"{SECRETS}/bootstrap/config.py"
_PROBE: Final = (
    "import http.client as h, sys; "
    f"c = h.HTTPConnection('127.0.0.1', {PORT}, timeout=8); "
    "c.request('GET', '/images'); "
    "sys.exit(c.getresponse().status >= 500)"
)
_LEAST_SPACE_MB: Final = 512
HEALTH: Final = ("CMD", "python3", "-c", _PROBE)


class Bootstrap(pulumi.ComponentResource):
    """The bootstrap container and its configuration file.

    It runs without privileges, so it builds every boot medium except the UEFI disk image, which
    wants loop devices and mounts. The kernels are the kernels job's: here they are read-only.
    """

    def __init__(self, name: str, placement: Placement, opts: pulumi.ResourceOptions) -> None:
        super().__init__("gridhub:index:Bootstrap", name, None, opts)
        content = placement.secrets.bootstrap_api_token.apply(
            lambda token: python_config(bootstrap_config(placement.stack, token))
        )
        file = HostFile(CONFIG_PATH, UID_BOOTSTRAP, content)
        files = write_files(f"{name}-config", placement, self, file)
        container = declare(f"{name}-container", placement, _container(placement), self, files)
        self.register_outputs({"container": container.name})


def bootstrap_config(stack: Stack, api_token: str) -> dict[str, Any]:
    """Return bootstrap's `config` (0-bootstrap: config.py.sample)."""
    return {
        "api-token": api_token,
        "base-host": stack.url(stack.bootstrap),
        "bootstrap-db": "db/bootstrap.sqlite3",
        "debug": False,
        "http-port": PORT,
        "ipxe-template": "/opt/ipxe-template",
        "ipxe-template-uefi": "/opt/ipxe-template-uefi",
        "kernel-net-path": "/opt/kernels/net",
        "kernel-path": "/opt/kernels",
        "popular": [],
        "popular-description": {},
        "runmodes": dict(stack.settings.bootstrap.run_modes),
    }


def _space_mb(settings: Settings) -> int:
    """Return the room in /tmp for the media that are built at a time, and one that is given up."""
    return max(_LEAST_SPACE_MB, BUILD_MB * (builds_at_once(settings) + 1))


def _container(placement: Placement) -> ContainerConfig:
    shown = python_config(bootstrap_config(placement.stack, "hidden"))
    return ContainerConfig(
        service="bootstrap",
        uid=UID_BOOTSTRAP,
        health=HEALTH,
        mounts=(
            Mount(placement.path(KERNELS), "/opt/kernels"),
            Mount(placement.path(CONFIG_PATH), "/bootstrap/config.py"),
        ),
        environment=PYTHON,
        # Boot media are compiled there, by tools that are compiled there first.
        tmpfs={"/tmp": f"size={_space_mb(placement.settings)}m,mode=1777,exec"},  # noqa: S108
        sysctls=NEAR,
        revision={
            "bootstrapToken": str(placement.settings.rotation.bootstrap_token),
            "config": digest(shown),
        },
    )
