"""The state and the inputs after a read.

The real plugin rewrites the recorded inputs with what it read of them (extractInputs of the
bridge), so that a stack that is refreshed and not changed shows no change.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.sandbox.plugins.conversion import DEFAULTS_KEY, State, ordered_set
from tests.sandbox.plugins.schema import ZERO, Attribute, Fields, Kind, by_pulumi_name
from tests.sandbox.plugins.values import UNKNOWN, Secret, unwrap

Changed = bool


def refreshed(state: Mapping[str, Any], seen: Mapping[str, Any], fields: Fields) -> State:
    """Return the state after a read: what is recorded, overlaid with what is seen."""
    return {
        name: _refreshed_value(seen[name] if name in seen else state.get(name), attribute)
        for name, attribute in fields.items()
    }


def _refreshed_value(value: Any, attribute: Attribute) -> Any:
    if value is None and attribute.is_array and attribute.fields is not None:
        return []
    if attribute.kind is not Kind.SET or value is None or value is UNKNOWN:
        return value
    return seen_set(value, attribute)


def seen_set(elements: list[Any], attribute: Attribute) -> list[Any]:
    """Return a set as a read leaves it: in order, and with zeros in the place of what is unset."""
    fields = attribute.fields
    if fields is not None:
        elements = [_zero_filled(element, fields) for element in elements]
    return ordered_set(elements, attribute)


def _zero_filled(element: Mapping[str, Any], fields: Fields) -> State:
    filled: State = {}
    for name, attribute in fields.items():
        value = element.get(name)
        if value is None:
            value = ZERO[attribute.kind]
        elif attribute.kind is Kind.SET:
            value = seen_set(value, attribute)
        elif attribute.kind is Kind.LIST and attribute.fields is not None:
            value = [_zero_filled(inner, attribute.fields) for inner in value]
        filled[name] = value
    return filled


def refreshed_inputs(
    inputs: Mapping[str, Any], properties: Mapping[str, Any], fields: Fields
) -> dict[str, Any]:
    """Return the recorded inputs with the values that were read of them."""
    return _object(inputs, properties, fields)[0]


def imported_inputs(properties: Mapping[str, Any], fields: Fields) -> dict[str, Any]:
    """Return the inputs that a program would give to have what was imported.

    What says nothing (null, empty, the default) is left out, as the bridge does.
    """
    known = by_pulumi_name(fields).items()
    said = {
        key: properties[key]
        for key, (_, attribute) in known
        if not attribute.output_only and properties[key] not in (None, [], attribute.default)
    }
    return {**said, DEFAULTS_KEY: []}


def _object(
    given: Mapping[str, Any], read: Mapping[str, Any], fields: Fields
) -> tuple[dict[str, Any], Changed]:
    known = by_pulumi_name(fields)
    defaults = set(given.get(DEFAULTS_KEY, []))
    result: dict[str, Any] = {}
    changed = False
    for key, value in given.items():
        if key == DEFAULTS_KEY:
            continue
        different = True
        if key in read:
            attribute = known[key][1] if key in known else Attribute(Kind.STRING)
            result[key], different = _value(value, read[key], attribute)
        if different:
            changed = True
            defaults.discard(key)
    if DEFAULTS_KEY in given:
        result[DEFAULTS_KEY] = sorted(defaults)
    return result, changed and DEFAULTS_KEY in given


def _value(given: Any, read: Any, attribute: Attribute) -> tuple[Any, Changed]:
    if isinstance(given, Secret):
        value, changed = _value(given.value, unwrap(read), attribute)
        return Secret(value), changed
    if isinstance(given, list) and isinstance(read, list):
        return _array(given, read, attribute)
    if isinstance(given, Mapping) and isinstance(read, Mapping):
        if attribute.fields is not None:
            return _object(given, read, attribute.fields)
        kept = {key: read[key] for key in given if key in read}
        return kept, kept != dict(given)
    if attribute.recorded_as is not None and isinstance(given, str):
        return given, attribute.recorded_as(given) != read
    return read, given != read


def _array(given: list[Any], read: list[Any], attribute: Attribute) -> tuple[Any, Changed]:
    pairs = _matched(given, read) if attribute.kind is Kind.SET else None
    if pairs is None:
        pairs = {index: index for index in range(min(len(given), len(read)))}
    element = Attribute(Kind.STRING, fields=attribute.fields)
    changed = len(pairs) < len(given)
    result = []
    for index in sorted(pairs):
        value, different = _value(given[index], read[pairs[index]], element)
        changed = changed or different
        result.append(value)
    return result, changed


def _matched(given: list[Any], read: list[Any]) -> dict[int, int] | None:
    """For sets of objects: which was read for which was given, by how much they agree."""
    given = [unwrap(element) for element in given]
    if not all(isinstance(element, Mapping) for element in [*given, *read]):
        return None
    scores = sorted(
        (
            (-_agreement(old, new), i, j)
            for i, old in enumerate(given)
            for j, new in enumerate(read)
        ),
    )
    pairs: dict[int, int] = {}
    for _, i, j in scores:
        if i not in pairs and j not in pairs.values():
            pairs[i] = j
    return pairs


def _agreement(old: Mapping[str, Any], new: Mapping[str, Any]) -> int:
    return sum(3 if old[key] == new[key] else 1 for key in old if key in new)
