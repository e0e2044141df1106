"""A job in a container as the program declares it: its memory, no swap, and what it took of it."""

import contextlib
import os
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

import docker
from docker.models.containers import Container
from docker.types import Ulimit

from sync.agent.job import Directories
from sync.agent.status_writer import read_status
from sync.contract.layout import JOB_UIDS
from sync.contract.spec import JobSpec, canonical
from sync.contract.status import StatusRecord
from tests.bench.memory.cases import Outcome
from tests.sandbox.host import images
from tests.sandbox.host.dockerd import PROJECT

MIB: Final = 1 << 20
_SAMPLE_SECONDS: Final = 0.05
_V1: Final = Path("/sys/fs/cgroup/memory")
_V2: Final = Path("/sys/fs/cgroup")


def site_packages() -> Path:
    """Where the agent's dependencies are, for the same Python as the container's."""
    return next((PROJECT / ".venv/lib").resolve().glob("python3.*/site-packages"))


@dataclass
class Taken:
    """What a container took: of its own (anonymous) in bytes, and how often it was killed for it.

    charged_bytes: with the page cache, which the kernel takes back where it is needed.
    """

    own_bytes: int = 0
    charged_bytes: int = 0
    kills: int = 0


@dataclass
class JobContainer:
    """One job in a container with `limit_mb` of memory; its network is the host's."""

    client: docker.DockerClient
    spec: JobSpec
    directories: Directories
    limit_mb: int
    taken: Taken = field(default_factory=Taken)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        uid = JOB_UIDS[self.spec.job]
        (self.directories.spec / "spec.json").write_bytes(canonical(self.spec))
        root = self.directories.state.parent
        for path in (root, *root.rglob("*")):
            os.chown(path, uid, uid)
        self._container = self._run(f"{uid}:{uid}")
        self._watcher = threading.Thread(target=self._watch, name="memory")
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._watcher.join()
        self.log = self._container.logs(tail=40).decode(errors="replace")
        self._container.remove(force=True)

    def _run(self, user: str) -> Container:
        root = self.directories.state.parent
        folders = ("spec", "state", "secrets", "public", "kernels", "users_state")
        options = [f"--{name.replace('_', '-')}-dir={root / name}" for name in folders]
        readable = {str(path): {"bind": str(path), "mode": "ro"} for path in (PROJECT, _venv())}
        return self.client.containers.run(
            images.reference("python"),
            ["python3", "-m", "sync.agent", "run", self.spec.job, *options],
            user=user,
            detach=True,
            init=True,
            read_only=True,
            network_mode="host",
            mem_limit=self.limit_mb * MIB,
            memswap_limit=self.limit_mb * MIB,
            restart_policy={"Name": "on-failure"},
            ulimits=[Ulimit(name="nofile", soft=16384, hard=16384)],
            cap_drop=["ALL"],
            security_opt=["no-new-privileges:true"],
            tmpfs={"/tmp": "size=16m,mode=1777"},
            volumes={**readable, str(root): {"bind": str(root), "mode": "rw"}},
            environment={
                "GRIDHUB_AGENT_VERSION": "bench",
                "PYTHONDONTWRITEBYTECODE": "1",
                "PYTHONPATH": f"{PROJECT}:{site_packages()}",
            },
        )

    @property
    def record(self) -> StatusRecord | None:
        """The job's status record."""
        return read_status(self.directories.state / "status.json")

    def _watch(self) -> None:
        while not self._stop.wait(_SAMPLE_SECONDS):
            with contextlib.suppress(OSError, ValueError):
                self._sample()

    def _sample(self) -> None:
        taken, name = self.taken, str(self._container.id)
        group = _V1 / "docker" / name
        if _V1.is_dir():
            # The machine may itself be a container, whose groups are below its own.
            own, charged = _number(group / "memory.stat", "total_rss "), "memory.max_usage_in_bytes"
            kills = _number(group / "memory.oom_control", "oom_kill ")
        else:
            group = _V2 / "docker" / name
            own, charged = _number(group / "memory.stat", "anon "), "memory.peak"
            kills = _number(group / "memory.events", "oom_kill ")
        taken.own_bytes = max(taken.own_bytes, own)
        taken.charged_bytes = max(taken.charged_bytes, int((group / charged).read_text()))
        taken.kills = max(taken.kills, kills)


def _venv() -> Path:
    return (PROJECT / ".venv").resolve()


def _number(path: Path, name: str) -> int:
    """Return the number of a line `NAME NUMBER` of a file of a cgroup."""
    lines = path.read_text().splitlines()
    return next(int(line.removeprefix(name)) for line in lines if line.startswith(name))


def wait_for(container: JobContainer, outcome: Outcome, seconds: float) -> str | None:
    """Return what `outcome` makes of the job's record, None where it is nothing in that time.

    A container that was killed for its memory is not waited for.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and container.taken.kills == 0:
        record = container.record
        said = outcome(record) if record else None
        if said is not None:
            return said
        time.sleep(0.1)
    return None
