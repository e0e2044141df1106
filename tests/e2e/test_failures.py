"""A plugin that fails at one resource after the other: the state stays true, `up` goes on."""

from pathlib import Path

import pytest

from tests.e2e.nodes import live
from tests.e2e.stack import Ground, MirrorStack, mirror_stack, steps_of
from tests.sandbox.dns.sandbox import DnsSandbox
from tests.sandbox.plugins import faults
from tests.sandbox.pulumi.workspace import PulumiError
from tests.sandbox.upstream import Upstream

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]

DYNAMIC = "pulumi-python:dynamic"
_TOKEN = "e2e-dns-token-of-forty-characters-000000"
_CONTAINER = "docker:index/container:Container"
# Key of `limits`, resource, and how its new container fails.
_REPLACED = (
    ("zdb", "zdb-container", "before"),
    ("hub", "hub-container", "partial"),
    ("bootstrap", "bootstrap-container", "before"),
    ("caddy", "edge-container", "partial"),
    ("gate", "gate-container", "before"),
    ("users", "sync-users-container", "before"),
    ("kernels", "sync-kernels-container", "partial"),
    ("flists", "sync-flists-container", "before"),
)


def recorded(stack: MirrorStack) -> set[str]:
    resources = stack.state()["deployment"].get("resources") or []
    # One that was deleted and whose successor failed stays on record, marked as such.
    here = [resource for resource in resources if not resource.get("pendingReplacement")]
    return {resource["urn"].rsplit("::", 1)[1] for resource in here}


def test_a_failure_at_each_replaced_container_in_turn_leaves_a_true_state_and_up_finishes(
    place: Ground, master: Upstream, tmp_path: Path
) -> None:
    rules = tmp_path / "faults"
    with mirror_stack(place, master, tmp_path) as stack:
        stack.add_environment(faults.environment(rules))
        stack.up()
        stack.config["limits"] = {}
        for key, name, moment in _REPLACED:
            stack.config["limits"][key] = {"logFiles": 4}
            fails(stack, rules, f"{_CONTAINER} create {name} {moment}")
            assert (name in recorded(stack)) == (moment == "partial"), name
        rules.write_text("")
        stack.up()
        assert steps_of(stack) == {}
        live(stack, master.model.boot_sources(), "127.0.0.1")

        rules.write_text("docker:index/container:Container delete hub-container before\n")
        with pytest.raises(PulumiError, match="failure injected"):
            stack.destroy()
        assert "hub-container" in recorded(stack)
        rules.write_text("")
        stack.destroy()
        assert stack.containers() == {}
        assert stack.networks() == []


def in_turn(stack: MirrorStack, rules: Path, place: int, urns: list[str]) -> None:
    """Run `up` with a failure at one resource of a first deployment; no later one is made.

    What comes after fails as well: it must not be there yet when its turn comes.

    A provider of ours fails after its work, as if the answer was lost: what it did is adopted.
    """
    after = "after" if DYNAMIC in urns[place] else "before"
    later = [f"{rule(urn)} before" for urn in urns[place + 1 :]]
    fails(stack, rules, "\n".join([f"{rule(urns[place])} {after}", *later]))
    name = urns[place].rsplit("::", 1)[1]
    assert name not in recorded(stack), name


def rule(urn: str) -> str:
    _, _, kinds, name = urn.split("::", 3)
    return f"{kinds.rsplit('$', 1)[-1]} create {name}"


def order_of_creation(stack: MirrorStack) -> list[str]:
    """Return what a first `up` makes and a plugin may refuse to make, needed ones first."""
    kinds = ("docker:index", "cloudflare:index", DYNAMIC)
    planned = [step["urn"] for step in stack.preview() if step["op"] == "create"]
    return [urn for urn in planned if urn.split("::")[2].rsplit("$", 1)[-1].startswith(kinds)]


def kinds_of(urns: list[str]) -> list[int]:
    """Return the places of the first resource of each kind."""
    kinds = [urn.split("::")[2].rsplit("$", 1)[-1] for urn in urns]
    return sorted({kind: place for place, kind in reversed(list(enumerate(kinds)))}.values())


@pytest.mark.parametrize(
    "every", [False, pytest.param(True, marks=[pytest.mark.soak, pytest.mark.timeout(3600)])]
)
def test_a_failure_at_each_resource_of_a_first_up_in_turn_and_up_finishes(
    place: Ground, master: Upstream, tmp_path: Path, *, every: bool
) -> None:
    rules = tmp_path / "faults"
    rules.write_text("")
    with DnsSandbox(["grid.test"], token=_TOKEN) as dns:
        settings = {
            "domain": "grid.test",
            "dns": {"provider": "cloudflare", "zoneId": dns.zone_id("grid.test"), "ttl": 60},
        }
        with mirror_stack(place, master, tmp_path, **settings) as stack:
            stack.environment_for_dns(dns.api_url, _TOKEN)
            stack.add_environment(faults.environment(rules))
            urns = order_of_creation(stack)
            for number in range(len(urns)) if every else kinds_of(urns):
                in_turn(stack, rules, number, urns)
            rules.write_text("")
            stack.up()
            assert {urn.rsplit("::", 1)[1] for urn in urns} <= recorded(stack)
            assert steps_of(stack) == {}
            live(stack, master.model.boot_sources(), "127.0.0.1")


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
