"""The health check of an agent's container."""

import json
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from sync.agent import health
from sync.agent.status_writer import utc_now
from tests.agent.mirrors import make_directories, make_status


@pytest.mark.parametrize(
    ("age_seconds", "phase", "healthy"),
    [
        (0, "idle", True),
        (0, "paused", True),
        # The stack tells of it; `up` could not write the spec that mends it if this were unhealthy.
        (0, "failed", True),
        (90, "failed", False),
        (90, "idle", False),
    ],
)
def test_an_agent_is_healthy_while_its_record_is_fresh(
    age_seconds: int, phase: str, healthy: bool, tmp_path: Path
) -> None:
    status = make_status("kernels", make_directories(tmp_path), "s")
    status.update(phase=phase)
    status.close()
    path = tmp_path / "state" / "status.json"
    record = json.loads(path.read_text())
    record["updated_at"] = (utc_now() - timedelta(seconds=age_seconds)).isoformat()
    path.write_text(json.dumps(record))
    assert health.main(["kernels", str(path.parent)]) == (0 if healthy else 1)
    assert health.main(["users", str(path.parent)]) == 1


def test_health_runs_as_a_script_beside_modules_with_names_of_the_standard_library(
    tmp_path: Path,
) -> None:
    command = [sys.executable, health.__file__, "users", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={})
    assert (done.returncode, done.stderr) == (1, "")
    assert "no status record" in done.stdout
