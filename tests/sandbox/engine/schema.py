"""The `config:` section of a project file: defaults, and checks before the program runs.

Follows pkg/workspace/config.go: one kind of error at a time, the first key in order.
"""

from __future__ import annotations

import re
from typing import Any

from tests.sandbox.engine.errors import EngineError
from tests.sandbox.engine.passphrase import Crypter
from tests.sandbox.engine.project import Project, StackConfig, has_secure

_INTEGER = re.compile(r"[+-]?\d+")


def _is_integer(value: Any) -> bool:
    if isinstance(value, str):
        return _INTEGER.fullmatch(value) is not None
    whole = isinstance(value, float) and value.is_integer()
    return whole or (isinstance(value, int) and not isinstance(value, bool))


def _fits(kind: str, items: Any, value: Any) -> bool:
    if kind == "string":
        return isinstance(value, str)
    if kind == "integer":
        return _is_integer(value)
    if kind == "boolean":
        return isinstance(value, bool) or value in ("true", "false")
    if kind == "object":
        return isinstance(value, dict)
    if not isinstance(value, list) or not isinstance(items, dict):
        return False
    return all(_fits(str(items.get("type")), items.get("items"), element) for element in value)


def _full_name(kind: str, items: Any) -> str:
    if kind != "array" or not isinstance(items, dict):
        return kind
    return f"array<{_full_name(str(items.get('type')), items.get('items'))}>"


def _missing(stack: str, keys: list[str]) -> EngineError:
    if len(keys) == 1:
        return EngineError(f"Stack '{stack}' is missing configuration value '{keys[0]}'")
    listed = ", ".join(f"'{key}'" for key in keys[:-1])
    return EngineError(f"Stack '{stack}' is missing configuration values {listed} and '{keys[-1]}'")


def _content(value: Any, crypter: Crypter | None) -> Any:
    """Give the value as the check sees it: scalars as text, a secret decrypted."""
    if isinstance(value, dict) and has_secure(value) and len(value) == 1:
        return crypter.decrypt(value["secure"]) if crypter is not None else ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int) else value


def apply_schema(
    project: Project, config: StackConfig, stack: str, crypter: Crypter | None
) -> StackConfig:
    """Fill in the project's defaults and check the types it declares.

    Raises EngineError for missing keys, then for a value that is of another type.
    """
    entries: dict[str, Any] = project.document.get("config") or {}
    values = dict(config.values)
    missing = []
    for name in sorted(entries):
        entry = entries[name] if isinstance(entries[name], dict) else {"value": entries[name]}
        key = config.key(name)
        given = entry.get("default", entry.get("value"))
        if key in values:
            continue
        if given is not None:
            values[key] = given
        elif key.startswith(f"{project.name}:"):
            missing.append(name)
    if missing:
        raise _missing(stack, missing)
    for name in sorted(entries):
        entry = entries[name]
        if isinstance(entry, dict) and "type" in entry:
            _check(stack, name, entry, values.get(config.key(name)), crypter)
    return StackConfig(config.file, config.project, {**config.document, "config": values})


def _check(
    stack: str, name: str, entry: dict[str, Any], value: Any, crypter: Crypter | None
) -> None:
    if entry.get("secret") and not has_secure(value):
        raise EngineError(
            f"Stack '{stack}' with configuration key '{name}' must be encrypted as it's secret"
        )
    kind, items = str(entry["type"]), entry.get("items")
    if not _fits(kind, items, _content(value, crypter)):
        raise EngineError(
            f"Stack '{stack}' with configuration key '{name}' must be of type "
            f"'{_full_name(kind, items)}'"
        )
