"""The stand-in docker plugin decides as the real one did; no Docker Engine is needed for that."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.sandbox.plugins import golden as golden_records
from tests.sandbox.plugins.client import PluginCallError, PluginCalls
from tests.sandbox.plugins.conversion import DEFAULTS_KEY
from tests.sandbox.plugins.docker.plugin import DockerPlugin
from tests.sandbox.plugins.record import CONTAINER, edited, edits, full_program
from tests.sandbox.plugins.serve import start

GOLDEN = Path(golden_records.__file__).parent
STATE = json.loads((GOLDEN / "docker-5.2-state.json").read_text())
EDITS = json.loads((GOLDEN / "docker-5.2-edits.json").read_text())
EDIT_INPUTS = json.loads((GOLDEN / "docker-5.2-edit-inputs.json").read_text())
DECISIONS = json.loads((GOLDEN / "docker-5.2-decisions.json").read_text())
RESOURCES = {
    resource["urn"].rsplit("::", 1)[-1]: resource
    for resource in STATE["deployment"]["resources"]
    if resource["type"].startswith("docker:")
}


@pytest.fixture(scope="module")
def plugin() -> Iterator[PluginCalls]:
    server, port = start(DockerPlugin())
    calls = PluginCalls(port, "docker")
    yield calls
    calls.close()
    server.stop(None)


def as_written(inputs: Any) -> Any:
    """Return recorded inputs without the defaults that the plugin added to them."""
    if isinstance(inputs, list):
        return [as_written(element) for element in inputs]
    if not isinstance(inputs, dict):
        return inputs
    added = {*inputs.get(DEFAULTS_KEY, []), DEFAULTS_KEY}
    return {key: as_written(value) for key, value in inputs.items() if key not in added}


@pytest.mark.parametrize("name", RESOURCES)
def test_check_adds_the_golden_defaults(plugin: PluginCalls, name: str) -> None:
    recorded = RESOURCES[name]
    checked = plugin.check(recorded["type"], as_written(recorded["inputs"]))
    assert checked == recorded["inputs"]


@pytest.mark.parametrize("name", RESOURCES)
def test_an_unchanged_golden_resource_has_no_difference(plugin: PluginCalls, name: str) -> None:
    recorded = RESOURCES[name]
    answer = plugin.diff(recorded["type"], recorded["id"], recorded["outputs"], recorded["inputs"])
    assert (answer.changes, answer.detailed) == (False, {})


@pytest.mark.parametrize("edit", EDITS)
def test_a_golden_edit_is_decided_as_recorded(plugin: PluginCalls, edit: str) -> None:
    subject = EDIT_INPUTS[edit]["resource"]
    recorded = RESOURCES[subject]
    given = {**as_written(recorded["inputs"]), **EDIT_INPUTS[edit]["inputs"]}
    news = plugin.check(recorded["type"], given, recorded["inputs"])
    answer = plugin.diff(recorded["type"], recorded["id"], recorded["outputs"], news)
    step = next((s for s in EDITS[edit] if s["resource"] == subject), None)
    assert answer.detailed == (step["detailedDiff"] if step else {})
    assert sorted(set(answer.replaces)) == ((step["replaceReasons"] or []) if step else [])


def test_every_recorded_decision_is_made_again(plugin: PluginCalls) -> None:
    wrong = []
    for case in DECISIONS["cases"]:
        subject = DECISIONS["subjects"][case["subject"]]
        news = plugin.check(CONTAINER, edited(subject["program"], case["edit"]), subject["inputs"])
        state = subject["states"][case["state"]]
        answer = plugin.diff(
            CONTAINER, subject["id"], state, news, subject["inputs"], case["ignore"]
        )
        decided = {
            "changes": answer.changes,
            "detailed": answer.detailed,
            "replaces": sorted(set(answer.replaces)),
            "deleteBeforeReplace": answer.delete_before_replace,
        }
        if decided != {key: case[key] for key in decided}:
            wrong.append((case["subject"], case["state"], case["name"], decided, case))
    assert wrong == []
    assert len(DECISIONS["cases"]) > 450


def test_the_record_covers_every_edit_that_it_names() -> None:
    image = DECISIONS["subjects"]["full"]["program"]["image"]
    named = {case["name"] for case in DECISIONS["cases"]}
    assert {name for name, _ in edits(full_program(image))} <= named


@pytest.mark.parametrize("subject", DECISIONS["subjects"])
def test_checked_inputs_are_those_of_the_record(plugin: PluginCalls, subject: str) -> None:
    recorded = DECISIONS["subjects"][subject]
    assert plugin.check(CONTAINER, recorded["program"]) == recorded["inputs"]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"image": None}, "Missing required argument"),
        ({"restart": "bad"}, "'bad' doesn't match the pattern"),
        ({"memory": -1}, "'-1' cannot be lower than 0"),
        ({"memory": "much"}, 'parsing "much": invalid syntax'),
        ({"bogus": 1}, "Invalid or unknown key. Examine values at 'it.bogus'"),
        ({"volumes": [{"hostPath": "relative"}]}, "must be an absolute path"),
        ({"healthcheck": {"interval": "5"}}, "'5' is not a valid duration"),
        ({"uploads": [{"content": "x"}]}, 'The argument "file" is required'),
        ({"volumes": "one"}, "Expected Array Type"),
        ({"gpus": "all"}, "gpus is not supported by the sandbox's stand-in plugin"),
        ({"attach": True}, "attach is not supported by the sandbox's stand-in plugin"),
    ],
)
def test_wrong_or_unsupported_inputs_are_refused_by_name(
    plugin: PluginCalls, inputs: dict[str, Any], message: str
) -> None:
    given = {"name": "c", "image": "i", **inputs}
    with pytest.raises(PluginCallError, match=re.escape(message)):
        plugin.check(CONTAINER, given)


def test_unknown_resources_functions_and_settings_are_refused_by_name(
    plugin: PluginCalls,
) -> None:
    with pytest.raises(PluginCallError, match="docker:index/service:Service"):
        plugin.check("docker:index/service:Service", {"name": "s"})
    with pytest.raises(PluginCallError, match="docker:index/getLogs:getLogs"):
        plugin.invoke("docker:index/getLogs:getLogs", {})
    with pytest.raises(PluginCallError, match="registryAuth is not supported"):
        plugin.check_config({"registryAuth": "[]"})
    with pytest.raises(PluginCallError, match=r"Examine values at 'it\.nonsense'"):
        plugin.check_config({"nonsense": "1"})


def test_a_name_is_made_kept_and_freed_as_by_the_real_plugin(plugin: PluginCalls) -> None:
    network = "docker:index/network:Network"
    made = plugin.check(network, {})
    assert made["name"].startswith("it-")
    assert made[DEFAULTS_KEY] == ["ipamDriver", "name"]
    assert plugin.check(network, {}, made)["name"] == made["name"]
    recorded = RESOURCES["backend"]
    relabelled = plugin.check(
        network, {**as_written(recorded["inputs"]), "labels": []}, recorded["inputs"]
    )
    answer = plugin.diff(network, recorded["id"], recorded["outputs"], relabelled)
    assert answer.delete_before_replace


def test_a_secret_input_stays_secret_through_check_and_is_plain_in_a_diff(
    plugin: PluginCalls,
) -> None:
    from tests.sandbox.plugins.values import Secret

    recorded = RESOURCES["hub"]
    given = {**as_written(recorded["inputs"]), "envs": Secret(["DOMAIN=example.org", "MODE=x"])}
    news = plugin.check(CONTAINER, given)
    assert news["envs"] == Secret(["DOMAIN=example.org", "MODE=x"])
    answer = plugin.diff(CONTAINER, recorded["id"], recorded["outputs"], news)
    assert answer.detailed == {"envs[1]": "update-replace"}


def test_the_plugin_reports_the_release_it_stands_in_for(plugin: PluginCalls) -> None:
    assert plugin.version() == DECISIONS["plugin"] == "5.2.0"


def test_the_same_port_on_two_addresses_is_a_change_when_the_daemon_turns_their_order(
    plugin: PluginCalls,
) -> None:
    """Docker Engine 20.10 lists such a pair in reverse; the real plugin then replaces."""
    recorded = RESOURCES["hub"]
    pair = [
        {"internal": 80, "external": 8080, "ip": "127.0.0.1", "protocol": "tcp"},
        {"internal": 80, "external": 8080, "ip": "::1", "protocol": "tcp"},
    ]
    state = {**recorded["outputs"], "ports": pair[::-1]}
    news = {**recorded["inputs"], "ports": pair}
    answer = plugin.diff(CONTAINER, recorded["id"], state, news)
    assert answer.detailed == {"ports[0].ip": "update-replace", "ports[1].ip": "update-replace"}
    same = plugin.diff(CONTAINER, recorded["id"], {**state, "ports": pair}, news)
    assert not same.changes
