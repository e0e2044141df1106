"""The settings that say what each container may take of the host."""

from typing import Final

from pydantic import Field

from components.settings.values import ZdbMemory
from sync.contract.sections import Section
from sync.contract.spec import FLISTS_MEMORY_MB, KERNELS_MEMORY_MB, USERS_MEMORY_MB

_MEMORY: Final = "Memory, and memory plus swap: the container gets no swap."


class ServiceLimits(Section):
    """What one container may take of the host."""

    memory_mb: int = Field(256, ge=32, description=_MEMORY)
    processes: int = Field(
        256, ge=16, description="Processes and threads of the service's user (ulimit nproc)."
    )
    cpu_shares: int = Field(
        1024, ge=2, le=262144, description="Its part of the processors where all want them."
    )
    log_size_mb: int = Field(10, ge=1, description="Size at which the container's log rotates.")
    log_files: int = Field(3, ge=1, le=100, description="Rotated logs kept.")


class ZdbLimits(ServiceLimits):
    """0-db's limits."""

    memory_mb: ZdbMemory = Field(
        4096,
        description=f"{_MEMORY} It bounds how many keys the mirror can hold: 4096 has room for 28 "
        "million. Preflight refuses a master that holds more; the jobs pause before it is full.",
    )


class GateLimits(ServiceLimits):
    """Limits of the gate."""

    memory_mb: int = Field(512, ge=32, description=_MEMORY)


class CaddyLimits(ServiceLimits):
    """Limits of Caddy."""

    memory_mb: int = Field(1024, ge=32, description=_MEMORY)


class HubLimits(ServiceLimits):
    """0-hub's limits: it has a thread for each request."""

    memory_mb: int = Field(1024, ge=32, description=_MEMORY)
    processes: int = Field(
        4352, ge=16, description="Processes and threads of the service's user (ulimit nproc)."
    )


_BEHIND: Final = "Its part of the processors where all want them: behind what nodes wait for."


class BootstrapLimits(HubLimits):
    """0-bootstrap's limits: it compiles boot media, too."""

    cpu_shares: int = Field(512, ge=2, le=262144, description=_BEHIND)


class PackerLimits(ServiceLimits):
    """The packer's limits."""

    memory_mb: int = Field(1024, ge=32, description=_MEMORY)
    cpu_shares: int = Field(512, ge=2, le=262144, description=_BEHIND)


class JobLimits(ServiceLimits):
    """Limits of a job."""

    cpu_shares: int = Field(256, ge=2, le=262144, description=_BEHIND)


class UsersLimits(JobLimits):
    """Limits of the users job."""

    memory_mb: int = Field(USERS_MEMORY_MB, ge=32, description=_MEMORY)


class KernelsLimits(JobLimits):
    """Limits of the kernels job."""

    memory_mb: int = Field(KERNELS_MEMORY_MB, ge=32, description=_MEMORY)


class FlistsLimits(JobLimits):
    """Limits of the flists job."""

    memory_mb: int = Field(FLISTS_MEMORY_MB, ge=32, description=_MEMORY)


class LimitSettings(Section):
    """Limits per service."""

    zdb: ZdbLimits = Field(
        ZdbLimits(),
        description="0-db keeps its index in memory: 134 MB, and 130 bytes a chunk.",
    )
    hub: HubLimits = Field(HubLimits(), description="0-hub.")
    packer: PackerLimits = Field(
        PackerLimits(),
        description="What unpacks and packs uploads, and opens flists, for the hub.",
    )
    bootstrap: BootstrapLimits = Field(
        BootstrapLimits(),
        description="0-bootstrap; its /tmp, where it builds boot media, counts.",
    )
    caddy: CaddyLimits = Field(CaddyLimits(), description="Caddy.")
    gate: GateLimits = Field(
        GateLimits(), description="The gate in front of Caddy; the boot media that it keeps count."
    )
    users: UsersLimits = Field(UsersLimits(), description="The users job.")
    kernels: KernelsLimits = Field(KernelsLimits(), description="The kernels job.")
    flists: FlistsLimits = Field(FlistsLimits(), description="The flists job.")
