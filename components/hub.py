"""0-hub: serves flists; in the modes `detached` and `standalone` it also takes uploads.

The hub itself never has the right to write chunks. What needs it, and what opens strangers'
archives, is the packer: a second container of the hub's image, in the writable modes, and, without
that right, in a mirror that opens flists for who asks (hub_tools/; docs/adr/0007).
"""

import base64
import json
from pathlib import Path
from typing import Any, Final

import pulumi

from components.container import NEAR, PYTHON, ContainerConfig, Mount, declare, digest
from components.host import Placement
from components.host_files import HostFile, python_config, write_files
from components.naming import Stack
from components.settings import Settings
from components.zdb import LOCAL_ZDB, published_zdb
from sync.contract import layout

PORT: Final = 5555
CONFIG_PATH: Final = f"{layout.SECRETS}/hub/config.py"
PACKER_SECRET_PATH: Final = f"{layout.SECRETS}/packer/{layout.ZDB_ADMIN_FILE}"
_PROBE: Final = (
    "import urllib.request as r; "
    f"r.urlopen('http://127.0.0.1:{PORT}/api/repositories', timeout=8).read(1)"
)
HEALTH: Final = ("CMD", "python3", "-c", _PROBE)
_TOOLS: Final = Path(__file__).parent.parent / "hub_tools"
_TOOLS_MOUNT: Final = "/gridhub"
# Below it: the programs by the names that the hub calls, and the modules that they import.
_TOOL_FILES: Final = {
    **{f"hub_tools/{name}": name for name in ("archives.py", "refusals.py", "said.py")},
    "packer.py": "packer.py",
    "tar": "front.py",
    "zflist": "front.py",
}
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
# A mirror's packer has a socket to give to the hub, and runs everything as the hub's uid.
READER_CAPABILITIES: Final = (
    *("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_SETGID", "CAP_SETUID"),
)
# The end of the hub's configuration, which is Python that the hub runs: see hub_tools/refusals.py.
_REFUSALS: Final = f"""
import sys
sys.path.append({_TOOLS_MOUNT!r})
from hub_tools import refusals
"""


class Hub(pulumi.ComponentResource):
    """The hub's container and its configuration file; the packer's where uploads are accepted.

    It has no Docker socket: converting Docker images is what that would serve, and it would make
    the hub root on the host.
    """

    def __init__(
        self, name: str, placement: Placement, zdb: pulumi.Resource, opts: pulumi.ResourceOptions
    ) -> None:
        super().__init__("gridhub:index:Hub", name, None, opts)
        stack, secrets = placement.stack, placement.secrets
        # What a mode does not use is not waited for, so that its rotation touches nothing here.
        guest = secrets.guest_token if _takes_guests(stack.settings) else ""
        content = pulumi.Output.all(secrets.hub_private_key, secrets.hub_seed, guest).apply(
            lambda values: _config_file(stack, *values)
        )
        file = HostFile(CONFIG_PATH, layout.UID_HUB, content)
        files = write_files(f"{name}-config", placement, self, file)
        tools = write_files(f"{name}-tools", placement, self, *_tools())
        # At start the hub asks 0-db, and ends if it gets no answer.
        needed: list[pulumi.Resource] = [files, tools, zdb]
        if stack.settings.inspects:
            before: list[pulumi.Resource] = [tools, zdb]
            if stack.settings.writable:
                password = secrets.zdb_admin_password
                secret = HostFile(PACKER_SECRET_PATH, layout.UID_PACKER, password)
                before.append(write_files("packer-secrets", placement, self, secret))
            packer = _packer_container(placement)
            needed.append(declare("packer-container", placement, packer, self, *before))
        container = declare(f"{name}-container", placement, _container(placement), self, *needed)
        self.register_outputs({"container": container.name})


def _takes_guests(settings: Settings) -> bool:
    return settings.writable and settings.hub.guest_access


def _tools() -> list[HostFile]:
    """Return the programs that stand between the hub and its tools; readable by all uids."""
    return [
        HostFile(f"{layout.HUB_TOOLS}/{name}", 0, (_TOOLS / source).read_text(), 0o555)
        for name, source in sorted(_TOOL_FILES.items())
    ]


def _tools_digest() -> str:
    return digest("".join(str(file.content) for file in _tools()))


def _config_file(stack: Stack, private_key: str, seed: str, guest_token: str) -> str:
    config = python_config(hub_config(stack, private_key, seed, guest_token))
    return config + (_REFUSALS if stack.settings.inspects else "")


def hub_config(stack: Stack, private_key: str, seed: str, guest_token: str) -> dict[str, Any]:
    """Return the hub's `config` (0-hub: src/config.py.sample).

    Secrets as StackSecrets has them: private_key base64, seed base64 of 32 bytes. The password of
    0-db is none of the hub's: `zflist-bin` drops the empty one that the hub then gives.
    """
    settings, zdb = stack.settings, published_zdb(stack)
    return {
        "authentication": True,
        "backend-internal-host": LOCAL_ZDB.host,
        "backend-internal-name": LOCAL_ZDB.namespace,
        "backend-internal-pass": "",
        "backend-internal-port": LOCAL_ZDB.port,
        "backend-public-host": zdb.host,
        "backend-public-name": zdb.namespace,
        "backend-public-port": zdb.port,
        "debug": False,
        "guest-token": guest_token if _takes_guests(settings) else None,
        "ignored-files": [".", "..", ".keep"],
        "iyo-callback": "",
        "iyo-clientid": "",
        "iyo-secret": "",
        "listen-addr": "::",
        "listen-port": PORT,
        "official-repositories": list(settings.hub.official_repositories),
        "public-website": stack.url(stack.hub),
        "readonly": not settings.writable,
        "threebot-appid": stack.url(stack.hub).partition("://")[2],
        "threebot-privatekey": private_key,
        "threebot-seed": base64.b64decode(seed),
        "threebot-users-map": dict(sorted(settings.hub.users_map.items())),
        "userdata-root-path": "/public",
        "workdir-root-path": "/workdir",
        "zflist-bin": f"{_TOOLS_MOUNT}/zflist",
    }


def _revision(stack: Stack) -> dict[str, str]:
    """Return what a restart must follow: the configuration without secrets, and their counters.

    A digest of the secrets themselves would let a reader of the labels test guesses.
    """
    rotation = stack.settings.rotation
    revision = {
        "config": digest(_config_file(stack, "hidden", "", "hidden")),
        "tools": _tools_digest(),
        "hubKey": str(rotation.hub_key),
        "hubSeed": str(rotation.hub_seed),
    }
    if _takes_guests(stack.settings):
        revision["guestToken"] = str(rotation.guest_token)
    return revision


def _container(placement: Placement) -> ContainerConfig:
    path, settings = placement.path, placement.settings
    mounts = (
        Mount(path(layout.HUB_PUBLIC), "/public", read_only=not settings.writable),
        Mount(path(layout.HUB_WORKDIR), "/workdir", read_only=False),
        Mount(path(CONFIG_PATH), "/hub/src/config.py"),
        Mount(path(layout.HUB_TOOLS), _TOOLS_MOUNT),
    )
    # Uploads are spooled where there is space, not in the memory that /tmp is made of.
    environment = {**PYTHON, "TMPDIR": "/workdir"}
    if settings.inspects:
        environment |= {
            "GRIDHUB_PACKER": _PACKER_SOCKET,
            # Before the image's own: the hub calls `tar` by its name.
            "PATH": f"{_TOOLS_MOUNT}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        }
    return ContainerConfig(
        service="hub",
        uid=layout.UID_HUB,
        health=HEALTH,
        mounts=mounts,
        environment=environment,
        tmpfs={"/tmp": "size=64m,mode=1777"},  # noqa: S108
        sysctls=NEAR,
        revision=_revision(placement.stack),
    )


def _packer_container(placement: Placement) -> ContainerConfig:
    path, settings = placement.path, placement.settings
    mounts = [
        Mount(path(layout.HUB_PUBLIC), "/public", read_only=not settings.writable),
        Mount(path(layout.HUB_WORKDIR), "/workdir", read_only=False),
        Mount(path(layout.HUB_PACKING), "/packing", read_only=False),
        Mount(path(layout.HUB_TOOLS), _TOOLS_MOUNT),
    ]
    environment = {
        "GRIDHUB_BACKEND": json.dumps(LOCAL_ZDB.model_dump(), sort_keys=True),
        "GRIDHUB_HUB_UID": str(layout.UID_HUB),
        "GRIDHUB_PACKER": _PACKER_SOCKET,
        **PYTHON,
    }
    revision = {"tools": _tools_digest()}
    if settings.writable:
        mounts.append(Mount(path(f"{layout.SECRETS}/packer"), _PACKER_SECRETS))
        environment["GRIDHUB_PASSWORD_FILE"] = f"{_PACKER_SECRETS}/{layout.ZDB_ADMIN_FILE}"
        revision["zdbAdmin"] = str(settings.rotation.zdb_admin)
    return ContainerConfig(
        service="packer",
        image="hub",
        uid=layout.UID_PACKER,
        health=PACKER_HEALTH,
        entrypoint=("python3", f"{_TOOLS_MOUNT}/packer.py"),
        mounts=mounts,
        environment=environment,
        capabilities=PACKER_CAPABILITIES if settings.writable else READER_CAPABILITIES,
        # It runs tools as the hub's uid, and none would start where the hub serves many clients.
        fellows=settings.limits.hub.processes,
        revision=revision,
    )
