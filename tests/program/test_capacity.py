"""What the limits have room for is what the gate is told, and never more."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.settings import Settings, SettingsError, parse
from components.settings.capacity import (
    builds_at_once,
    clients_that_fit,
    connections,
    connections_per_address,
)
from tests.program.declared import as_pulumi_gives, declare, production, stack_file


def settings_of(**given: Any) -> Settings:
    config = {**production(), **{f"gridhub:{key}": value for key, value in given.items()}}
    return parse(as_pulumi_gives(config))


def test_the_defaults_have_room_for_four_thousand_and_two_builds() -> None:
    settings = settings_of()
    assert (connections(settings), connections_per_address(settings)) == (4000, 1000)
    assert builds_at_once(settings) == 2


def test_a_farm_of_200_nodes_boots_behind_one_address() -> None:
    assert connections_per_address(settings_of()) >= 4 * 200


def test_the_sandboxs_small_limits_of_the_release_before_are_taken() -> None:
    containers = declare(stack_file("sandbox"), "sandbox", {"CLOUDFLARE_API_TOKEN": "t" * 40})
    (text,) = [e for e in containers.containers()["gate"]["envs"] if e.startswith("GRIDHUB_GATE=")]
    told = json.loads(text.partition("=")[2])
    assert 100 <= told["connections_per_address"] <= told["connections"] < 4000
    assert told["media"]["builds"] == 1


@settings(deadline=None, max_examples=50)
@given(
    st.dictionaries(
        st.sampled_from(["gate", "caddy", "hub", "bootstrap"]),
        st.fixed_dictionaries(
            {},
            optional={
                "memoryMb": st.integers(32, 4096),
                "processes": st.integers(16, 9000),
            },
        ),
    ),
    st.fixed_dictionaries(
        {},
        optional={
            "connections": st.integers(100, 8000),
            "connectionsPerAddress": st.integers(10, 8000),
        },
    ),
    st.fixed_dictionaries({}, optional={"builds": st.integers(1, 16)}),
)
def test_whatever_is_accepted_fits(
    limits: dict[str, dict[str, int]], edge: dict[str, int], bootstrap: dict[str, int]
) -> None:
    try:
        accepted = settings_of(limits=limits, edge=edge, bootstrap=bootstrap)
    except SettingsError:
        return
    total, one = connections(accepted), connections_per_address(accepted)
    assert 10 <= one <= total <= 8000
    assert total >= 100
    assert total <= min(clients_that_fit(accepted.limits, accepted.bootstrap).values())
    # A file descriptor for each client and one to Caddy, below `ulimit nofile` 16384.
    assert 2 * total + 100 < 16384


@pytest.mark.parametrize("memory_mb", [230, 256, 512, 663, 664, 1024, 4096])
def test_what_is_built_at_once_leaves_memory_for_those_who_ask_for_kernels(memory_mb: int) -> None:
    settings = settings_of(limits={"bootstrap": {"memoryMb": memory_mb}})
    assert builds_at_once(settings) == (2 if memory_mb >= 664 else 1)
