"""A project with one stack, whose host is this machine and whose `docker` is a stand-in."""

import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

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
    """The data root of the stack `demo`, and the folder of what `docker` answers."""

    root: Path
    answers: Path

    def containers(self, *services: str, health: str = "healthy") -> None:
        """Let Docker have these services of the stack, and one that is another stack's."""
        mounts = {service: f"{self.root}/sync/{service}/state" for service in services}
        mounts |= {"zdb": f"{self.root}/0-db_data", "hub": f"{self.root}/0-hub_public"}
        mounts |= {"bootstrap": f"{self.root}/0-bootstrap/kernels"}
        mounts |= {"caddy": f"{self.root}/caddy/data"}
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
def host(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHost:
    """Return the host of the stack `demo`, on which nothing runs yet."""
    made = FakeHost(tmp_path / "srv", tmp_path / "answers")
    for folder in (made.root, made.answers, tmp_path / "bin"):
        folder.mkdir()
    for name in ("listing", "inspected"):
        (made.answers / name).touch()
    program = tmp_path / "bin" / "docker"
    program.write_text(_DOCKER)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE", str(made.answers))
    loaded = yaml.safe_load((STACKS / "Pulumi.sandbox.yaml").read_text())
    loaded["config"] |= {
        "gridhub:dataRoot": str(made.root),
        "gridhub:host": {"docker": f"unix://{tmp_path}/docker.sock"},
    }
    (project / "stacks" / "Pulumi.demo.yaml").write_text(yaml.safe_dump(loaded))
    return made


def run(*words: str, stdin: str = "") -> Result:
    """Run `gridhub` in this process."""
    return CliRunner().invoke(gridhub, words, input=stdin)
