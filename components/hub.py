"""0-hub: serves flists; in the modes `detached` and `standalone` it also takes uploads."""

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import pulumi

from components.container import ContainerConfig, HostFile, Mount, Placement, declare, write_files
from components.pyconfig import render
from components.settings.model import HubSettings, Mode, ServiceLimits
from sync.contract.layout import HUB_PUBLIC, HUB_WORKDIR, SECRETS, UID_HUB

PORT: Final = 5555
CONFIG_PATH: Final = f"{SECRETS}/hub/config.py"
_HIDDEN: Final = "hidden"
_PROBE: Final = (
    "import urllib.request as r; "
    f"r.urlopen('http://127.0.0.1:{PORT}/api/repositories', timeout=8).read(1)"
)
HEALTH: Final = ("CMD", "python3", "-c", _PROBE)


@dataclass(frozen=True)
class HubSecrets:
    """What the hub's configuration holds of the stack's secrets; see StackSecrets for formats."""

    private_key: pulumi.Output[str]
    seed: pulumi.Output[str]
    guest_token: pulumi.Output[str]
    zdb_admin: pulumi.Output[str]


@dataclass(frozen=True)
class HubConfig:
    """public_url: of the hub. zdb_public: host and port that flists name. rotation: counters.

    zdb: the 0-db container, which must run first.
    """

    placement: Placement
    image_id: pulumi.Input[str]
    limits: ServiceLimits
    settings: HubSettings
    mode: Mode
    public_url: str
    zdb_public: tuple[str, int]
    secrets: HubSecrets
    rotation: Mapping[str, int]
    zdb: pulumi.Resource

    @property
    def writable(self) -> bool:
        """Whether the hub accepts uploads."""
        return self.mode != "mirror"

    @property
    def guests(self) -> bool:
        """Whether the hub accepts the guest token."""
        return self.writable and self.settings.guest_access


class Hub(pulumi.ComponentResource):
    """The hub's container and its configuration file.

    It has no Docker socket: converting Docker images is what that would serve, and it would make
    the hub root on the host.
    """

    def __init__(
        self, name: str, config: HubConfig, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("gridhub:index:Hub", name, None, opts)
        secrets = config.secrets
        # What a mode does not use is not waited for, so that its rotation touches nothing here.
        guest = secrets.guest_token if config.guests else ""
        zdb_admin = secrets.zdb_admin if config.writable else ""
        content = pulumi.Output.all(secrets.private_key, secrets.seed, guest, zdb_admin).apply(
            lambda values: render(hub_config(config, *values))
        )
        self.files = write_files(
            f"{name}-config", config.placement, [HostFile(CONFIG_PATH, UID_HUB, content)], self
        )
        self.container = declare(
            f"{name}-container",
            config.placement,
            _container(config),
            # At start the hub asks 0-db, and ends if it gets no answer.
            config.placement.options(self, self.files, config.zdb),
        )
        self.register_outputs({"container": self.container.name})


def hub_config(
    config: HubConfig, private_key: str, seed: str, guest_token: str, zdb_admin: str
) -> dict[str, Any]:
    """Return the hub's `config` (0-hub: src/config.py.sample).

    Secrets as StackSecrets has them: private_key base64, seed base64 of 32 bytes.
    """
    writable = config.writable
    public_host, public_port = config.zdb_public
    return {
        "authentication": True,
        "backend-internal-host": "zdb",
        "backend-internal-name": "default",
        "backend-internal-pass": zdb_admin if writable else "",
        "backend-internal-port": 9900,
        "backend-public-host": public_host,
        "backend-public-name": "default",
        "backend-public-port": public_port,
        "debug": False,
        "guest-token": guest_token if config.guests else None,
        "ignored-files": [".", "..", ".keep"],
        "iyo-callback": "",
        "iyo-clientid": "",
        "iyo-secret": "",
        "listen-addr": "::",
        "listen-port": PORT,
        "official-repositories": list(config.settings.official_repositories),
        "public-website": config.public_url,
        "readonly": not writable,
        "threebot-appid": config.public_url.partition("://")[2],
        "threebot-privatekey": private_key,
        "threebot-seed": base64.b64decode(seed),
        "threebot-users-map": dict(sorted(config.settings.users_map.items())),
        "userdata-root-path": "/public",
        "workdir-root-path": "/workdir",
        "zflist-bin": "/usr/bin/zflist",
    }


def _revision(config: HubConfig) -> dict[str, str]:
    """Return what a restart must follow: the configuration without secrets, and their counters.

    A digest of the secrets themselves would let a reader of the labels test guesses.
    """
    shown = hub_config(config, _HIDDEN, "", _HIDDEN, _HIDDEN)
    counters = ["hubKey", "hubSeed"]
    counters += ["zdbAdmin"] if config.writable else []
    counters += ["guestToken"] if config.guests else []
    digest = hashlib.sha256(render(shown).encode()).hexdigest()[:16]
    return {"config": digest, **{name: str(config.rotation[name]) for name in counters}}


def _container(config: HubConfig) -> ContainerConfig:
    path = config.placement.path
    mounts = (
        Mount(path(HUB_PUBLIC), "/public", read_only=not config.writable),
        Mount(path(HUB_WORKDIR), "/workdir", read_only=False),
        Mount(path(CONFIG_PATH), "/hub/src/config.py"),
    )
    return ContainerConfig(
        service="hub",
        image_id=config.image_id,
        uid=UID_HUB,
        limits=config.limits,
        health=HEALTH,
        mounts=mounts,
        # Uploads are spooled where there is space, not in the memory that /tmp is made of.
        environment={"PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1", "TMPDIR": "/workdir"},
        tmpfs={"/tmp": "size=64m,mode=1777"},  # noqa: S108
        revision=_revision(config),
    )
