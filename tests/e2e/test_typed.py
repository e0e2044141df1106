"""What an operator types around a stack that runs: it is renamed, its stack file is refreshed."""

import contextlib
import dataclasses
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.e2e.stack import Ground, MirrorStack, mirror_stack, steps_of
from tests.sandbox.host.dockerd import PROJECT
from tests.sandbox.host.ports import free_port
from tests.sandbox.pulumi.workspace import PulumiError
from tests.sandbox.upstream import Upstream

pytestmark = [pytest.mark.docker, pytest.mark.timeout(600)]


def container_ids(stack: MirrorStack, prefix: str) -> dict[str, str]:
    with contextlib.closing(stack.client()) as client:
        found = client.containers.list(all=True, filters={"name": f"^/{prefix}-"})
        return {str(container.name): str(container.id) for container in found}


def free_ports() -> dict[str, int]:
    return {key: free_port() for key in ("http", "https", "zdb")}


def rename(stack: MirrorStack, name: str) -> None:
    stack.pulumi("stack", "rename", name)
    stack.name = name
    assert stack.stack_file.exists(), "the stack file follows"


def an_edit_after_it_touches_what_it_touched_before(stack: MirrorStack, edit: int) -> None:
    stack.config["ports"] = {**stack.config["ports"], "https": edit}
    steps = steps_of(stack)
    assert steps["preflight"] == "update"
    assert steps["edge-container"] == "replace"
    assert "zdb-container" not in steps
    assert "network-bridge" not in steps


def a_refreshed_stack_file_holds_what_the_operator_set(stack: MirrorStack) -> None:
    stack.write_config()
    before = yaml.safe_load(stack.stack_file.read_text())
    stack.workspace.run("config", "refresh", "--stack", stack.name)
    after = yaml.safe_load(stack.stack_file.read_text())
    assert set(after["config"]) == set(before["config"])
    assert after["encryptionsalt"] == before["encryptionsalt"]
    (backup,) = stack.stack_file.parent.glob("*.bak")
    command = ["git", "check-ignore", "--quiet", f"stacks/{backup.name}"]
    assert subprocess.run(command, cwd=PROJECT, check=False).returncode == 0
    backup.unlink()


def a_further_stack_of_its_former_name_is_refused(stack: MirrorStack, former: str) -> None:
    root = Path(f"{stack.root}-other")
    config = {**stack.config, "dataRoot": str(root), "ports": free_ports()}
    other = dataclasses.replace(stack, name=former, root=root, config=config)
    other.workspace.run("stack", "init", former)
    with pytest.raises(PulumiError) as refused:
        other.up()
    assert f"container gridhub-{former}-zdb belongs to another stack" in refused.value.output
    assert not root.exists()
    other.destroy()
    other.pulumi("stack", "rm", "--yes")


def test_a_renamed_stack_is_the_same_mirror(
    place: Ground, master: Upstream, tmp_path: Path
) -> None:
    with mirror_stack(place, master, tmp_path / "one", mode="standalone", ready="started") as stack:
        former = stack.name
        stack.up()
        before = container_ids(stack, f"gridhub-{former}")
        assert before
        a_refreshed_stack_file_holds_what_the_operator_set(stack)
        rename(stack, f"{former}-new")
        assert steps_of(stack) == {}
        stack.pulumi("preview", "--refresh", "--expect-no-changes")
        stack.up()
        a_further_stack_of_its_former_name_is_refused(stack, former)
        assert container_ids(stack, f"gridhub-{former}") == before
        an_edit_after_it_touches_what_it_touched_before(stack, free_port())
        stack.up()
        stack.destroy()
        assert container_ids(stack, f"gridhub-{former}") == {}
