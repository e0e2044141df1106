"""The golden program under the `pulumi` at hand, real or ours, with the plugin at hand."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker
import pytest

from tests.sandbox.host.ports import free_port
from tests.sandbox.plugins import golden as golden_records
from tests.sandbox.plugins.tiny_image import make_image
from tests.sandbox.pulumi.workspace import PLUGINS, PulumiError, Workspace, search_path

pytestmark = pytest.mark.docker

GOLDEN = Path(golden_records.__file__).parent
EDITS = json.loads((GOLDEN / "docker-5.2-edits.json").read_text())
# The arguments of the program that make the edits of the record.
ARGUMENTS: dict[str, dict[str, Any]] = {
    "hub.aliases": {"aliases": ["hub", "x"]},
    "hub.cap_drop": {"cap_drop": ["NET_RAW"]},
    "hub.command": {"command": ["sleep", "600", "5555", "6"]},
    "hub.cpu_shares": {"cpu_shares": 256},
    "hub.destroy_grace_seconds": {"grace": 7},
    "hub.envs changed value": {"envs": ["DOMAIN=example.org", "MODE=detached"]},
    "hub.envs reordered": {"envs": ["MODE=mirror", "DOMAIN=example.org"]},
    "hub.healthcheck interval": {"hc_interval": "2s"},
    "hub.host_path": {"host_path": "/srv"},
    "hub.hostname": {"hostname": "other"},
    "hub.init": {"init": False},
    "hub.labels added": {"labels": [["stack", "golden"], ["x", "y"]]},
    "hub.log_driver": {"log_driver": "local"},
    "hub.log_opts": {"log_opts": {"max-size": "20m", "max-file": "3"}},
    "hub.memory": {"memory": 512, "memory_swap": 512},
    "hub.name": {"name": "another"},
    "hub.network_mode bridge": {"network_mode": "bridge"},
    "hub.port external": {"port": 1},
    "hub.read_only false": {"read_only": False},
    "hub.restart": {"restart": "always"},
    "hub.security_opts": {"security_opts": []},
    "hub.stop_timeout": {"stop_timeout": 30},
    "hub.tmpfs": {"tmpfs": {"/tmp": "size=32m"}},
    "hub.user": {"user": "10002:10002"},
    "hub.volume read_only": {"vol_ro": True},
    "hub.wait_timeout": {"wait_timeout": 60},
    "net.ipv6 false": {"net.ipv6": False},
    "net.labels": {"net.labels": [["stack", "golden"], ["x", "y"]]},
    "none": {},
}
IN_A_HURRY = ("hub.memory", "net.labels")
# The command has an argument more here, so what is recorded as a change of [3] is its adding.
COMMAND = {"command[3]": "add-replace"}


@dataclass(frozen=True)
class Stack:
    """The golden program's stack and what this machine decided of it.

    made: its export right after the first `up`; other tests change the stack.
    """

    workspace: Workspace
    place: dict[str, Any]
    made: dict[str, Any] = field(default_factory=dict)

    def run(self, *arguments: str, **variables: str) -> str:
        """Run pulumi with more variables."""
        environment = {**self.workspace.environment, **variables}
        workspace = Workspace(
            self.workspace.project, self.workspace.backend, self.workspace.passphrase, environment
        )
        return workspace.run(*arguments, "--stack", "gold")

    def steps(self, edit: dict[str, Any]) -> list[dict[str, Any]]:
        """Return what a preview of an edit would do, in the terms of the record."""
        preview = json.loads(self.run("preview", "--json", EDIT=json.dumps(edit)))
        shown = [_recorded(step) for step in preview["steps"] if step["op"] in RECORDED]
        return sorted(shown, key=lambda step: str(step["resource"]))


RECORDED = ("update", "replace", "create", "delete")


def _recorded(step: dict[str, Any]) -> dict[str, Any]:
    detailed = {path: d["kind"] for path, d in (step.get("detailedDiff") or {}).items()}
    return {
        "detailedDiff": detailed,
        "diffReasons": step.get("diffReasons"),
        "op": step["op"],
        "replaceReasons": step.get("replaceReasons"),
        "resource": step["urn"].rsplit("::", 1)[-1],
    }


def wanted(edit: str) -> list[dict[str, Any]]:
    """Return the recorded steps of an edit."""
    steps = [dict(step) for step in EDITS[edit]]
    if edit == "hub.command":
        steps[0]["detailedDiff"] = COMMAND
    return sorted(steps, key=lambda step: str(step["resource"]))


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    directory = tmp_path_factory.mktemp("golden")
    shutil.copytree(GOLDEN / "program", directory / "program")
    host = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    engine = docker.APIClient(base_url=host)
    repository, tag = "localhost/gridhub-plugin-program", str(os.getpid())
    image = make_image(engine, repository, tag)
    bridges = engine.networks(names=["bridge"])
    place: dict[str, Any] = {
        "host": host,
        "prefix": f"gridhub-golden-{os.getpid()}-",
        "subnets": ["fd00:9978::/64", "10.213.77.0/24"],
        "port": free_port(),
        "image": f"{repository}:{tag}",
        "imageId": image,
        # An engine of the sandbox's own has no default bridge.
        "plain_network": None if bridges else "none",
    }
    variables = {"PLACE": json.dumps(place), "PULUMI_HOME": str(directory / "home")}
    workspace = Workspace(directory / "program", directory / "state", "golden", variables)
    made = Stack(workspace, place)
    workspace.run("stack", "init", "gold")
    try:
        made.run("up", "--yes", "--skip-preview")
        made.made.update(json.loads(made.run("stack", "export")))
        yield made
    finally:
        made.run("destroy", "--yes")
        engine.remove_image(place["image"], force=True)
        left = engine.containers(all=True, filters={"name": place["prefix"]})
        engine.close()
    assert left == []


def by_name(deployment: dict[str, Any]) -> dict[str, Any]:
    return {r["urn"].rsplit("::", 1)[-1]: r for r in deployment["deployment"]["resources"]}


def golden_here(place: dict[str, Any], exported: dict[str, Any]) -> dict[str, Any]:
    """Return the golden state in this machine's names, addresses and image."""
    text = (GOLDEN / "docker-5.2-state.json").read_text()
    recorded = by_name(json.loads(text))
    for name, resource in recorded.items():
        if "id" in resource:
            text = text.replace(resource["id"], exported[name]["id"])
    replacements = {
        recorded["py"]["outputs"]["imageId"]: place["imageId"],
        recorded["plain"]["outputs"]["hostname"]: exported["plain"]["id"][:12],
        "golden_": place["prefix"],
        "172.29.0.": "10.213.77.",
        "fd00:9900:": "fd00:9978:",
        "02:42:ac:1d:00:02": "02:42:0a:d5:4d:02",
        "15555": str(place["port"]),
        "sandbox:py": place["image"],
        "/srv/golden": "/usr",
        "unix:///var/run/docker.sock": place["host"],
    }
    for old, new in replacements.items():
        text = text.replace(old, new)
    state = by_name(json.loads(text))
    for part in ("inputs", "outputs"):
        state["hub"][part]["command"] = ["sleep", "600", "5555"]
        state["hub"][part]["healthcheck"]["tests"] = ["CMD", "true"]
    return state


def test_the_stack_has_the_golden_inputs_and_outputs(stack: Stack) -> None:
    exported = by_name(stack.made)
    golden = golden_here(stack.place, exported)
    mountpoint = exported["named"]["outputs"]["mountpoint"]
    golden["named"]["outputs"]["mountpoint"] = mountpoint
    assert mountpoint.endswith(f"/{stack.place['prefix']}named/_data")
    compared = {"backend", "named", "py", "hub"}
    if stack.place["plain_network"] is None:
        compared.add("plain")
    else:
        # Without a default bridge the second container has none of its golden addresses.
        golden["hub"]["outputs"]["bridge"] = "none"
    for name in sorted(compared):
        for part in ("inputs", "outputs", "propertyDependencies"):
            found, recorded = exported[name][part], golden[name][part]
            if name == "plain" and part == "outputs":
                found, recorded = _without_addresses(found), _without_addresses(recorded)
            if part == "propertyDependencies":
                found = {key: value for key, value in found.items() if key in recorded}
            assert (name, part, found) == (name, part, recorded)


def _without_addresses(outputs: dict[str, Any]) -> dict[str, Any]:
    """Leave out the addresses on the default bridge, which other containers share."""
    return {key: value for key, value in outputs.items() if key != "networkDatas"}


def test_nothing_changes_in_a_preview_or_after_a_refresh(stack: Stack) -> None:
    stack.run("preview", "--expect-no-changes")
    stack.run("preview", "--refresh", "--expect-no-changes")


@pytest.mark.parametrize("edit", IN_A_HURRY)
def test_an_edit_previews_as_recorded(stack: Stack, edit: str) -> None:
    assert stack.steps(ARGUMENTS[edit]) == wanted(edit)


def test_an_update_that_fails_is_finished_by_the_next(stack: Stack) -> None:
    plugin = shutil.which("pulumi-resource-docker", path=search_path())
    if plugin is None or Path(plugin).parent != PLUGINS:
        pytest.skip(f"{plugin} is not the stand-in: it can not be told to fail")
    edit = json.dumps(ARGUMENTS["hub.cpu_shares"])
    rule = "docker:index/container:Container update hub"
    with pytest.raises(PulumiError, match="failure injected by the sandbox"):
        stack.run("up", "--yes", "--skip-preview", EDIT=edit, GRIDHUB_SANDBOX_FAIL=rule)
    assert [step["op"] for step in stack.steps(ARGUMENTS["hub.cpu_shares"])] == ["update"]
    stack.run("up", "--yes", "--skip-preview", EDIT=edit)
    exported = by_name(json.loads(stack.run("stack", "export")))
    assert exported["hub"]["outputs"]["cpuShares"] == 256
    stack.run("up", "--yes", "--skip-preview")


@pytest.mark.soak
@pytest.mark.parametrize("edit", [e for e in ARGUMENTS if e not in IN_A_HURRY])
def test_every_edit_previews_as_recorded(stack: Stack, edit: str) -> None:
    assert stack.steps(ARGUMENTS[edit]) == wanted(edit)


def test_the_arguments_name_every_recorded_edit() -> None:
    assert set(ARGUMENTS) == set(EDITS)
