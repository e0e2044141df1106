"""A project with one stack, whose host is this machine and whose `docker` is a stand-in."""

import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from cli.__main__ import gridhub
from sync.contract.layout import STATUS_FILE, Job, job_state_dir
from sync.contract.status import Amount, MasterIdentity, Phase, StatusRecord
from tests.program.declared import PROJECT, STACKS

# Of a stack that was renamed: containers keep the first name.
FIRST_NAME = "first"
_DOCKER = """#!/bin/sh
shift 2  # --host unix://…
case $1 in
  ps) cat "$FAKE/listing" ;;
  inspect) cat "$FAKE/inspected" ;;
  logs) for name; do :; done; exec sh "$FAKE/logs" "$name" ;;
  exec) shift 3; exec "$@" ;;
esac
"""


@dataclass(frozen=True)
class FakeHost:
    """The host of the stack `demo`.

    answers: the folder of what `docker` answers. programs: the first on PATH. stacks: stack files.
    """

    root: Path
    answers: Path
    programs: Path
    stacks: Path

    def prepare(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Make all folders, and files that say that nothing runs."""
        for folder in (self.answers, self.programs):
            folder.mkdir()
        for name in ("listing", "inspected"):
            (self.answers / name).touch()
        self.program("docker", _DOCKER)
        monkeypatch.setenv("PATH", f"{self.programs}:{os.environ['PATH']}")
        monkeypatch.setenv("FAKE", str(self.answers))
        loaded = yaml.safe_load((STACKS / "Pulumi.sandbox.yaml").read_text())
        del loaded["config"]["gridhub:host"]
        self.config(loaded["config"] | {"gridhub:dataRoot": str(self.root)})

    def program(self, name: str, text: str) -> None:
        """Put a program on PATH."""
        (self.programs / name).write_text(text)
        (self.programs / name).chmod(0o755)

    def config(self, config: dict[str, Any]) -> None:
        """Write the stack file; the host is this machine unless it says otherwise."""
        local = {"gridhub:host": {"docker": f"unix://{self.answers}/docker.sock"}}
        (self.stacks / "Pulumi.demo.yaml").write_text(yaml.safe_dump({"config": local | config}))

    def containers(self, *services: str, health: str = "healthy") -> None:
        """Let Docker have these services of the stack, and one that is another stack's."""
        mounts = {service: f"{self.root}/sync/{service}/state" for service in services}
        mounts |= {"zdb": f"{self.root}/0-db_data", "hub": f"{self.root}/0-hub_public"}
        mounts |= {"bootstrap": f"{self.root}/0-bootstrap/kernels"}
        mounts |= {"caddy": f"{self.root}/caddy/data", "gate": f"{self.root}/config/gate"}
        rows = [
            *(f"gridhub-{FIRST_NAME}-{name}\t{name}\t{mounts[name]},/x" for name in services),
            "gridhub-demo-users\tusers\t/srv/of/another/sync/users/state",
        ]
        (self.answers / "listing").write_text("".join(f"{row}\n" for row in rows))
        states = [
            {
                "name": f"/gridhub-{FIRST_NAME}-{name}",
                "running": True,
                "status": "running",
                "exitCode": 0,
                "restarts": 0,
                "oomKilled": False,
                "health": health,
            }
            for name in services
        ]
        (self.answers / "inspected").write_text("".join(f"{json.dumps(s)}\n" for s in states))

    def logs(self, script: str) -> None:
        """Let `docker logs NAME` run a shell script; $1 is the name."""
        (self.answers / "logs").write_text(script)

    def wrote(self, job: Job, phase: Phase = "idle", reason: str = "") -> None:
        """Let a job have written its status record just now."""
        now = datetime.now(UTC)
        record = StatusRecord(
            job=job,
            spec_digest=None,
            agent_version="test",
            phase=phase,
            reason=reason,
            started_at=now,
            updated_at=now,
            done=Amount(items=3),
            total=Amount(items=4),
            master=MasterIdentity(source="https://hub.example.org"),
        )
        folder = self.root / job_state_dir(job)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / STATUS_FILE).write_text(record.model_dump_json())


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a project's folder, which is the present one."""
    folder = tmp_path / "project"
    (folder / "stacks").mkdir(parents=True)
    (folder / "Pulumi.yaml").write_text((PROJECT / "Pulumi.yaml").read_text())
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def host(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHost]:
    """Return the host of the stack `demo`, on which nothing runs yet."""
    # Settings refuse a data root in a folder of the system, such as /dev/shm, where tests' own are.
    with tempfile.TemporaryDirectory(prefix="gridhub-cli-", dir="/tmp") as root:
        made = FakeHost(Path(root), tmp_path / "answers", tmp_path / "bin", project / "stacks")
        made.prepare(monkeypatch)
        yield made


def run(*words: str, stdin: str = "") -> Result:
    """Run `gridhub` in this process."""
    return CliRunner().invoke(gridhub, words, input=stdin)
