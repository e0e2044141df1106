"""The sync jobs: per job a container on the host and the resource that records where it stands."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pulumi

from components.container import ContainerConfig, HostFile, Mount, Placement, declare, write_files
from components.settings.model import Ready
from sync.contract import layout
from sync.contract.layout import Job
from sync.contract.spec import JobSpec
from sync.providers import AgentBundle, FlistsSync, KernelsSync, UsersSync
from sync.providers.agent_bundle import bundle_path

Sync = UsersSync | KernelsSync | FlistsSync
_RESOURCES: Final[dict[Job, type[Sync]]] = {
    "users": UsersSync,
    "kernels": KernelsSync,
    "flists": FlistsSync,
}
# These write chunks, so they are 0-db's admins.
_ZDB_ADMINS: Final[frozenset[Job]] = frozenset({"users", "flists"})


@dataclass(frozen=True)
class AgentsConfig:
    """jobs: those that run, with their specs. digest: of the agent. zdb: the 0-db container.

    rotation: counter of the 0-db admin password.
    """

    placement: Placement
    jobs: Sequence[JobSpec]
    digest: str
    admin_password: pulumi.Output[str]
    rotation: int
    ready: Ready
    ready_timeout_seconds: int
    purge: bool
    zdb: pulumi.Resource


class Agents(pulumi.ComponentResource):
    """The agent's files on the host, and the jobs that run it; `syncs` holds their records."""

    syncs: Mapping[Job, Sync]

    def __init__(
        self, name: str, config: AgentsConfig, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("gridhub:index:Agents", name, None, opts)
        self.bundle = AgentBundle(
            f"{name}-bundle",
            host=dict(config.placement.connection),
            root=config.placement.root,
            digest=config.digest,
            opts=config.placement.options(self),
        )
        jobs = {
            spec.job: SyncJob(
                f"{name}-{spec.job}",
                SyncJobConfig(config, spec, self.bundle),
                pulumi.ResourceOptions(parent=self),
            )
            for spec in config.jobs
        }
        self.syncs = {job: component.sync for job, component in jobs.items()}
        self.register_outputs({"jobs": sorted(jobs)})


@dataclass(frozen=True)
class SyncJobConfig:
    """One job of the agents; bundle: its files on the host."""

    agents: AgentsConfig
    spec: JobSpec
    bundle: AgentBundle


class SyncJob(pulumi.ComponentResource):
    """One job's container, its secret file, and its record in the stack."""

    def __init__(
        self, name: str, config: SyncJobConfig, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("gridhub:index:SyncJob", name, None, opts)
        agents, job = config.agents, config.spec.job
        placement = agents.placement
        needed: list[pulumi.Resource] = [config.bundle]
        if job in _ZDB_ADMINS:
            path = f"{layout.job_secrets_dir(job)}/{layout.ZDB_ADMIN_FILE}"
            file = HostFile(path, layout.JOB_UIDS[job], agents.admin_password)
            needed.append(write_files(f"{name}-secrets", placement, [file], self))
        self.container = declare(f"{name}-container", placement, _container(config), self, *needed)
        spec = config.spec.model_dump(mode="json")
        self.sync = _RESOURCES[job](
            f"{name}-sync",
            host=dict(placement.connection),
            root=placement.root,
            # A renamed stack asks for nothing else, so its spec stays as well.
            spec=placement.names.apply(lambda names: {**spec, "stack": names.stack}),
            agent_version=agents.digest,
            container_name=placement.container_name(job),
            ready=agents.ready,
            ready_timeout_seconds=agents.ready_timeout_seconds,
            purge=agents.purge,
            opts=placement.options(self, self.container, agents.zdb),
        )
        self.register_outputs({"healthy": self.sync.healthy})


def _container(config: SyncJobConfig) -> ContainerConfig:
    agents, job = config.agents, config.spec.job
    return ContainerConfig(
        service=job,
        image="python",
        uid=layout.JOB_UIDS[job],
        health=("CMD", "python3", f"{layout.AGENT_MOUNT}/src/sync/agent/health.py", job),
        command=("python3", "-m", "sync.agent", "run", job),
        mounts=_mounts(agents, job),
        environment={
            "GRIDHUB_AGENT_VERSION": agents.digest,
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": f"{layout.AGENT_MOUNT}/src:{layout.AGENT_MOUNT}/site-packages",
        },
        revision={"zdbAdmin": str(agents.rotation)} if job in _ZDB_ADMINS else {},
    )


def _mounts(agents: AgentsConfig, job: Job) -> list[Mount]:
    path = agents.placement.path
    mounts = [
        Mount(bundle_path(agents.placement.root, agents.digest), layout.AGENT_MOUNT),
        Mount(path(layout.job_spec_dir(job)), layout.SPEC_MOUNT),
        Mount(path(layout.job_state_dir(job)), layout.STATE_MOUNT, read_only=False),
    ]
    if job in _ZDB_ADMINS:
        mounts.append(Mount(path(layout.job_secrets_dir(job)), layout.SECRETS_MOUNT))
    own: dict[Job, Mount] = {
        "users": Mount(path(layout.HUB_PUBLIC), layout.PUBLIC_MOUNT, read_only=False),
        "kernels": Mount(path(layout.KERNELS), layout.KERNELS_MOUNT, read_only=False),
        "flists": Mount(path(layout.job_state_dir("users")), layout.USERS_STATE_MOUNT),
    }
    return [*mounts, own[job]]


def sync_outputs(sync: Sync) -> dict[str, Any]:
    """Return what a stack's output shows of one job."""
    return {
        "healthy": sync.healthy,
        "reason": sync.reason,
        "summary": sync.summary,
        "broken": sync.broken,
        **{key: _of_record(sync, key) for key in ("phase", "firstPassAt", "done", "total", "lag")},
    }


def _of_record(sync: Sync, key: str) -> pulumi.Output[Any]:
    return sync.record.apply(lambda record: (record or {}).get(key))
