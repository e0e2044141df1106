"""0-hub: serves flists; in the modes `detached` and `standalone` it also takes uploads.

The hub itself never has the right to write chunks. What needs it, and what opens strangers'
archives, is the packer: a second container of the hub's image, in the writable modes only
(hub_tools/; docs/adr/0007).
"""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pulumi

from components import container
from components.pyconfig import render
from components.settings.model import HubSettings, Mode
from sync.contract import layout
from sync.providers import StackSecrets

PORT: Final = 5555
CONFIG_PATH: Final = f"{layout.SECRETS}/hub/config.py"
PACKER_SECRET_PATH: Final = f"{layout.SECRETS}/packer/{layout.ZDB_ADMIN_FILE}"
_HIDDEN: Final = "hidden"
_PROBE: Final = (
    "import urllib.request as r; "
    f"r.urlopen('http://127.0.0.1:{PORT}/api/repositories', timeout=8).read(1)"
)
HEALTH: Final = ("CMD", "python3", "-c", _PROBE)
_BACKEND: Final = {"host": "zdb", "namespace": "default", "port": 9900}
_TOOLS: Final = Path(__file__).parent.parent / "hub_tools"
_TOOLS_MOUNT: Final = "/gridhub"
_PACKER_SOCKET: Final = "/workdir/packer.sock"
_PACKER_SECRETS: Final = "/secrets"
_PACKER_PROBE: Final = (
    "import socket as s; c = s.socket(s.AF_UNIX); c.settimeout(8); "
    f"c.connect('{_PACKER_SOCKET}'); s.send_fds(c, [b'\\n'], [1, 2]); "
    """c.sendall(b'{"tool": "ping", "arguments": [], "environment": {}}\\n'); """
    "raise SystemExit(c.recv(9) != b'0\\n')"
)
PACKER_HEALTH: Final = ("CMD", "python3", "-c", _PACKER_PROBE)
# What keeps owners, modes, set-id bits and device nodes of an upload (CHOWN to MKNOD), and what
# runs everything else as the hub's uid (SETGID, SETUID). Tried: without any one of them an upload
# lacks something, or nothing runs.
PACKER_CAPABILITIES: Final = (
    *("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_MKNOD"),
    *("CAP_SETGID", "CAP_SETUID"),
)


@dataclass(frozen=True)
class HubConfig:
    """public_url: of the hub. zdb_public: host and port that flists name. rotation: counters.

    zdb: the 0-db container, which must run first.
    """

    placement: container.Placement
    settings: HubSettings
    mode: Mode
    public_url: str
    zdb_public: tuple[str, int]
    secrets: StackSecrets
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
    """The hub's container and its configuration file; the packer's where uploads are accepted.

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
        content = pulumi.Output.all(secrets.hub_private_key, secrets.hub_seed, guest).apply(
            lambda values: render(hub_config(config, *values))
        )
        files = [container.HostFile(CONFIG_PATH, layout.UID_HUB, content)]
        self.files = container.write_files(f"{name}-config", config.placement, files, self)
        self.tools = container.write_files(f"{name}-tools", config.placement, _tools(), self)
        # At start the hub asks 0-db, and ends if it gets no answer.
        needed = [self.files, self.tools, config.zdb]
        if config.writable:
            needed.append(self._packer(config))
        self.container = container.declare(
            f"{name}-container", config.placement, _container(config), self, *needed
        )
        self.register_outputs({"container": self.container.name})

    def _packer(self, config: HubConfig) -> pulumi.Resource:
        password = container.HostFile(
            PACKER_SECRET_PATH, layout.UID_PACKER, config.secrets.zdb_admin_password
        )
        secrets = container.write_files("packer-secrets", config.placement, [password], self)
        needed = (secrets, self.tools, config.zdb)
        return container.declare(
            "packer-container", config.placement, _packer_container(config), self, *needed
        )


def _tools() -> list[container.HostFile]:
    """Return the programs that stand between the hub and its tools; readable by all uids."""
    front, packer = ((_TOOLS / name).read_text() for name in ("front.py", "packer.py"))
    contents = {"packer.py": packer, "tar": front, "zflist": front}
    return [
        container.HostFile(f"{layout.HUB_TOOLS}/{name}", 0, content, 0o555)
        for name, content in sorted(contents.items())
    ]


def _tools_digest() -> str:
    return container.digest("".join(str(file.content) for file in _tools()))


def hub_config(config: HubConfig, private_key: str, seed: str, guest_token: str) -> dict[str, Any]:
    """Return the hub's `config` (0-hub: src/config.py.sample).

    Secrets as StackSecrets has them: private_key base64, seed base64 of 32 bytes. The password of
    0-db is none of the hub's: `zflist-bin` drops the empty one that the hub then gives.
    """
    writable = config.writable
    public_host, public_port = config.zdb_public
    return {
        "authentication": True,
        "backend-internal-host": _BACKEND["host"],
        "backend-internal-name": _BACKEND["namespace"],
        "backend-internal-pass": "",
        "backend-internal-port": _BACKEND["port"],
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
        "zflist-bin": f"{_TOOLS_MOUNT}/zflist",
    }


def _revision(config: HubConfig) -> dict[str, str]:
    """Return what a restart must follow: the configuration without secrets, and their counters.

    A digest of the secrets themselves would let a reader of the labels test guesses.
    """
    shown = hub_config(config, _HIDDEN, "", _HIDDEN)
    counters = ["hubKey", "hubSeed"]
    counters += ["guestToken"] if config.guests else []
    return {
        "config": container.digest(render(shown)),
        "tools": _tools_digest(),
        **{name: str(config.rotation[name]) for name in counters},
    }


def _container(config: HubConfig) -> container.ContainerConfig:
    path = config.placement.path
    mounts = (
        container.Mount(path(layout.HUB_PUBLIC), "/public", read_only=not config.writable),
        container.Mount(path(layout.HUB_WORKDIR), "/workdir", read_only=False),
        container.Mount(path(CONFIG_PATH), "/hub/src/config.py"),
        container.Mount(path(layout.HUB_TOOLS), _TOOLS_MOUNT),
    )
    # Uploads are spooled where there is space, not in the memory that /tmp is made of.
    environment = {
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        "TMPDIR": "/workdir",
    }
    if config.writable:
        environment |= {
            "GRIDHUB_PACKER": _PACKER_SOCKET,
            # Before the image's own: the hub calls `tar` by its name.
            "PATH": f"{_TOOLS_MOUNT}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        }
    return container.ContainerConfig(
        service="hub",
        image="hub",
        uid=layout.UID_HUB,
        health=HEALTH,
        mounts=mounts,
        environment=environment,
        tmpfs={"/tmp": "size=64m,mode=1777"},  # noqa: S108
        revision=_revision(config),
    )


def _packer_container(config: HubConfig) -> container.ContainerConfig:
    path = config.placement.path
    return container.ContainerConfig(
        service="packer",
        image="hub",
        uid=layout.UID_PACKER,
        health=PACKER_HEALTH,
        entrypoint=("python3", f"{_TOOLS_MOUNT}/packer.py"),
        mounts=(
            container.Mount(path(layout.HUB_PUBLIC), "/public", read_only=False),
            container.Mount(path(layout.HUB_WORKDIR), "/workdir", read_only=False),
            container.Mount(path(layout.HUB_PACKING), "/packing", read_only=False),
            container.Mount(path(layout.HUB_TOOLS), _TOOLS_MOUNT),
            container.Mount(path(f"{layout.SECRETS}/packer"), _PACKER_SECRETS),
        ),
        environment={
            "GRIDHUB_BACKEND": json.dumps(_BACKEND, sort_keys=True),
            "GRIDHUB_HUB_UID": str(layout.UID_HUB),
            "GRIDHUB_PACKER": _PACKER_SOCKET,
            "GRIDHUB_PASSWORD_FILE": f"{_PACKER_SECRETS}/{layout.ZDB_ADMIN_FILE}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUNBUFFERED": "1",
        },
        capabilities=PACKER_CAPABILITIES,
        revision={"tools": _tools_digest(), "zdbAdmin": str(config.rotation["zdbAdmin"])},
    )
