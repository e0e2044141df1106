"""One way to declare a container: pinned, limited, without privileges, with a health check.

What `docs/containers.md` promises of every container is done here, once.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import pulumi
import pulumi_docker as docker

from components.host import Placement
from components.settings.limits import ServiceLimits
from sync.contract.addresses import bracketed

# The docker plugin reports a change of these as applied and leaves the container as it was.
NOT_APPLIED_IN_PLACE: Final = ("healthcheck", "init", "tmpfs")
_HEALTH_TIMEOUT_SECONDS: Final = 10
_HEALTH_RETRIES: Final = 3
# How long `up` waits for a container's first good health check.
_WAIT_SECONDS: Final = 120
# Below what engines commonly run under themselves: a limit above theirs lets nothing start.
_OPEN_FILES: Final = 16384
# For what speaks to its neighbours in the stack's network alone: buffers of the kernel count as the
# container's memory, and by default a client that takes nothing leaves megabytes in each.
NEAR: Final = {
    "net.ipv4.tcp_notsent_lowat": "65536",
    "net.ipv4.tcp_rmem": "4096 65536 131072",
}
# For a Python service: its files are read-only, and its log is read while it runs.
PYTHON: Final = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}


@dataclass(frozen=True)
class Mount:
    """A folder or file of the host in the container; source: absolute path on the host."""

    source: pulumi.Input[str]
    target: str
    read_only: bool = True


@dataclass(frozen=True, order=True)
class PublishedPort:
    """A port of the container at an address of the host."""

    internal: int
    external: int
    address: str

    def __str__(self) -> str:
        """Return it as `docker ps` does: ADDRESS:EXTERNAL->INTERNAL."""
        return f"{bracketed(self.address)}:{self.external}->{self.internal}"


def digest(text: str) -> str:
    """Return what stands for a text in a container's revision: a new one replaces the container."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class ContainerConfig:
    """What differs between containers.

    health: test in Docker's form (CMD or CMD-SHELL first). image: the service whose image it runs,
    if not its own. tmpfs: path to mount options. capabilities: added to none. sysctls: of its
    network. fellows: processes that another service may have of a uid that this one runs as, too:
    the kernel counts them together. revision: what a restart must follow that the other fields do
    not show (digests of configuration without secrets, rotation counters).
    """

    service: str
    uid: int
    health: Sequence[str]
    image: str | None = None
    command: Sequence[str] = ()
    entrypoint: Sequence[str] = ()
    mounts: Sequence[Mount] = ()
    ports: Sequence[PublishedPort] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    tmpfs: Mapping[str, str] = field(default_factory=lambda: {"/tmp": "size=16m,mode=1777"})  # noqa: S108
    capabilities: Sequence[str] = ()
    sysctls: Mapping[str, str] = field(default_factory=dict)
    fellows: int = 0
    revision: Mapping[str, str] = field(default_factory=dict)
    stop_seconds: int = 30


def declare(
    name: str,
    placement: Placement,
    config: ContainerConfig,
    parent: pulumi.Resource,
    *after: pulumi.Resource,
) -> docker.Container:
    """Declare the container; it is known in the stack's network under its service's name.

    after: what must have succeeded before, beside what the placement waits for.
    """
    settings = placement.settings
    limits: ServiceLimits = getattr(settings.limits, config.service)
    forced = pulumi.ResourceOptions(
        delete_before_replace=True,
        replace_on_changes=list(NOT_APPLIED_IN_PLACE),
        # Engines list the addresses of one port in an order of their own, which would replace the
        # container at every `up`. A label carries the ports instead: when it changes, the
        # container is replaced, and a replacement takes the ports that the program says.
        ignore_changes=["ports"],
    )
    return docker.Container(
        name,
        name=placement.container_name(config.service),
        hostname=config.service,
        image=placement.images[config.image or config.service],
        command=list(config.command) or None,
        entrypoints=list(config.entrypoint) or None,
        envs=[f"{key}={value}" for key, value in sorted(config.environment.items())],
        user=f"{config.uid}:{config.uid}",
        read_only=True,
        privileged=False,
        capabilities=docker.ContainerCapabilitiesArgs(
            adds=sorted(config.capabilities) or None, drops=["ALL"]
        ),
        security_opts=["no-new-privileges:true"],
        cpu_shares=limits.cpu_shares,
        memory=limits.memory_mb,
        memory_swap=limits.memory_mb,
        # The plugin has no pids limit; nproc counts the processes and threads of the service's uid.
        ulimits=[
            docker.ContainerUlimitArgs(name=name, soft=value, hard=value)
            for name, value in (
                ("nofile", _OPEN_FILES),
                ("nproc", limits.processes + config.fellows),
            )
        ],
        sysctls=dict(sorted(config.sysctls.items())) or None,
        log_driver="json-file",
        log_opts={"max-file": str(limits.log_files), "max-size": f"{limits.log_size_mb}m"},
        tmpfs=dict(sorted(config.tmpfs.items())),
        volumes=_volumes(config.mounts),
        ports=_ports(config.ports),
        network_mode="bridge",
        networks_advanced=[
            docker.ContainerNetworksAdvancedArgs(
                name=placement.network_name, aliases=[config.service]
            )
        ],
        labels=placement.names.apply(lambda names: _labels(config, names.labels)),
        healthcheck=docker.ContainerHealthcheckArgs(
            tests=list(config.health),
            interval=f"{settings.health_interval_seconds}s",
            timeout=f"{_HEALTH_TIMEOUT_SECONDS}s",
            start_period=f"{_HEALTH_TIMEOUT_SECONDS}s",
            retries=_HEALTH_RETRIES,
        ),
        init=True,
        restart="unless-stopped",
        must_run=True,
        wait=True,
        wait_timeout=_WAIT_SECONDS,
        stop_timeout=config.stop_seconds,
        destroy_grace_seconds=config.stop_seconds,
        opts=pulumi.ResourceOptions.merge(placement.options(parent, *after), forced),
    )


def _labels(config: ContainerConfig, shared: Mapping[str, str]) -> list[docker.ContainerLabelArgs]:
    labels = {**shared, "gridhub.service": config.service}
    labels |= {f"gridhub.revision.{key}": value for key, value in config.revision.items()}
    if config.ports:
        labels["gridhub.ports"] = " ".join(str(port) for port in sorted(config.ports))
    return [docker.ContainerLabelArgs(label=key, value=labels[key]) for key in sorted(labels)]


def _volumes(mounts: Sequence[Mount]) -> list[docker.ContainerVolumeArgs]:
    return [
        docker.ContainerVolumeArgs(
            host_path=mount.source, container_path=mount.target, read_only=mount.read_only
        )
        for mount in sorted(mounts, key=lambda mount: mount.target)
    ]


def _ports(ports: Sequence[PublishedPort]) -> list[docker.ContainerPortArgs] | None:
    return [
        docker.ContainerPortArgs(
            internal=port.internal, external=port.external, ip=port.address, protocol="tcp"
        )
        for port in sorted(ports)
    ] or None
