"""Property bags as the engine hands them over: floats for numbers, unknowns in previews."""

from collections.abc import Iterable, Mapping
from typing import Any

from pulumi.output import Unknown
from pulumi.runtime import rpc


def integer(value: Any) -> int:
    """Return a number of a property bag as the integer it was (45.0 is 45)."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
        raise ValueError(f"{value!r} is not a whole number")
    return int(value)


def normal(value: Any) -> Any:
    """Whole floats as integers, mappings and sequences rebuilt: equal values compare equal."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {key: normal(entry) for key, entry in value.items() if not key.startswith("__")}
    if isinstance(value, list | tuple):
        return [normal(entry) for entry in value]
    return value


def unknown(value: Any) -> bool:
    """Tell whether a value holds anything that a preview does not know yet."""
    if isinstance(value, Mapping):
        return any(unknown(entry) for entry in value.values())
    if isinstance(value, list | tuple):
        return any(unknown(entry) for entry in value)
    return isinstance(value, Unknown) or (isinstance(value, str) and value == rpc.UNKNOWN)


def changed_inputs(
    keys: Iterable[str], olds: Mapping[str, Any], news: Mapping[str, Any]
) -> list[str]:
    """Name the inputs that differ; one that is not known yet counts as different."""
    return [
        key
        for key in keys
        if unknown(news.get(key)) or normal(olds.get(key)) != normal(news.get(key))
    ]
