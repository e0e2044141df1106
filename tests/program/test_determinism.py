"""The same settings declare the same resources: so an unchanged stack previews empty."""

import json
import os
import random
import subprocess
import sys
from typing import Any

from tests.program.declared import PROJECT, declare, production, stack_file

_PRINT = """
import json
from tests.program.declared import declare, stack_file
found = declare(stack_file("sandbox"), "sandbox", {"CLOUDFLARE_API_TOKEN": "t" * 40})
rows = {n: [r.type, r.raw, r.options] for n, r in found.resources.items()}
print(json.dumps([rows, found.outputs], sort_keys=True))
"""


def _registered(seed: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _PRINT],
        cwd=PROJECT,
        env={**os.environ, "PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout


def test_two_runs_register_the_same_whatever_the_order_of_sets_and_hashes() -> None:
    first = _registered("1")
    assert json.loads(first)[0]
    assert first == _registered("2")


def test_the_order_of_keys_in_the_stack_file_does_not_matter() -> None:
    shuffled = _shuffled(production(), random.Random(7))
    assert list(shuffled) != list(production())
    before, after = declare(production(), "prod"), declare(shuffled, "prod")
    assert {n: (r.raw, r.options) for n, r in before.resources.items()} == {
        n: (r.raw, r.options) for n, r in after.resources.items()
    }
    assert before.outputs == after.outputs


def _shuffled(value: Any, order: random.Random) -> Any:
    if not isinstance(value, dict):
        return value
    keys = list(value)
    order.shuffle(keys)
    return {key: _shuffled(value[key], order) for key in keys}


def test_writing_out_a_default_changes_nothing() -> None:
    config = stack_file("sandbox")
    spelled = {
        **config,
        "gridhub:mode": "mirror",
        "gridhub:production": False,
        "gridhub:rotation": {"zdbAdmin": 0},
        "gridhub:hub": {},
        "gridhub:modeConfirmation": 0,
    }
    token = {"CLOUDFLARE_API_TOKEN": "t" * 40}
    before, after = declare(config, "sandbox", token), declare(spelled, "sandbox", token)
    assert {n: r.raw for n, r in before.resources.items()} == {
        n: r.raw for n, r in after.resources.items()
    }
