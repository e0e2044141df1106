"""Engine and providers are killed at random moments: the repair of the docs always suffices."""

import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.kills import (
    Kill,
    cut_off,
    ending_what_is_left,
    left_behind,
    repair,
    started,
    strike,
    untrue,
)
from tests.e2e.stack import Ground, MirrorStack, mirror_stack, steps_of
from tests.sandbox.host.processes import wait_until
from tests.sandbox.upstream import Upstream

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]

_SOAK = (pytest.mark.soak, pytest.mark.timeout(7200))
_STACKS: dict[str, dict[str, Any]] = {
    "mirror": {"mode": "mirror"},
    "standalone": {"mode": "standalone", "ready": "started"},
}


def edited(dice: random.Random, number: int) -> dict[str, Any]:
    """Return settings that update, replace, add and delete resources of the edit before."""
    bootstrap = dice.random() < 0.7
    return {
        "limits": {
            "hub": {"logFiles": 3 + number % 7},
            dice.choice(("zdb", "caddy", "users")): {"logFiles": 3 + number % 5},
            "bootstrap": {"memoryMb": 256 + number},
        },
        "kernels": {
            "enabled": bootstrap and dice.random() < 0.6,
            "schedule": {"intervalSeconds": 1.0 + number % 3, "jitter": 0.0},
            "freeSpaceFloorBytes": 0,
        },
        "bootstrap": {"enabled": bootstrap},
        "rotation": {dice.choice(("zdbAdmin", "hubKey", "bootstrapToken")): number},
    }


def rounds(stack: MirrorStack, seed: int, kills: int) -> None:
    """Kill, repair and look at the truth, until so many kills have hit."""
    dice = random.Random(seed)
    hits = 0
    for number in range(4 * kills):
        if hits == kills:
            break
        stack.config |= edited(dice, number)
        kill = Kill.drawn(dice, hits)
        struck, printed = strike(stack, kill)
        if not struck:
            continue
        hits += 1
        told = f"seed {seed}, kill {hits}: {kill}"
        print(time.strftime("%X"), told, flush=True)
        told += f", cut off: {cut_off(stack)}, repaired by {repair(stack)}"
        print(time.strftime("%X"), told, flush=True)
        assert untrue(stack) == [], f"{told}\n{printed}"
        assert steps_of(stack) == {}, f"{told}\n{printed}"
    assert hits == kills


@pytest.mark.parametrize(
    ("seed", "kills", "mode"),
    [
        (3, 3, "mirror"),
        *(pytest.param(seed, 10, "standalone", marks=_SOAK) for seed in (103, 104)),
        *(pytest.param(seed, 10, "mirror", marks=_SOAK) for seed in (100, 101, 102)),
    ],
)
def test_after_a_kill_at_any_moment_the_repair_of_the_docs_leaves_a_true_state(
    place: Ground, master: Upstream, tmp_path: Path, seed: int, kills: int, mode: str
) -> None:
    with (
        mirror_stack(place, master, tmp_path, **_STACKS[mode]) as stack,
        ending_what_is_left(stack),
    ):
        rounds(stack, seed, kills)
        stack.destroy()
        assert untrue(stack) == []
        assert stack.state()["deployment"].get("resources", []) == []
        assert (stack.containers(), stack.networks()) == ({}, [])


def test_a_container_that_was_made_and_not_recorded_is_named_and_its_removal_suffices(
    place: Ground, master: Upstream, tmp_path: Path
) -> None:
    with (
        mirror_stack(place, master, tmp_path, **_STACKS["standalone"]) as stack,
        ending_what_is_left(stack),
    ):
        engine = started(stack, "up")
        # It is recorded when it is healthy, which takes at least the interval of its probes.
        wait_until(lambda: "zdb" in stack.containers(), "0-db's container", 300)
        engine.kill()
        engine.communicate()
        assert "creating zdb-container" in cut_off(stack)
        assert f"gridhub-{stack.name}-zdb" in repair(stack)
        assert untrue(stack) == []
        assert steps_of(stack) == {}


def test_an_interrupt_lets_what_is_under_way_finish_and_keeps_it(
    place: Ground, master: Upstream, tmp_path: Path
) -> None:
    standalone = _STACKS["standalone"]
    with mirror_stack(place, master, tmp_path, **standalone) as stack, ending_what_is_left(stack):
        struck, printed = strike(stack, Kill("engine", "up", 20, 0, signal.SIGINT))
        assert struck, printed
        assert left_behind(stack) == []
        assert [line for line in untrue(stack) if "initErrors" not in line] == [], printed
        assert steps_of(stack) != {}, "it was finished before the interrupt"
        stack.up()
        assert untrue(stack) == []
        assert steps_of(stack) == {}
