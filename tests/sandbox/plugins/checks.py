"""Inputs checked as the real plugin checks them, and filled with its defaults."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tests.sandbox.plugins.conversion import DEFAULTS_KEY, WrongTypeError, value_to_terraform
from tests.sandbox.plugins.schema import (
    Attribute,
    Fields,
    Kind,
    by_pulumi_name,
    pulumi_name,
)
from tests.sandbox.plugins.values import (
    UNKNOWN,
    Secret,
    contains_secret,
    contains_unknown,
    unwrap,
)


@dataclass(frozen=True)
class Failure:
    """One thing that is wrong with a resource's inputs."""

    reason: str


def with_defaults(inputs: Mapping[str, Any], fields: Fields) -> dict[str, Any]:
    """Return the inputs with the defaults of every level and the record (`__defaults`) of which.

    A default that is a zero (false, 0, empty) is left unsaid, as the bridge leaves it.
    """
    known = by_pulumi_name(fields)
    result: dict[str, Any] = {
        key: _nested_defaults(value, known[key][1])
        for key, value in inputs.items()
        if key in known and value is not None
    }
    added = sorted(
        pulumi_name(name, attribute)
        for name, attribute in fields.items()
        if attribute.default and pulumi_name(name, attribute) not in result
    )
    for key in added:
        result[key] = known[key][1].default
    result[DEFAULTS_KEY] = added
    return result


def _nested_defaults(value: Any, attribute: Attribute) -> Any:
    if isinstance(value, Secret):
        return Secret(_nested_defaults(value.value, attribute))
    fields = attribute.fields
    if value is UNKNOWN or value is None:
        return value
    if fields is None:
        return _coerced(value, attribute)
    if attribute.single:
        return _object_defaults(value, fields)
    return [_object_defaults(element, fields) for element in value]


def _coerced(value: Any, attribute: Attribute) -> Any:
    """Return a value in its attribute's type: `"80"` is a number where one is wanted."""
    if isinstance(value, list):
        element = Attribute(Kind.STRING)
        return [_nested_defaults(inner, element) for inner in value]
    if contains_secret(value) or contains_unknown(value):
        return value
    return value_to_terraform("", value, attribute)


def _object_defaults(value: Any, fields: Fields) -> Any:
    if isinstance(value, Secret):
        return Secret(_object_defaults(value.value, fields))
    return with_defaults(value, fields) if isinstance(value, Mapping) else value


def autonamed(
    inputs: Mapping[str, Any], olds: Mapping[str, Any], name: str, suffix: str, fields: Fields
) -> dict[str, Any]:
    """Return inputs with the name that the resource made for itself, where none is given.

    `name` is the resource's in the program; a name that was made before is kept.
    """
    result = dict(inputs)
    for terraform, attribute in fields.items():
        key = pulumi_name(terraform, attribute)
        if not attribute.autonamed or inputs.get(key) is not None:
            continue
        kept = olds.get(key) if key in olds.get(DEFAULTS_KEY, []) else None
        result[key] = kept or f"{name}-{suffix}"
    return result


def has_given_name(inputs: Mapping[str, Any], fields: Fields) -> bool:
    """Tell whether the program gave a name that the resource would else have made."""
    return any(
        attribute.autonamed and pulumi_name(name, attribute) not in inputs.get(DEFAULTS_KEY, [])
        for name, attribute in fields.items()
    )


def failures(name: str, inputs: Mapping[str, Any], fields: Fields) -> list[Failure]:
    """Everything that is wrong with the inputs of the resource of this name."""
    return [Failure(reason) for reason in _object_failures(name, unwrap(inputs), fields)]


def _object_failures(path: str, inputs: Mapping[str, Any], fields: Fields) -> Iterator[str]:
    known = by_pulumi_name(fields)
    for key, value in inputs.items():
        if key == DEFAULTS_KEY or value is None:
            continue
        if key not in known or known[key][1].output_only:
            yield f"Invalid or unknown key. Examine values at '{path}.{key}'."
        elif not known[key][1].supported:
            yield (
                f"{key} is not supported by the sandbox's stand-in plugin; leave it out or install "
                f"the real plugin. Examine values at '{path}.{key}'."
            )
        else:
            yield from _value_failures(f"{path}.{key}", value, known[key][1])
    for key, (name, attribute) in known.items():
        if attribute.required and inputs.get(key) is None:
            yield (
                f'Missing required argument. The argument "{name}" is required, but no definition '
                f"was found.. Examine values at '{path}.{key}'."
            )


def _value_failures(path: str, value: Any, attribute: Attribute) -> Iterator[str]:
    if value is UNKNOWN:
        return
    try:
        value_to_terraform(path, value, attribute)
    except WrongTypeError as error:
        yield str(error)
        return
    if attribute.fields is not None:
        elements = [value] if attribute.single else value
        for element in elements:
            if element is not UNKNOWN:
                yield from _object_failures(path, element, attribute.fields)
    elif attribute.validate is not None and attribute.kind is not Kind.MAP:
        wrong = attribute.validate(value)
        if wrong:
            yield f"{wrong}. {wrong}. Examine values at '{path}'."
