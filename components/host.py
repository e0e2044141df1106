"""The Docker host: how it is reached, where a stack is placed on it, the folders of its data."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from urllib.parse import urlsplit

import pulumi

from components.images import pullable
from components.naming import DockerNames, Stack
from components.settings import Settings
from components.settings.model import HostSettings
from sync.contract.layout import directories, under
from sync.providers.resources import HostDirectories, StackSecrets


def connection(settings: Settings) -> dict[str, str]:
    """Return the mapping that every dynamic resource takes as `host`.

    Its helperImage is the one that host operations run in.
    """
    host = settings.host
    return {
        "dockerHost": host.docker,
        "sshKeyPath": host.ssh_key_path or "",
        "knownHostsPath": host.known_hosts_path or "",
        "helperImage": pullable(settings.images.python),
    }


def ssh_options(host: HostSettings) -> list[str] | None:
    """Return ssh's options for an ssh:// host, whose key they pin; None for a local one."""
    if not host.docker.startswith("ssh://"):
        return None
    options = {
        "BatchMode": "yes",
        "ConnectTimeout": "20",
        # The project's file alone says which key is the host's.
        "GlobalKnownHostsFile": "/dev/null",
        "IdentitiesOnly": "yes",
        "ServerAliveInterval": "15",
        "StrictHostKeyChecking": "yes",
        "UserKnownHostsFile": _as_one(str(host.known_hosts_path)),
    }
    flags = [part for key, value in options.items() for part in ("-o", f"{key}={value}")]
    # No configuration of the machine or of its user says otherwise, by KnownHostsCommand, HostName,
    # ProxyCommand, ControlPath, RemoteCommand or a file of more keys (ssh(1), -F): the connections
    # that are not Docker's read none either.
    return ["-F", "none", "-i", str(host.ssh_key_path), *flags]


def _as_one(path: str) -> str:
    """Return a path as ssh takes it for one file, whose option may name several."""
    return f'"{path}"' if set(path) & set(" '") else path


def ssh_command(host: HostSettings) -> list[str]:
    """Return how to get onto an ssh:// host; ssh wants IPv6 addresses without brackets."""
    parts = urlsplit(host.docker)
    port = [] if parts.port is None else ["-p", str(parts.port)]
    return ["ssh", *(ssh_options(host) or []), *port, f"{parts.username}@{parts.hostname}"]


class DataRoot(pulumi.ComponentResource):
    """The folders below the data root, each owned by the one uid that writes it."""

    def __init__(
        self,
        name: str,
        settings: Settings,
        after: list[pulumi.Resource],
        opts: pulumi.ResourceOptions,
    ) -> None:
        super().__init__("gridhub:index:DataRoot", name, None, opts)
        self.directories = HostDirectories(
            f"{name}-directories",
            host=connection(settings),
            root=settings.data_root,
            directories=[
                asdict(entry)
                for entry in directories(hub_writes=settings.writable, packer=settings.inspects)
            ],
            must_be_mount=settings.preflight.data_root_is_mount,
            purge=settings.purge,
            opts=pulumi.ResourceOptions(parent=self, depends_on=after, protect=settings.production),
        )
        self.register_outputs({"root": settings.data_root})


@dataclass(frozen=True)
class Placement:
    """Where all of a stack goes. names: of its Docker objects. images: ids, by their service.

    after: what must have succeeded before anything else on the host is touched.
    """

    stack: Stack
    names: pulumi.Output[DockerNames]
    secrets: StackSecrets
    images: Mapping[str, pulumi.Output[str]]
    network_name: pulumi.Output[str]
    after: list[pulumi.Resource]

    @property
    def settings(self) -> Settings:
        """The stack's."""
        return self.stack.settings

    @property
    def connection(self) -> dict[str, str]:
        """How the dynamic resources reach the host."""
        return connection(self.settings)

    def options(self, parent: pulumi.Resource, *after: pulumi.Resource) -> pulumi.ResourceOptions:
        """Return the options of a child that also waits for `after`."""
        return pulumi.ResourceOptions(parent=parent, depends_on=[*self.after, *after])

    def container_name(self, service: str) -> pulumi.Output[str]:
        """Return the name of a service's container."""
        return self.names.apply(lambda names: names.container(service))

    def path(self, relative: str) -> str:
        """Return the absolute path on the host of a path below the data root."""
        return under(self.settings.data_root, relative)
