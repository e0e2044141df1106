"""Telling two results apart, a line each difference."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from tests.sandbox.compare.harness import Result

_SHOWN_CHARACTERS = 300
_MISSING = object()
_ASKS = ("diff", "read", "invoke")


def _short(value: Any) -> str:
    if value is _MISSING:
        return "(nothing)"
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…"


def _labels(values: Sequence[Any]) -> list[str] | None:
    """Name the elements of a list of steps or resources, so that they are paired by name."""
    if not values or not all(isinstance(v, dict) and "urn" in v for v in values):
        return None
    labels: list[str] = []
    for value in values:
        kind = f"{value.get('event', '')} {value.get('op', value.get('delete', ''))}".strip()
        label = f"{kind} {value['urn'].split('::', 2)[-1]}"
        labels.append(f"{label}#{sum(one.startswith(label + '#') for one in labels)}")
    return labels


def _walk(path: str, real: Any, own: Any) -> Iterator[str]:
    if isinstance(real, dict) and isinstance(own, dict):
        for key in sorted({**real, **own}):
            yield from _walk(f"{path}.{key}", real.get(key, _MISSING), own.get(key, _MISSING))
        return
    if isinstance(real, list) and isinstance(own, list):
        real_labels, own_labels = _labels(real), _labels(own)
        if real_labels is not None and own_labels is not None:
            by_label = dict(zip(own_labels, own, strict=True))
            paired = dict(zip(real_labels, real, strict=True))
            for label in [*real_labels, *(name for name in own_labels if name not in paired)]:
                other = by_label.get(label, _MISSING)
                yield from _walk(f"{path}[{label}]", paired.get(label, _MISSING), other)
            return
    if real is _MISSING or own is _MISSING or real != own:
        yield f"{path}: real {_short(real)}, own {_short(own)}"


def _comparable(result: Result) -> Result:
    """Leave the order only to what has one: a run's concurrent diffs come as they come."""
    changed = dict(result)
    calls = result["calls"]
    changed["calls"] = [c for c in calls if not c.startswith(_ASKS)]
    changed["asked"] = sorted(c for c in calls if c.startswith(_ASKS))
    if "steps" in result:
        steps = result["steps"]
        changed["order"] = [
            f"{s['event']} {s['op']} {s['urn']}"
            for s in steps
            if "event" in s and s["op"] not in ("same", "read", "refresh")
        ]
        changed["steps"] = sorted(steps, key=lambda s: (s["urn"], s["op"], s.get("event", "")))
    return changed


def differences(real: list[Result], own: list[Result]) -> list[str]:
    """List what differs between the results of two engines."""
    lines: list[str] = []
    for place, (expected, seen) in enumerate(zip(real, own, strict=True)):
        label = f"{place} {expected['command']}"
        lines.extend(_walk(label, _comparable(expected), _comparable(seen)))
    return lines
