"""A plugin that fails at one resource after the other: the state stays true, `up` goes on."""

from pathlib import Path

import pytest

from tests.e2e.nodes import boot_everything
from tests.e2e.stack import Ground, MirrorStack, mirror_stack, steps_of
from tests.sandbox.host.pulumi import PulumiError
from tests.sandbox.plugins.faults import FILE_VARIABLE
from tests.sandbox.upstream import Upstream

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]

_MOMENTS = ("before", "partial")
_CONTAINERS = ("zdb", "hub", "bootstrap", "edge", "sync-users", "sync-kernels", "sync-flists")
_FAILING = (
    ("docker:index/network:Network", "network-bridge"),
    *(
        ("docker:index/remoteImage:RemoteImage", f"images-{service}")
        for service in ("zdb", "hub", "bootstrap", "caddy", "python")
    ),
    *(("docker:index/container:Container", f"{name}-container") for name in _CONTAINERS),
)


def recorded(stack: MirrorStack) -> set[str]:
    resources = stack.state()["deployment"].get("resources") or []
    return {resource["urn"].rsplit("::", 1)[1] for resource in resources}


def test_a_failure_at_every_resource_in_turn_leaves_a_true_state_and_up_finishes(
    place: Ground, master: Upstream, tmp_path: Path
) -> None:
    rules = tmp_path / "faults"
    with mirror_stack(place, master, tmp_path) as stack:
        stack.add_environment({FILE_VARIABLE: str(rules)})
        for number, (token, name) in enumerate(_FAILING):
            moment = _MOMENTS[number % 2] if token.endswith("Container") else "before"
            rules.write_text(f"{token} create {name} {moment}\n")
            with pytest.raises(PulumiError, match="failure injected"):
                stack.up()
            assert (name in recorded(stack)) == (moment == "partial"), name
            left = {f"{service}-container" for service in present(stack)}
            assert left <= recorded(stack), "a container that the state does not know"
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


def present(stack: MirrorStack) -> set[str]:
    """Return the program's names of the containers that exist."""
    names = {"caddy": "edge", "users": "sync-users", "kernels": "sync-kernels"}
    names["flists"] = "sync-flists"
    return {names.get(service, service) for service in stack.containers()}
