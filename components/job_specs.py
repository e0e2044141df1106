"""From settings to the specs of the jobs that run on the host."""

from typing import TypeVar

from pydantic import BaseModel

from components.naming import Stack
from components.settings.limits import ServiceLimits
from components.zdb import LOCAL_ZDB, published_zdb
from sync.contract.layout import Job
from sync.contract.spec import FlistsSpec, JobSpec, KernelsSpec, UsersSpec

_Spec = TypeVar("_Spec", bound=BaseModel)


def job_specs(stack: Stack) -> list[JobSpec]:
    """Return the specs of the jobs that run."""
    settings, source, name = stack.settings, stack.settings.source, stack.name
    users, kernels, flists = settings.users, settings.kernels, settings.flists
    limits = settings.limits
    local = {"local_zdb": LOCAL_ZDB, "local_zdb_memory_bytes": limits.zdb.memory_mb << 20}
    backend = published_zdb(stack) if users.rewrite_backend else None
    hub = {"sources": source.hub, "sources_zdb": source.zdb, "publish_backend": backend}
    specs: dict[Job, JobSpec] = {
        "users": _spec(UsersSpec, users, limits.users, stack=name, **hub, **local),
        "kernels": _spec(
            KernelsSpec, kernels, limits.kernels, stack=name, sources=source.bootstrap
        ),
        "flists": _spec(FlistsSpec, flists, limits.flists, stack=name, sources=source.zdb, **local),
    }
    return [specs[job] for job in stack.jobs]


def _spec(kind: type[_Spec], options: BaseModel, limits: ServiceLimits, **derived: object) -> _Spec:
    """Return the spec with the options it shares; all of it was validated with the settings."""
    shared = {name: value for name, value in options if name in kind.model_fields}
    return kind.model_construct(None, memory_limit_mb=limits.memory_mb, **shared, **derived)
