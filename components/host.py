"""The Docker host: provider, images, the stack's network, the folders below the data root."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import pulumi
import pulumi_docker as docker

from components.naming import DockerNames
from components.settings.model import HostSettings, ImageSettings, NetworkSettings
from sync.contract.layout import directories
from sync.providers import HostDirectories


def connection(host: HostSettings, helper_image: str) -> dict[str, str]:
    """Return the mapping that every dynamic resource takes as `host`.

    helper_image: the one that host operations run in (python).
    """
    return {
        "dockerHost": host.docker,
        "sshKeyPath": host.ssh_key_path or "",
        "knownHostsPath": host.known_hosts_path or "",
        "helperImage": pullable(helper_image),
    }


def docker_provider(name: str, host: HostSettings) -> docker.Provider:
    """Return the provider for the stack's Docker Engine; over SSH the host's key is pinned."""
    return docker.Provider(name, host=host.docker, ssh_opts=ssh_options(host))


def ssh_options(host: HostSettings) -> list[str] | None:
    """Return ssh's options for an ssh:// host; None for a local one."""
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
        "UserKnownHostsFile": str(host.known_hosts_path),
    }
    flags = [part for key, value in options.items() for part in ("-o", f"{key}={value}")]
    return ["-i", str(host.ssh_key_path), *flags]


def pullable(reference: str) -> str:
    """Return an image reference without its tag where a digest says what is meant.

    The engine knows a pulled image as NAME@DIGEST only, so a tag in between would not be found.
    """
    name, at, digest = reference.partition("@")
    if not at:
        return reference
    path, slash, last = name.rpartition("/")
    return f"{path}{slash}{last.partition(':')[0]}@{digest}"


@dataclass(frozen=True)
class ImagesConfig:
    """images: the pinned references. bootstrap: whether a bootstrap server runs here.

    after: what must have succeeded before the first is pulled.
    """

    images: ImageSettings
    bootstrap: bool
    after: tuple[pulumi.Resource, ...]


class Images(pulumi.ComponentResource):
    """The service images on the host; `ids` maps a service to the image id that pins it.

    It pulls, and never builds or removes: an image may be another stack's too.
    """

    ids: Mapping[str, pulumi.Output[str]]

    def __init__(
        self, name: str, config: ImagesConfig, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("gridhub:index:Images", name, None, opts)
        self.resources = {
            service: docker.RemoteImage(
                f"{name}-{service}",
                name=pullable(reference),
                keep_locally=True,
                opts=pulumi.ResourceOptions(parent=self, depends_on=list(config.after)),
            )
            for service, reference in config.images
            if service != "bootstrap" or config.bootstrap
        }
        self.ids = {service: image.image_id for service, image in self.resources.items()}
        self.register_outputs({"ids": dict(self.ids)})


@dataclass(frozen=True)
class NetworkConfig:
    """names: they also give the subnets that the settings leave open. after: what precedes."""

    names: pulumi.Output[DockerNames]
    network: NetworkSettings
    after: tuple[pulumi.Resource, ...]


class Network(pulumi.ComponentResource):
    """The stack's one Docker network, with both families.

    It isolates the stack's services from other stacks; it does not keep them from the Internet,
    which the sync jobs need.
    """

    network_name: pulumi.Output[str]
    ipv4_subnet: pulumi.Output[str]
    ipv6_subnet: pulumi.Output[str]

    def __init__(
        self, name: str, config: NetworkConfig, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("gridhub:index:Network", name, None, opts)
        names, network = config.names, config.network
        self.ipv4_subnet = names.apply(lambda own: network.ipv4_subnet or own.ipv4_subnet())
        self.ipv6_subnet = names.apply(lambda own: network.ipv6_subnet or own.ipv6_subnet())
        self.network = docker.Network(
            f"{name}-bridge",
            name=names.apply(lambda own: own.prefix),
            driver="bridge",
            internal=False,
            ipv6=True,
            ipam_configs=[
                docker.NetworkIpamConfigArgs(subnet=subnet)
                for subnet in (self.ipv4_subnet, self.ipv6_subnet)
            ],
            labels=names.apply(
                lambda own: [
                    docker.NetworkLabelArgs(label=label, value=value)
                    for label, value in sorted(own.labels().items())
                ]
            ),
            # The name is taken until the old one is gone.
            opts=pulumi.ResourceOptions(
                parent=self, depends_on=list(config.after), delete_before_replace=True
            ),
        )
        self.network_name = self.network.name
        self.register_outputs({"networkName": self.network_name})


@dataclass(frozen=True)
class DataRootConfig:
    """hub_writes: the hub publishes itself, so the public folder is its own.

    must_be_mount: preflight.dataRootIsMount. purge: see settings.
    after: what must have succeeded before the first folder is made.
    """

    connection: Mapping[str, str]
    root: str
    hub_writes: bool
    must_be_mount: bool
    purge: bool
    protect: bool
    after: tuple[pulumi.Resource, ...]


class DataRoot(pulumi.ComponentResource):
    """The folders below the data root, each owned by the one uid that writes it."""

    def __init__(
        self, name: str, config: DataRootConfig, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("gridhub:index:DataRoot", name, None, opts)
        self.directories = HostDirectories(
            f"{name}-directories",
            host=dict(config.connection),
            root=config.root,
            directories=[asdict(entry) for entry in directories(hub_writes=config.hub_writes)],
            must_be_mount=config.must_be_mount,
            purge=config.purge,
            opts=pulumi.ResourceOptions(
                parent=self, depends_on=list(config.after), protect=config.protect
            ),
        )
        self.register_outputs({"root": config.root})
