"""The state that new inputs would lead to: what Terraform calls the plan.

What the inputs do not say keeps its recorded value where the provider computes it, and goes away
where it does not. A value that only looks different (an unset number that reads 0, a set in
another order) keeps the recorded form, so that it is no change.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.sandbox.engine.values import UNKNOWN
from tests.sandbox.plugins.conversion import State, ordered_set
from tests.sandbox.plugins.schema import ZERO, Attribute, Fields, Kind


def plan(prior: Mapping[str, Any] | None, config: Mapping[str, Any], fields: Fields) -> State:
    """The planned state of a resource; `prior` is None when it is to be created."""
    return {
        name: _plan_attribute(
            None if prior is None else prior.get(name), config.get(name), attribute, prior is None
        )
        for name, attribute in fields.items()
    }


def _plan_attribute(prior: Any, config: Any, attribute: Attribute, creating: bool) -> Any:
    if config is UNKNOWN:
        return UNKNOWN
    if config is None and attribute.default is not None and not attribute.is_array:
        config = attribute.default
    if config is None and attribute.is_computed:
        return UNKNOWN if creating else prior
    if attribute.is_array:
        return _plan_array(prior, config, attribute)
    if attribute.kind is Kind.MAP:
        return config or (prior if not prior else None)
    return _plan_scalar(prior, config, attribute)


def _plan_scalar(prior: Any, config: Any, attribute: Attribute) -> Any:
    zero = ZERO[attribute.kind]
    if config is None:
        return prior if prior == zero else None
    if config == "" and (attribute.keep_when_empty or prior is None):
        return prior
    return config


def _plan_array(prior: Any, config: Any, attribute: Attribute) -> Any:
    if not config:
        if attribute.is_block:
            return []
        return prior if not prior else None
    if attribute.fields is None:
        return _plan_strings(prior, config, attribute)
    if attribute.kind is Kind.LIST:
        return _plan_object_list(prior or [], config, attribute.fields)
    return _plan_object_set(prior or [], config, attribute)


def _plan_strings(prior: Any, config: list[Any], attribute: Attribute) -> Any:
    if attribute.kind is Kind.LIST:
        return config
    if UNKNOWN in config:
        return UNKNOWN
    same = prior is not None and set(prior) == set(config)
    return prior if same else ordered_set(config, attribute)


def _plan_object_list(prior: list[Any], config: list[Any], fields: Fields) -> list[Any]:
    planned: list[Any] = []
    for index, element in enumerate(config):
        if element is UNKNOWN:
            planned.append(UNKNOWN)
            continue
        before = prior[index] if index < len(prior) else None
        planned.append(plan(before, element, fields))
    return planned


def _plan_object_set(prior: list[Any], config: list[Any], attribute: Attribute) -> Any:
    if UNKNOWN in config:
        return UNKNOWN
    fields = attribute.fields or {}
    elements = [set_element(element, fields) for element in config]
    recorded = {identity(element, fields) for element in prior}
    if prior and recorded == {identity(element, fields) for element in elements}:
        return prior
    return ordered_set(elements, attribute)


def set_element(element: Mapping[str, Any], fields: Fields) -> State:
    """An element of a set with every attribute: an unset string is empty, a number is null."""
    return {name: _element_value(element.get(name), a) for name, a in fields.items()}


def _element_value(value: Any, attribute: Attribute) -> Any:
    if value is None and attribute.default is not None:
        value = attribute.default
    if attribute.is_array:
        return _element_array(value or [], attribute)
    if value is None and attribute.kind is Kind.STRING:
        return ""
    return value


def _element_array(value: list[Any], attribute: Attribute) -> list[Any]:
    fields = attribute.fields
    if fields is not None:
        value = [e if e is UNKNOWN else set_element(e, fields) for e in value]
    return value if attribute.kind is Kind.LIST else ordered_set(value, attribute)


def identity(element: Any, fields: Fields | None) -> str:
    """What makes two elements of a set the same one: equal but for unset against zero."""
    if fields is None or not isinstance(element, Mapping):
        return repr(element)
    return repr([(name, _identity_of(element.get(name), fields[name])) for name in sorted(fields)])


def _identity_of(value: Any, attribute: Attribute) -> Any:
    if value is None:
        value = attribute.default if attribute.default is not None else ZERO[attribute.kind]
    if not attribute.is_array:
        return sorted(value.items()) if isinstance(value, dict) else value
    parts = [identity(element, attribute.fields) for element in value]
    return parts if attribute.kind is Kind.LIST else sorted(parts)
