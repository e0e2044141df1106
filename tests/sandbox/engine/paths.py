"""Property paths (`a.b[0]["c.d"]`), differences of property bags, ignored changes.

Follows sdk/go/common/resource/property_path.go and sdk/go/common/resource/plugin/plugin.go.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tests.sandbox.engine.values import Properties, Secret, deep_equal, unwrap

Path = tuple[str | int, ...]
_TOKEN = re.compile(r'\["((?:[^"\\]|\\.)*)"\]|\[(\d+|\*)\]|([^.\[\]]+)|\.')
_MISSING = object()
_SIMPLE = re.compile(r"^[^\s.\[\]\"]+$")


def parse_path(text: str) -> Path:
    """Split a property path into keys and indices; `*` stays a key.

    Raises ValueError where the text is no path.
    """
    steps: list[str | int] = []
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise ValueError(f"{text!r} is not a property path")
        quoted, index, name = match.groups()
        if quoted is not None:
            steps.append(quoted.replace('\\"', '"'))
        elif index is not None:
            steps.append(index if index == "*" else int(index))
        elif name is not None:
            steps.append(name)
        position = match.end()
    return tuple(steps)


def format_path(path: Path) -> str:
    """Write a path as the real engine does."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        elif _SIMPLE.match(step):
            text += f".{step}" if text else step
        else:
            quoted = step.replace('"', '\\"')
            text += f'["{quoted}"]'
    return text


def path_contains(pattern: Path, path: Path) -> bool:
    """Whether `pattern` names `path` or something above it."""
    if len(pattern) > len(path):
        return False
    return all(p in ("*", step) for p, step in zip(pattern, path, strict=False))


def _get(container: Any, step: str | int) -> Any:
    if isinstance(container, Secret):
        return _get(container.value, step)
    if isinstance(container, dict):
        return container.get(str(step), _MISSING)
    if isinstance(container, list) and isinstance(step, int) and step < len(container):
        return container[step]
    return _MISSING


def _assign(container: Any, step: str | int, value: Any) -> None:
    if isinstance(container, dict):
        if value is _MISSING:
            container.pop(str(step), None)
        else:
            container[str(step)] = value
        return
    fits = isinstance(container, list) and isinstance(step, int) and step < len(container)
    if fits and value is not _MISSING:
        container[step] = value


def _keys(*containers: Any) -> Iterator[str | int]:
    for container in containers:
        if isinstance(container, dict):
            yield from container
        elif isinstance(container, list):
            yield from range(len(container))


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(element) for key, element in value.items()}
    if isinstance(value, list):
        return [_copy(element) for element in value]
    return value


def _reset(new: Any, old: Any, path: Path) -> None:
    if isinstance(new, Secret):
        _reset(new.value, old, path)
        return
    if isinstance(old, Secret):
        old = old.value
    head, rest = path[0], path[1:]
    for step in set(_keys(new, old)) if head == "*" else {head}:
        before = _get(old, step)
        if not rest:
            _assign(new, step, before)
        elif _get(new, step) is not _MISSING and before is not _MISSING:
            _reset(_get(new, step), before, rest)


def ignore_changes(
    news: Properties, olds: Mapping[str, Any], patterns: Sequence[str]
) -> Properties:
    """Put the old value back wherever a pattern of `ignore_changes` points."""
    if not patterns:
        return news
    result: Properties = _copy(news)
    for pattern in patterns:
        if path := parse_path(pattern):
            _reset(result, dict(olds), path)
    return result


def _walk(old: Any, new: Any, path: Path) -> Iterator[tuple[Path, str]]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({**old, **new}):
            yield from _walk(old.get(key, _MISSING), new.get(key, _MISSING), (*path, key))
    elif isinstance(old, list) and isinstance(new, list):
        for index in range(max(len(old), len(new))):
            before = old[index] if index < len(old) else _MISSING
            after = new[index] if index < len(new) else _MISSING
            yield from _walk(before, after, (*path, index))
    elif old is _MISSING:
        yield path, "add"
    elif new is _MISSING:
        yield path, "delete"
    elif not deep_equal(old, new):
        yield path, "update"


def object_diff(olds: Mapping[str, Any], news: Mapping[str, Any]) -> dict[str, str]:
    """Tell the paths that differ, secrets looked into: path -> add, delete or update."""
    walked = _walk(unwrap(dict(olds)), unwrap(dict(news)), ())
    return {format_path(path): kind for path, kind in walked}


def changed_keys(olds: Mapping[str, Any], news: Mapping[str, Any]) -> list[str]:
    """Name the top-level keys that differ, sorted."""
    before, after = unwrap(dict(olds)), unwrap(dict(news))
    return [
        key
        for key in sorted({**before, **after})
        if not deep_equal(before.get(key, _MISSING), after.get(key, _MISSING))
    ]
