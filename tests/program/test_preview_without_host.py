"""A pull request's preview runs where no host can be reached, and still shows the whole plan."""

import json
from pathlib import Path

import pytest
import yaml

from tests.e2e.stack import project_copy
from tests.program.declared import production
from tests.sandbox.pulumi.workspace import Workspace

pytestmark = pytest.mark.timeout(300)
# Nothing listens on port 1, and neither file exists.
HOST = {
    "docker": "ssh://root@127.0.0.1:1",
    "sshKeyPath": "/nonexistent/id",
    "knownHostsPath": "/nonexistent/known_hosts",
}


def test_a_plain_preview_needs_neither_host_nor_key(tmp_path: Path) -> None:
    workspace = Workspace(project_copy(tmp_path / "project"), tmp_path / "backend", "words", {})
    file = workspace.project / "stacks" / "Pulumi.far.yaml"
    file.write_text(yaml.safe_dump({"config": {**production(), "gridhub:host": HOST}}))
    workspace.run("stack", "init", "far")
    said = json.loads(workspace.run("preview", "--json", "--stack", "far"))
    planned = {step["urn"].rsplit("::", 1)[1]: step["op"] for step in said["steps"]}
    assert {"zdb-container", "sync-users-sync", "preflight", "hub-config"} <= set(planned)
    assert set(planned.values()) == {"create"}
