"""Failures on demand in the stand-in plugins."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.sandbox.plugins.client import PluginCallError, PluginCalls, PluginProcess
from tests.sandbox.plugins.docker.plugin import DockerPlugin
from tests.sandbox.plugins.faults import (
    FILE_VARIABLE,
    RULES_VARIABLE,
    BadRuleError,
    Faults,
    environment,
    parse,
)
from tests.sandbox.plugins.serve import start

ROOT = Path(__file__).parents[3]
NETWORK = "docker:index/network:Network"
DYNAMIC = "pulumi-python:dynamic:Resource"
VOLUME = "docker:index/volume:Volume"


@contextmanager
def plugin_that_fails(environment: Mapping[str, str]) -> Iterator[PluginCalls]:
    """Serve the docker stand-in with these rules."""
    server, port = start(DockerPlugin(), Faults(environment))
    calls = PluginCalls(port, "docker")
    try:
        yield calls
    finally:
        calls.close()
        server.stop(None)


def test_an_injected_failure_hits_the_named_resource_and_operation_only() -> None:
    with plugin_that_fails({RULES_VARIABLE: f"{NETWORK} diff i*"}) as plugin:
        inputs = plugin.check(NETWORK, {"name": "n"})
        with pytest.raises(PluginCallError, match="failure injected by the sandbox"):
            plugin.diff(NETWORK, "abc", {**inputs, "id": "abc"}, inputs)
        volume = plugin.check(VOLUME, {"name": "v"})
        assert not plugin.diff(VOLUME, "v", {**volume, "id": "v"}, volume).changes


def test_rules_in_a_file_are_read_at_every_call(tmp_path: Path) -> None:
    rules = tmp_path / "rules"
    rules.write_text("# every check\ndocker:* check *\n")
    with plugin_that_fails({FILE_VARIABLE: str(rules)}) as plugin:
        with pytest.raises(PluginCallError, match="failure injected"):
            plugin.check(NETWORK, {"name": "n"})
        rules.write_text("")
        assert plugin.check(NETWORK, {"name": "n"})["name"] == "n"


@pytest.mark.docker
@pytest.mark.parametrize(
    ("moment", "exists", "kept"),
    [("before", False, False), ("after", True, False), ("partial", True, True)],
)
def test_a_create_fails_before_or_after_its_effect_or_half_way(
    moment: str, exists: bool, kept: bool
) -> None:
    name = f"gridhub-plugin-fail-{os.getpid()}-{moment}"
    host = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    with (
        plugin_that_fails({RULES_VARIABLE: f"{NETWORK} create * {moment}"}) as plugin,
        plugin_that_fails({}) as sound,
    ):
        for each in (plugin, sound):
            each.configure({"host": host})
        inputs = sound.check(NETWORK, {"name": name})
        assert plugin.create(NETWORK, inputs, preview=True).properties["name"] == name
        with pytest.raises(PluginCallError, match="failure injected") as failed:
            plugin.create(NETWORK, inputs)
        assert (failed.value.partial is not None) is kept
        state = {**inputs, "id": name}
        seen = sound.read(NETWORK, name, state, inputs)
        assert (seen.id != "") is exists
        sound.delete(NETWORK, name, state)


@pytest.mark.docker
def test_an_update_and_a_delete_fail_when_told_to() -> None:
    name = f"gridhub-plugin-fail-{os.getpid()}-volume"
    host = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    rules = f"{VOLUME} update *; {VOLUME} delete * after"
    with plugin_that_fails({RULES_VARIABLE: rules}) as plugin, plugin_that_fails({}) as sound:
        for each in (plugin, sound):
            each.configure({"host": host})
        made = sound.create(VOLUME, sound.check(VOLUME, {"name": name}))
        with pytest.raises(PluginCallError, match=f"failure injected .*{VOLUME} update"):
            plugin.update(VOLUME, made.id, made.properties, made.inputs)
        with pytest.raises(PluginCallError, match=r"deleting urn:.*failure injected"):
            plugin.delete(VOLUME, made.id, made.properties)
        assert sound.read(VOLUME, made.id, made.properties, made.inputs).id == ""


def test_the_name_and_type_of_a_child_resource_are_those_of_its_urn() -> None:
    (rule,) = parse(f"{NETWORK} create backend")
    parent = "gridhub:components:Host"
    assert rule.matches("create", f"urn:pulumi:s::p::{parent}${NETWORK}::backend")
    assert not rule.matches("create", f"urn:pulumi:s::p::{parent}::backend")
    assert not rule.matches("delete", f"urn:pulumi:s::p::{NETWORK}::backend")


@pytest.mark.parametrize("text", ["container create", "a burn b", "a create b c"])
def test_a_rule_that_can_not_be_read_says_what_a_rule_looks_like(text: str) -> None:
    with pytest.raises(BadRuleError, match="write TOKEN OPERATION NAME-PATTERN"):
        parse(text)


def test_a_plugin_with_a_bad_rule_does_not_start() -> None:
    started = subprocess.run(
        [sys.executable, "-m", "tests.sandbox.plugins", "docker"],
        cwd=ROOT,
        env={**os.environ, RULES_VARIABLE: "container create"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert started.returncode != 0
    assert "write TOKEN OPERATION NAME-PATTERN [before|after|partial]" in started.stderr


def test_the_programs_own_providers_fail_by_the_same_rules(tmp_path: Path) -> None:
    rules = tmp_path / "rules"
    rules.write_text(f"{DYNAMIC} check *\n")
    command = [sys.executable, "-u", "-m", "pulumi.dynamic"]
    with PluginProcess(command, "dynamic", {**os.environ, **environment(rules)}) as provider:
        with pytest.raises(PluginCallError, match="failure injected by the sandbox"):
            provider.check(DYNAMIC, {})
        rules.write_text("")
        with pytest.raises(PluginCallError, match="KeyError"):
            provider.check(DYNAMIC, {})


def test_no_other_process_learns_of_the_rules(tmp_path: Path) -> None:
    said = subprocess.run(
        [sys.executable, "-c", "import sys; print('grpc' in sys.modules)", "dynamic"],
        env={**os.environ, **environment(tmp_path / "rules")},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert said.stdout.strip() == "False"
