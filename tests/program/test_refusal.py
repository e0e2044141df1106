"""Wrong settings under a whole `pulumi` run: named errors, no traceback, nothing in the state."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.stack import project_copy
from tests.program.declared import production
from tests.program.test_wrong_settings import WRONG, changed
from tests.sandbox.pulumi.workspace import PulumiError, Workspace

pytestmark = pytest.mark.timeout(300)
CHOSEN = ("many at once", "images missing", "Cloudflare half set", "unknown key")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    folder = tmp_path_factory.mktemp("refusal")
    found = Workspace(project_copy(folder / "project"), folder / "backend", "words", {})
    write(found, production())
    found.run("stack", "init", "refused")
    return found


def write(workspace: Workspace, config: dict[str, Any]) -> None:
    file = workspace.project / "stacks" / "Pulumi.refused.yaml"
    kept = yaml.safe_load(file.read_text()) if file.exists() else {}
    file.write_text(yaml.safe_dump({**kept, "config": config}))


@pytest.mark.parametrize("name", CHOSEN)
def test_up_is_refused_with_every_wrong_key_and_creates_nothing(
    workspace: Workspace, name: str, tmp_path: Path
) -> None:
    edit, keys = WRONG[name]
    write(workspace, changed(edit))
    with pytest.raises(PulumiError) as caught:
        workspace.run("up", "--yes", "--skip-preview", "--stack", "refused")
    assert caught.value.code != 0
    for key in keys:
        assert f"gridhub:{key}: " in caught.value.output
    assert "Traceback" not in caught.value.output
    state = json.loads(workspace.run("stack", "export", "--stack", "refused"))
    kinds = {entry["type"] for entry in state["deployment"].get("resources") or []}
    assert kinds <= {"pulumi:pulumi:Stack"}
