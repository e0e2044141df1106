"""A stack begun under one engine goes on under the other: no changes, then refresh and destroy."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.sandbox.compare.case import Run, component, dynamic, provider, ref, secret, spec, thing
from tests.sandbox.compare.harness import Engine, Workplace

_PROGRAMS = {
    "plain": spec(thing("a", v=1), thing("b", v=ref("a"), n={"x": [1, True, None]}), out=ref("b")),
    "dynamic": spec(
        dynamic("d", v=1, s=secret("sesame")), thing("t", v=ref("d")), out=ref("d", "s")
    ),
    "secrets": spec(
        thing(
            "a", s=secret({"deep": ["x"]}), p={"$configSecret": "hidden"}, c={"$config": "plain"}
        ),
        out=ref("a", "s"),
    ),
    "components": spec(
        provider("p", region="north"),
        component("outer", {"providers": ["p"]}),
        component("inner", {"parent": "outer"}),
        thing("leaf", {"parent": "inner"}, v=1),
        {"kind": "outputs", "name": "outer", "props": {"leaf": ref("leaf")}},
    ),
    "options": spec(
        thing("a", {"retain_on_delete": True, "additional_secret_outputs": ["computed"]}, v=1),
        thing("b", {"ignore_changes": ["v"], "custom_timeouts": {"create": "5m"}}, v=1),
        thing("c", {"deleted_with": "b", "delete_before_replace": True}, v=ref("a", "v")),
        thing("d", {"aliases": ["old"], "replace_on_changes": ["v"]}, v=1),
    ),
}
_CONFIG = {"cmp:plain": "1", "cmp:hidden": {"encrypt": "sesame"}}
_COMMANDS = (
    ["preview", "--expect-no-changes"],
    ["preview", "--refresh", "--expect-no-changes"],
    ["up", "--yes", "-f", "--expect-no-changes"],
    ["refresh", "--yes", "-f", "--expect-no-changes"],
)


@dataclass(frozen=True)
class Handover:
    """One program, begun under the first engine and continued under the second."""

    program: str
    direction: str
    failures: list[str]


def _hand_over(program: str, direction: str, first: Engine, second: Engine) -> Handover:
    failures = []
    with tempfile.TemporaryDirectory(prefix="handover-") as name:
        place = Workplace(Path(name).resolve() / "case")
        place.prepare(Run("up", _PROGRAMS[program], config=_CONFIG))

        def call(engine: Engine, *arguments: str) -> None:
            code, out = engine.call(list(arguments), place.project, place.environment())
            if code:
                failures.append(f"{' '.join(arguments)} ended with {code}:\n{out[-2000:]}")

        call(first, "stack", "init", "dev")
        call(first, "up", "--yes", "-f")
        for command in _COMMANDS:
            call(second, *command)
        call(first, "preview", "--expect-no-changes")
        call(second, "destroy", "--yes", "-f")
        # "a" is retained, and "c" is said to go with "b".
        left = [name for name in place.live() if not name.startswith(("a-", "c-"))]
        if left:
            failures.append(f"left behind: {left}")
    return Handover(program, direction, failures)


def hand_over_all(own: Engine, real: Engine) -> list[Handover]:
    """Hand every program over in both directions."""
    return [
        _hand_over(program, direction, first, second)
        for program in _PROGRAMS
        for direction, first, second in (("own to real", own, real), ("real to own", real, own))
    ]
