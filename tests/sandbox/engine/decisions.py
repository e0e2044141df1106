"""Small decisions of the step generator: replace-on-changes, deletes, targets, messages."""

from __future__ import annotations

import re

from tests.sandbox.engine.goals import Step
from tests.sandbox.engine.paths import parse_path, path_contains
from tests.sandbox.engine.provider import Diff
from tests.sandbox.engine.state import Resource
from tests.sandbox.engine.values import Secret, deep_equal

_INIT_ERROR_KEY = "#initerror"


def delete_step(resource: Resource, *, replacing: bool = False, pending: bool = False) -> Step:
    """Make the step that deletes a resource."""
    if resource.external:
        op = "discard-replaced" if replacing else "discard"
    else:
        op = "delete-replaced" if replacing else "delete"
    return Step(
        op,  # type: ignore[arg-type]
        resource,
        replacing=replacing,
        pending_replacement=pending,
    )


def apply_replace_on_changes(diff: Diff, patterns: list[str], init_errors: bool) -> Diff:
    """Turn changes of the named properties into replacements."""
    if (not diff.changes and not init_errors) or not patterns:
        return diff
    parsed = [parse_path(pattern) for pattern in patterns]
    detailed = diff.detailed
    if detailed is not None:
        detailed = {
            text: (_as_replace(kind) if _covered(parsed, text) else kind, of_input)
            for text, (kind, of_input) in detailed.items()
        }
    replaces = [*diff.replaces, *(key for key in diff.changed if _covered(parsed, key))]
    changes = diff.changes
    if init_errors and _covered(parsed, _INIT_ERROR_KEY):
        replaces.append(_INIT_ERROR_KEY)
        changes = True
    unique = list(dict.fromkeys(replaces))
    return Diff(changes, unique, diff.changed, detailed, diff.delete_before_replace)


def _as_replace(kind: str) -> str:
    return kind if kind.endswith("-replace") else f"{kind}-replace"


def _covered(patterns: list[tuple[str | int, ...]], text: str) -> bool:
    path = parse_path(text)
    return any(path_contains(pattern, path) for pattern in patterns)


def triggered(new: object, old: object) -> bool:
    """Whether a replacement trigger has another value than before."""
    return new is not None and old is not None and not deep_equal(new, old)


def go_text(value: object) -> str:
    """Write a value as Go prints a property value, as the real engine's messages have it."""
    if isinstance(value, Secret):
        return "{[secret]}"
    if isinstance(value, dict):
        inner = " ".join(f"{key}:{go_text(value[key])}" for key in sorted(value))
        return f"{{map[{inner}]}}"
    if isinstance(value, list):
        return f"{{[{' '.join(go_text(element) for element in value)}]}}"
    if isinstance(value, bool):
        return "{true}" if value else "{false}"
    return "{<nil>}" if value is None else f"{{{value}}}"


def path_matches(pattern: str, urn: str) -> bool:
    """Whether a target names a URN; `**` stands for anything, `*` for anything but `:`."""
    if "*" not in pattern:
        return pattern == urn
    parts = re.split(r"(\*\*|\*)", pattern)
    kinds = {"**": ".*", "*": "[^:]*"}
    expression = "".join(kinds.get(part, re.escape(part)) for part in parts)
    return re.fullmatch(expression, urn) is not None
