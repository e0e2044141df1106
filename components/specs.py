"""From settings to the specs of the jobs that run on the host."""

from typing import Any

from components.naming import Naming
from components.settings import Settings
from components.settings.base import Section
from sync.contract.spec import FlistsSpec, KernelsSpec, UsersSpec, ZdbEndpoint

# The mirror's own 0-db, as the containers of the stack's network know it.
LOCAL_ZDB = ZdbEndpoint(host="zdb", port=9900, namespace="default")
_NOT_IN_SPEC = {"enabled", "rewrite_backend"}


def job_specs(naming: Naming, settings: Settings) -> list[UsersSpec | KernelsSpec | FlistsSpec]:
    """Return the specs of the enabled jobs; none unless the stack is a mirror."""
    if settings.mode != "mirror":
        return []
    specs: list[UsersSpec | KernelsSpec | FlistsSpec] = []
    if settings.users.enabled:
        specs.append(users_spec(naming, settings))
    if settings.kernels.enabled:
        specs.append(kernels_spec(naming, settings))
    if settings.flists.enabled:
        specs.append(flists_spec(naming, settings))
    return specs


def published_zdb(naming: Naming, settings: Settings) -> ZdbEndpoint:
    """Return where nodes reach this mirror's chunks."""
    return ZdbEndpoint(
        host=settings.zdb.publish_host or naming.hub,
        port=settings.zdb.publish_port or settings.ports.zdb,
    )


def users_spec(naming: Naming, settings: Settings) -> UsersSpec:
    """Return the users job's spec."""
    users = settings.users
    return UsersSpec(
        stack=naming.stack,
        sources=settings.source.hub,
        sources_zdb=_sources_zdb(settings),
        local_zdb=LOCAL_ZDB,
        local_zdb_memory_bytes=settings.limits.zdb.memory_mb << 20,
        publish_backend=published_zdb(naming, settings) if users.rewrite_backend else None,
        **_operators(users),
    )


def kernels_spec(naming: Naming, settings: Settings) -> KernelsSpec:
    """Return the kernels job's spec."""
    return KernelsSpec(
        stack=naming.stack, sources=settings.source.bootstrap, **_operators(settings.kernels)
    )


def flists_spec(naming: Naming, settings: Settings) -> FlistsSpec:
    """Return the flists job's spec."""
    return FlistsSpec(
        stack=naming.stack,
        sources=_sources_zdb(settings),
        local_zdb=LOCAL_ZDB,
        local_zdb_memory_bytes=settings.limits.zdb.memory_mb << 20,
        **_operators(settings.flists),
    )


def _sources_zdb(settings: Settings) -> list[ZdbEndpoint]:
    return [ZdbEndpoint(**endpoint.model_dump()) for endpoint in settings.source.zdb]


def _operators(section: Section) -> dict[str, Any]:
    return section.model_dump(exclude=_NOT_IN_SPEC)
