"""A plugin that fails at one resource after the other: the state stays true, `up` goes on."""

from pathlib import Path

import pytest

from tests.e2e.nodes import boot_everything
from tests.e2e.stack import Ground, MirrorStack, mirror_stack, steps_of
from tests.sandbox.host.pulumi import PulumiError
from tests.sandbox.plugins.faults import FILE_VARIABLE
from tests.sandbox.upstream import Upstream

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]

_CONTAINER = "docker:index/container:Container"
_FIRST_KINDS = (
    "docker:index/remoteImage:RemoteImage create * before",
    "docker:index/network:Network create * before",
    f"{_CONTAINER} create * before",
)
# Key of `limits`, resource, and how its new container fails.
_REPLACED = (
    ("zdb", "zdb-container", "before"),
    ("hub", "hub-container", "partial"),
    ("bootstrap", "bootstrap-container", "before"),
    ("caddy", "edge-container", "partial"),
    ("users", "sync-users-container", "before"),
    ("kernels", "sync-kernels-container", "partial"),
    ("flists", "sync-flists-container", "before"),
)


def recorded(stack: MirrorStack) -> set[str]:
    resources = stack.state()["deployment"].get("resources") or []
    # One that was deleted and whose successor failed stays on record, marked as such.
    here = [resource for resource in resources if not resource.get("pendingReplacement")]
    return {resource["urn"].rsplit("::", 1)[1] for resource in here}


def test_a_failure_at_every_resource_in_turn_leaves_a_true_state_and_up_finishes(
    place: Ground, master: Upstream, tmp_path: Path
) -> None:
    rules = tmp_path / "faults"
    with mirror_stack(place, master, tmp_path) as stack:
        stack.add_environment({FILE_VARIABLE: str(rules)})
        for number in range(len(_FIRST_KINDS)):
            # What comes after fails as well: it must not be there yet when its turn comes.
            fails(stack, rules, "\n".join(_FIRST_KINDS[number:]))
        rules.write_text("")
        stack.up()
        stack.config["limits"] = {}
        for key, name, moment in _REPLACED:
            stack.config["limits"][key] = {"logFiles": 4}
            fails(stack, rules, f"{_CONTAINER} create {name} {moment}")
            assert (name in recorded(stack)) == (moment == "partial"), name
        rules.write_text("")
        stack.up()
        assert steps_of(stack) == {}
        boot_everything(stack, master.model.boot_sources(), "127.0.0.1")

        rules.write_text("docker:index/container:Container delete hub-container before\n")
        with pytest.raises(PulumiError, match="failure injected"):
            stack.pulumi("destroy", "--yes")
        assert "hub-container" in recorded(stack)
        rules.write_text("")
        stack.pulumi("destroy", "--yes")
        assert stack.containers() == {}
        assert stack.networks() == []


def fails(stack: MirrorStack, rules: Path, rule: str) -> None:
    """Run `up` under a rule: it fails for that reason, and no container is unknown after."""
    rules.write_text(rule + "\n")
    with pytest.raises(PulumiError) as failure:
        stack.up()
    assert "failure injected" in failure.value.output, failure.value.output[-3000:]
    left = {f"{service}-container" for service in present(stack)}
    assert left <= recorded(stack), "a container that the state does not know"


def present(stack: MirrorStack) -> set[str]:
    """Return the program's names of the containers that exist."""
    names = {"caddy": "edge", "users": "sync-users", "kernels": "sync-kernels"}
    names["flists"] = "sync-flists"
    return {names.get(service, service) for service in stack.containers()}
