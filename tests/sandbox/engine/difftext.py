"""Differences of property bags in words, for `--diff`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tests.sandbox.engine.goals import Step
from tests.sandbox.engine.values import UNKNOWN, Properties, Secret, deep_equal, unwrap

_MISSING = object()
_HIDDEN_PREFIX = "__"
_STEP = "    "
_LINE = 100


def shown_value(value: Any, *, show_secrets: bool) -> str:
    """Write a value on one line."""
    if isinstance(value, Secret):
        return shown_value(value.value, show_secrets=True) if show_secrets else "[secret]"
    if value is UNKNOWN:
        return "[unknown]"
    if isinstance(value, dict):
        inner = (
            f"{json.dumps(key)}: {shown_value(element, show_secrets=show_secrets)}"
            for key, element in sorted(value.items())
        )
        return "{" + ", ".join(inner) + "}"
    if isinstance(value, list):
        inner = (shown_value(element, show_secrets=show_secrets) for element in value)
        return "[" + ", ".join(inner) + "]"
    return json.dumps(value, ensure_ascii=False)


def shown_block(value: Any, indent: str, *, show_secrets: bool) -> Iterator[str]:
    """Write a value on as many lines as a person needs; the first line has no indent."""
    line = shown_value(value, show_secrets=show_secrets)
    children = _children(value)
    if not children or len(indent) + len(line) <= _LINE:
        yield line
        return
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    yield opening
    for key, element in sorted(children.items()) if opening == "{" else children.items():
        label = f"{key}: " if opening == "{" else ""
        first, *rest = shown_block(element, indent + _STEP, show_secrets=show_secrets)
        yield f"{indent}{_STEP}{label}{first}"
        yield from rest
    yield indent + closing


def _children(value: Any) -> dict[str, Any] | None:
    if isinstance(value, dict):
        return {str(key): element for key, element in value.items()}
    if isinstance(value, list):
        return {f"[{place}]": element for place, element in enumerate(value)}
    return None


class DiffText:
    """Writes the difference of two bags, a line each property."""

    def __init__(self, *, show_secrets: bool) -> None:
        self._show_secrets = show_secrets

    def _value(self, value: Any) -> str:
        return shown_value(value, show_secrets=self._show_secrets)

    def _one(self, key: str, old: Any, new: Any, indent: str) -> Iterator[str]:
        if old is _MISSING:
            yield f"{indent}+ {key}: {self._value(new)}"
        elif new is _MISSING:
            yield f"{indent}- {key}: {self._value(old)}"
        elif deep_equal(unwrap(old), unwrap(new)):
            return
        else:
            before, after = _children(old), _children(new)
            if before is None or after is None:
                yield f"{indent}~ {key}: {self._value(old)} => {self._value(new)}"
                return
            yield f"{indent}~ {key}:"
            yield from self.lines(before, after, indent + _STEP)

    def lines(self, olds: Properties, news: Properties, indent: str) -> Iterator[str]:
        """Write what differs between two bags."""
        for key in sorted({**olds, **news}):
            if not key.startswith(_HIDDEN_PREFIX):
                old, new = olds.get(key, _MISSING), news.get(key, _MISSING)
                yield from self._one(key, old, new, indent)

    def step(self, step: Step, indent: str) -> Iterator[str]:
        """Write what a step changes: inputs, and after a refresh the outputs that moved."""
        if step.op == "refresh":
            if step.old is not None and step.new is not None:
                yield from self.lines(step.old.outputs, step.new.outputs, indent)
        elif step.op in ("delete", "delete-replaced") and step.old is not None:
            return
        elif step.new is not None:
            olds = step.old.inputs if step.old is not None and step.op != "create" else {}
            yield from self.lines(olds, step.new.inputs, indent)
