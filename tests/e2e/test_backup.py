"""A lost state comes back from its export, as docs/operations.md says."""

from pathlib import Path

import pytest

from tests.e2e.stack import Ground, mirror_stack, steps_of
from tests.sandbox.upstream import Upstream

pytestmark = [pytest.mark.docker, pytest.mark.timeout(600)]


def test_a_lost_state_comes_back_from_its_export_with_its_secrets_and_without_a_change(
    place: Ground, master: Upstream, tmp_path: Path
) -> None:
    backup = tmp_path / "backup.json"
    with mirror_stack(place, master, tmp_path, mode="standalone", ready="started") as stack:
        stack.up()
        seed = stack.pulumi("stack", "output", "hubSeed", "--show-secrets")
        stack.pulumi("stack", "export", "--file", str(backup))
        assert seed.strip() not in backup.read_text()

        stack.pulumi("stack", "rm", "--force", "--yes", "--preserve-config")
        stack.pulumi("stack", "init")
        stack.pulumi("stack", "import", "--file", str(backup))
        assert steps_of(stack, "--refresh") == {}
        assert stack.pulumi("stack", "output", "hubSeed", "--show-secrets") == seed
