"""The sync jobs: per job a container on the host and the resource that records where it stands."""

from typing import Final

import pulumi

from components.container import ContainerConfig, Mount, declare
from components.host import Placement
from components.host_files import HostFile, write_files
from components.job_specs import job_specs
from sync.contract import layout
from sync.contract.layout import Job
from sync.contract.spec import JobSpec
from sync.providers import agent_bundle, resources

Sync = resources.UsersSync | resources.KernelsSync | resources.FlistsSync
_RESOURCES: Final[dict[Job, type[Sync]]] = {
    "users": resources.UsersSync,
    "kernels": resources.KernelsSync,
    "flists": resources.FlistsSync,
}
# These write chunks, so they are 0-db's admins.
_ZDB_ADMINS: Final[frozenset[Job]] = frozenset({"users", "flists"})


class Agents(pulumi.ComponentResource):
    """The agent's files on the host, and the jobs that run it; `syncs` holds their records."""

    def __init__(
        self, name: str, placement: Placement, zdb: pulumi.Resource, opts: pulumi.ResourceOptions
    ) -> None:
        super().__init__("gridhub:index:Agents", name, None, opts)
        self.placement, self.zdb = placement, zdb
        self.digest = agent_bundle.agent_digest()
        self.bundle = resources.AgentBundle(
            f"{name}-bundle",
            host=placement.connection,
            root=placement.settings.data_root,
            digest=self.digest,
            opts=placement.options(self),
        )
        specs = job_specs(placement.stack)
        self.syncs = {spec.job: SyncJob(f"{name}-{spec.job}", self, spec).sync for spec in specs}
        self.register_outputs({"jobs": sorted(self.syncs)})


class SyncJob(pulumi.ComponentResource):
    """One job's container, its secret file, and its record in the stack."""

    def __init__(self, name: str, agents: Agents, spec: JobSpec) -> None:
        super().__init__("gridhub:index:SyncJob", name, None, pulumi.ResourceOptions(parent=agents))
        placement, job = agents.placement, spec.job
        settings = placement.settings
        needed: list[pulumi.Resource] = [agents.bundle]
        if job in _ZDB_ADMINS:
            path = f"{layout.job_secrets_dir(job)}/{layout.ZDB_ADMIN_FILE}"
            file = HostFile(path, layout.JOB_UIDS[job], placement.secrets.zdb_admin_password)
            needed.append(write_files(f"{name}-secrets", placement, self, file))
        config = _container(placement, agents.digest, job)
        container = declare(f"{name}-container", placement, config, self, *needed)
        wanted = spec.model_dump(mode="json")
        self.sync = _RESOURCES[job](
            f"{name}-sync",
            host=placement.connection,
            root=settings.data_root,
            # A renamed stack asks for nothing else, so its spec stays as well.
            spec=placement.names.apply(lambda names: {**wanted, "stack": names.stack}),
            agent_version=agents.digest,
            container_name=placement.container_name(job),
            ready=settings.ready,
            ready_timeout_seconds=settings.ready_timeout_seconds,
            purge=settings.purge,
            opts=placement.options(self, container, agents.zdb),
        )
        self.register_outputs({"healthy": self.sync.healthy})


def _container(placement: Placement, digest: str, job: Job) -> ContainerConfig:
    path, admin = placement.path, job in _ZDB_ADMINS
    mounts = [
        Mount(agent_bundle.bundle_path(placement.settings.data_root, digest), layout.AGENT_MOUNT),
        Mount(path(layout.job_spec_dir(job)), layout.SPEC_MOUNT),
        Mount(path(layout.job_state_dir(job)), layout.STATE_MOUNT, read_only=False),
    ]
    if admin:
        mounts.append(Mount(path(layout.job_secrets_dir(job)), layout.SECRETS_MOUNT))
    own: dict[Job, Mount] = {
        "users": Mount(path(layout.HUB_PUBLIC), layout.PUBLIC_MOUNT, read_only=False),
        "kernels": Mount(path(layout.KERNELS), layout.KERNELS_MOUNT, read_only=False),
        "flists": Mount(path(layout.job_state_dir("users")), layout.USERS_STATE_MOUNT),
    }
    return ContainerConfig(
        service=job,
        image="python",
        uid=layout.JOB_UIDS[job],
        health=("CMD", "python3", f"{layout.AGENT_MOUNT}/src/sync/agent/health.py", job),
        command=("python3", "-m", "sync.agent", "run", job),
        mounts=[*mounts, own[job]],
        environment={
            "GRIDHUB_AGENT_VERSION": digest,
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": f"{layout.AGENT_MOUNT}/src:{layout.AGENT_MOUNT}/site-packages",
        },
        revision={"zdbAdmin": str(placement.settings.rotation.zdb_admin)} if admin else {},
    )
