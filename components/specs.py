"""From settings to the specs of the jobs that run on the host."""

from typing import TypeVar

from pydantic import BaseModel

from components.naming import Naming
from components.settings import Settings
from sync.contract.spec import FlistsSpec, JobSpec, KernelsSpec, UsersSpec, ZdbEndpoint

# The mirror's own 0-db, as the containers of the stack's network know it.
LOCAL_ZDB = ZdbEndpoint(host="zdb", port=9900, namespace="default")
SERVICES = ("zdb", "packer", "hub", "bootstrap", "caddy")
_Spec = TypeVar("_Spec", bound=BaseModel)


def job_specs(naming: Naming, settings: Settings) -> list[JobSpec]:
    """Return the specs of the enabled jobs; none unless the stack is a mirror."""
    users, kernels, flists = settings.users, settings.kernels, settings.flists
    stack, source = naming.stack, settings.source
    local = {
        "local_zdb": LOCAL_ZDB,
        "local_zdb_memory_bytes": settings.limits.zdb.memory_mb << 20,
    }
    backend = published_zdb(naming, settings) if users.rewrite_backend else None
    hub = {"sources": source.hub, "sources_zdb": source.zdb, "publish_backend": backend}
    specs: list[tuple[bool, JobSpec]] = [
        (users.enabled, _spec(UsersSpec, users, stack=stack, **hub, **local)),
        (kernels.enabled, _spec(KernelsSpec, kernels, stack=stack, sources=source.bootstrap)),
        (flists.enabled, _spec(FlistsSpec, flists, stack=stack, sources=source.zdb, **local)),
    ]
    return [spec for enabled, spec in specs if enabled and settings.mode == "mirror"]


def _spec(kind: type[_Spec], options: BaseModel, **derived: object) -> _Spec:
    """Return the spec with the options it shares; all of it was validated with the settings."""
    shared = {name: value for name, value in options if name in kind.model_fields}
    return kind.model_construct(None, **shared, **derived)


def services(naming: Naming, settings: Settings) -> list[str]:
    """Return the services that have a container in this stack, jobs among them, sorted."""
    absent = {"packer"} if settings.mode == "mirror" else set()
    if not settings.bootstrap.enabled:
        absent.add("bootstrap")
    return sorted({*SERVICES, *(spec.job for spec in job_specs(naming, settings))} - absent)


def published_zdb(naming: Naming, settings: Settings) -> ZdbEndpoint:
    """Return where nodes reach this mirror's chunks."""
    return ZdbEndpoint(
        host=settings.zdb.publish_host or naming.hub,
        port=settings.zdb.publish_port or settings.ports.zdb,
    )
