"""Pulumi's properties to Terraform's attributes and back, as the bridge of the real plugin does.

In Terraform's shape a nested object is a list of at most one, names are snake case, a set is a
list in the order that Terraform keeps (`set_order`), and `UNKNOWN` is what only an update tells.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from tests.sandbox.plugins.schema import (
    Attribute,
    Fields,
    Kind,
    ResourceSchema,
    by_pulumi_name,
    pulumi_name,
    snake,
)
from tests.sandbox.plugins.values import UNKNOWN

DEFAULTS_KEY: Final = "__defaults"
META_KEY: Final = "__meta"
DELTA_KEY: Final = "__pulumi_raw_state_delta"
# The key under which the Terraform SDK keeps a resource's timeouts in its private data.
_TIMEOUTS_KEY: Final = "e2bfb730-ecaa-11e6-8f88-34363bc7c4c0"
_NANOSECONDS: Final = 1_000_000_000

State = dict[str, Any]


class WrongTypeError(ValueError):
    """A property whose value is not of the type that its attribute wants."""


def _scalar_to_terraform(name: str, value: Any, kind: Kind) -> Any:
    if kind is Kind.STRING:
        return _text(value)
    if kind is Kind.BOOL:
        return value.lower() == "true" if isinstance(value, str) else bool(value)
    try:
        return int(value)
    except (TypeError, ValueError):
        raise WrongTypeError(
            f'{name}: strconv.ParseInt: parsing "{value}": invalid syntax'
        ) from None


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _wanted(name: str, value: Any, shape: type, expected: str) -> Any:
    if not isinstance(value, shape):
        found = "string" if isinstance(value, str) else type(value).__name__
        raise WrongTypeError(
            f"Expected {expected} Type. Expected {expected.lower()}, got {found}. "
            f"Examine values at '{name}'."
        )
    return value


def value_to_terraform(name: str, value: Any, attribute: Attribute) -> Any:
    """One property's value in Terraform's shape; `name` is for the message of a wrong type."""
    if value is UNKNOWN:
        return UNKNOWN
    if value is None:
        return [] if attribute.is_block else None
    if attribute.kind is Kind.MAP:
        return {k: v for k, v in _wanted(name, value, dict, "Object").items() if k != DEFAULTS_KEY}
    if not attribute.is_array:
        return _scalar_to_terraform(name, value, attribute.kind)
    elements = [value] if attribute.single else _wanted(name, value, list, "Array")
    if attribute.fields is None:
        return [e if e in (UNKNOWN, None) else _text(e) for e in elements]
    fields = attribute.fields
    return [
        e if e is UNKNOWN else to_terraform(_wanted(name, e, dict, "Object"), fields)
        for e in elements
    ]


def to_terraform(properties: Mapping[str, Any], fields: Fields) -> State:
    """Return properties (inputs or a recorded state) in Terraform's shape; nulls are absent."""
    known = by_pulumi_name(fields)
    result: State = {}
    for key, value in properties.items():
        if key in known and value is not None:
            name, attribute = known[key]
            result[name] = value_to_terraform(key, value, attribute)
    return result


def value_from_terraform(value: Any, attribute: Attribute) -> Any:
    """One attribute's value as Pulumi shows it."""
    if value is UNKNOWN or value is None:
        return value
    if not attribute.is_array or attribute.fields is None:
        return value
    fields = attribute.fields
    elements = [e if e is UNKNOWN else from_terraform(e, fields) for e in value]
    if not attribute.single:
        return elements
    return elements[0] if elements else None


def from_terraform(state: Mapping[str, Any], fields: Fields) -> dict[str, Any]:
    """Return the properties of a state, every attribute present."""
    return {
        pulumi_name(name, attribute): value_from_terraform(state.get(name), attribute)
        for name, attribute in fields.items()
    }


def outputs(schema: ResourceSchema, identity: Any, state: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a create, update or read tells: properties, id, the bridge's two records."""
    properties = from_terraform(state, schema.fields)
    properties["id"] = identity
    if not _has_unknown(properties):
        properties[DELTA_KEY] = _object_delta(state, schema.fields)
    meta = _meta(schema)
    if meta:
        properties[META_KEY] = json.dumps(meta, sort_keys=True, separators=(",", ":"))
    return properties


def _has_unknown(properties: Mapping[str, Any]) -> bool:
    return any(value is UNKNOWN for value in properties.values())


def _meta(schema: ResourceSchema) -> dict[str, Any]:
    meta: dict[str, Any] = {}
    if schema.timeouts_seconds:
        meta[_TIMEOUTS_KEY] = {
            operation: seconds * _NANOSECONDS
            for operation, seconds in schema.timeouts_seconds.items()
        }
    if schema.version:
        meta["schema_version"] = str(schema.version)
    return meta


def _object_delta(state: Mapping[str, Any], fields: Fields) -> dict[str, Any]:
    """How to find Terraform's raw state in the properties (rawstate.go of the bridge)."""
    deltas: dict[str, Any] = {}
    renamed: dict[str, str] = {}
    for name, attribute in fields.items():
        key = pulumi_name(name, attribute)
        if snake(key) != name:
            renamed[key] = name
        delta = _delta(state.get(name), attribute)
        if delta:
            deltas[key] = delta
    parts: dict[str, Any] = {}
    if deltas:
        parts["ps"] = deltas
    if renamed:
        parts["renamed"] = renamed
    return {"obj": parts}


def _delta(value: Any, attribute: Attribute) -> dict[str, Any]:
    if value is None:
        return {}
    fields = attribute.fields or {}
    if attribute.single:
        return {"plu": {"i": _object_delta(value[0], fields) if value else {}}}
    if attribute.kind is Kind.MAP:
        return {"map": {}}
    if not attribute.is_array:
        return {}
    if not fields or not value:
        return {"arr": {}}
    return {"arr": {"el": {str(i): _object_delta(e, fields) for i, e in enumerate(value)}}}


def recorded_state(properties: Mapping[str, Any], fields: Fields) -> State:
    """Return a recorded state in Terraform's shape, every attribute present.

    A nested object that is not there is null or empty; the recorded delta tells which.
    """
    state = to_terraform(properties, fields)
    delta = properties.get(DELTA_KEY) or {}
    recorded = delta.get("obj", {}).get("ps", {})
    for name, attribute in fields.items():
        if name not in state:
            empty = attribute.is_block or "plu" in recorded.get(pulumi_name(name, attribute), {})
            state[name] = [] if empty else None
    return state


def set_order(value: Any, attribute: Attribute | None = None) -> str:
    """Return the key by which Terraform orders a set's elements.

    Strings go by themselves; objects by their attributes' values in the order of the attributes'
    names (setRules of go-cty), which is why a volume with `/named` comes before `/public`.
    """
    if attribute is not None and attribute.fields is not None and isinstance(value, dict):
        fields = attribute.fields
        parts = [_nested_order(value.get(name), fields[name]) for name in sorted(fields)]
        return "<" + "".join(part + ";" for part in parts) + ">"
    return str(value)


def _nested_order(value: Any, attribute: Attribute) -> str:
    if value is None:
        return "~"
    if value is UNKNOWN:
        return "?"
    if isinstance(value, bool):
        return "T" if value else "F"
    if isinstance(value, dict):
        return "{" + "".join(f'"{k}":"{value[k]}";' for k in sorted(value)) + "}"
    if isinstance(value, list):
        parts = [set_order(e, attribute) if attribute.fields else f'"{e}"' for e in value]
        return "[" + "".join(part + ";" for part in parts) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value)


def ordered_set(elements: list[Any], attribute: Attribute) -> list[Any]:
    """Return a set's elements in Terraform's order, each once."""
    unique: dict[str, Any] = {set_order(element, attribute): element for element in elements}
    return [unique[key] for key in sorted(unique)]
