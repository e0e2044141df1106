"""The folders below a stack's data root and the uids that own them.

One table, read by the components (mounts), the providers (who creates and owns) and the docs.
Folder names are upstream's (grid_deployment/grid-hub), so that an upstream deployment can be
taken over by pointing `dataRoot` at it.
"""

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final, Literal, TypeAlias

Job: TypeAlias = Literal["users", "kernels", "flists"]
JOBS: Final[tuple[Job, ...]] = ("users", "kernels", "flists")

# One uid per service: a process that is taken over owns nothing of its neighbours.
# gid equals uid. 10000 upwards is outside what Debian or the images give to real accounts.
JOB_UIDS: Final[dict[Job, int]] = {"users": 10001, "kernels": 10002, "flists": 10003}
UID_ZDB: Final = 10004
UID_HUB: Final = 10005
UID_BOOTSTRAP: Final = 10006
UID_CADDY: Final = 10007
UID_GATE: Final = 10008
# The packer keeps owners and device nodes of what it unpacks: root, with the capabilities for that.
UID_PACKER: Final = 0

ZDB_DATA: Final = "0-db_data"
ZDB_INDEX: Final = "0-db_index"
HUB_PUBLIC: Final = "0-hub_public"
HUB_WORKDIR: Final = "0-hub_workdir"
HUB_PACKING: Final = "0-hub_packing"  # what strangers packed, unpacked; the packer's alone
KERNELS: Final = "0-bootstrap/kernels"
CADDY_DATA: Final = "caddy/data"
CADDY_CONFIG: Final = "caddy/config"
CADDY_LOG: Final = "caddy/log"
SYNC: Final = "sync"
SECRETS: Final = "secrets"
CONFIG: Final = "config"
HUB_TOOLS: Final = f"{CONFIG}/hub"
HUB_MODULES: Final = f"{HUB_TOOLS}/hub_tools"  # what the tools import
GATE: Final = f"{CONFIG}/gate"
AGENTS: Final = "agent"

# Inside every agent container (mount points; the host side is given by `job_*` below).
AGENT_MOUNT: Final = "/agent"  # read-only: <root>/agent/<digest>, holds src/ and site-packages/
SPEC_MOUNT: Final = "/spec"  # read-only: spec.json
STATE_MOUNT: Final = "/state"  # the job's own: status.json, its databases
SECRETS_MOUNT: Final = "/secrets"  # read-only, 0700 of the job's uid: zdb-admin
PUBLIC_MOUNT: Final = "/public"  # users: read-write; the hub's userdata root (holds users/)
KERNELS_MOUNT: Final = "/kernels"  # kernels: read-write (holds net/)
USERS_STATE_MOUNT: Final = "/users-state"  # flists: read-only view of the users job's state

SPEC_FILE: Final = "spec.json"
STATUS_FILE: Final = "status.json"
ZDB_ADMIN_FILE: Final = "zdb-admin"


def job_spec_dir(job: Job) -> str:
    """Folder (relative to the data root) that holds the job's spec.json; root's, 0755."""
    return f"{SYNC}/{job}/spec"


def job_state_dir(job: Job) -> str:
    """Folder (relative to the data root) with status.json and databases; the job's uid, 0755."""
    return f"{SYNC}/{job}/state"


def job_secrets_dir(job: Job) -> str:
    """Folder (relative to the data root) with the job's secret files; the job's uid, 0700."""
    return f"{SECRETS}/{job}"


def under(root: str, relative: str) -> str:
    """Absolute path on the host of `relative` below the data root."""
    return str(PurePosixPath(root) / relative)


@dataclass(frozen=True)
class OwnedDirectory:
    """A directory that the stack creates: path relative to the data root, owner, mode (octal)."""

    path: str
    uid: int
    mode: int = 0o755


def directories(*, hub_writes: bool, packer: bool = False) -> tuple[OwnedDirectory, ...]:
    """Every directory below the data root, parents first.

    hub_writes: true in the modes `detached` and `standalone`, where the hub itself publishes
    and therefore owns the public folder; in `mirror` the users job does. packer: whether a mirror
    has one too, which a hub that writes always has.
    """
    public_owner = UID_HUB if hub_writes else JOB_UIDS["users"]
    jobs: list[OwnedDirectory] = []
    for job in JOBS:
        jobs += [
            OwnedDirectory(f"{SYNC}/{job}", 0),
            OwnedDirectory(job_spec_dir(job), 0),
            OwnedDirectory(job_state_dir(job), JOB_UIDS[job]),
            OwnedDirectory(job_secrets_dir(job), JOB_UIDS[job], 0o700),
        ]
    packing: list[OwnedDirectory] = []
    if hub_writes or packer:
        packing.append(OwnedDirectory(HUB_PACKING, UID_PACKER, 0o700))
    if hub_writes:
        packing.append(OwnedDirectory(f"{SECRETS}/packer", UID_PACKER, 0o700))
    return (
        OwnedDirectory(ZDB_DATA, UID_ZDB, 0o750),
        OwnedDirectory(ZDB_INDEX, UID_ZDB, 0o750),
        OwnedDirectory(HUB_PUBLIC, public_owner),
        OwnedDirectory(f"{HUB_PUBLIC}/users", public_owner),
        OwnedDirectory(HUB_WORKDIR, UID_HUB, 0o750),
        OwnedDirectory("0-bootstrap", 0),
        OwnedDirectory(KERNELS, JOB_UIDS["kernels"]),
        OwnedDirectory(f"{KERNELS}/net", JOB_UIDS["kernels"]),
        OwnedDirectory("caddy", 0),
        OwnedDirectory(CADDY_DATA, UID_CADDY, 0o700),
        OwnedDirectory(CADDY_CONFIG, UID_CADDY, 0o700),
        OwnedDirectory(CADDY_LOG, UID_CADDY, 0o750),
        OwnedDirectory(AGENTS, 0),
        OwnedDirectory(CONFIG, 0),
        OwnedDirectory(SECRETS, 0, 0o711),
        OwnedDirectory(f"{SECRETS}/zdb", UID_ZDB, 0o700),
        OwnedDirectory(f"{SECRETS}/hub", UID_HUB, 0o700),
        OwnedDirectory(f"{SECRETS}/bootstrap", UID_BOOTSTRAP, 0o700),
        OwnedDirectory(f"{CONFIG}/caddy", 0),
        OwnedDirectory(HUB_TOOLS, 0),
        OwnedDirectory(HUB_MODULES, 0),
        OwnedDirectory(GATE, 0),
        *packing,
        OwnedDirectory(SYNC, 0),
        *jobs,
    )
