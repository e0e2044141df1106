"""The state that new inputs would lead to: what Terraform calls the plan.

What the inputs do not say keeps its recorded value where the provider computes it, and goes away
where it does not. A value that only looks different (an unset number that reads 0, a set in
another order) keeps the recorded form, so that it is no change.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.sandbox.plugins.conversion import State, ordered_set
from tests.sandbox.plugins.schema import ZERO, Attribute, Fields, Kind
from tests.sandbox.plugins.values import UNKNOWN


def plan(prior: Mapping[str, Any] | None, config: Mapping[str, Any], fields: Fields) -> State:
    """Return the planned state of a resource; `prior` is None when it is to be created."""
    planned = {
        name: _plan_attribute(
            None if prior is None else prior.get(name), config.get(name), attribute, prior is None
        )
        for name, attribute in fields.items()
    }
    return planned if prior is None else _renewed(prior, planned, fields)


def _renewed(prior: Mapping[str, Any], planned: State, fields: Fields) -> State:
    changed = {name for name in fields if prior.get(name) != planned[name]}
    return {
        name: UNKNOWN
        if changed and ("*" in attribute.renewed_by or changed & set(attribute.renewed_by))
        else planned[name]
        for name, attribute in fields.items()
    }


def _plan_attribute(prior: Any, config: Any, attribute: Attribute, creating: bool) -> Any:
    config = _given(config, attribute)
    if config is UNKNOWN:
        kept = attribute.computed and attribute.fields is not None and not creating
        return prior if kept else UNKNOWN
    if config is None and attribute.is_computed:
        return UNKNOWN if creating or _never_computed(prior, attribute) else prior
    if attribute.is_array:
        return _plan_array(prior, config, attribute)
    if attribute.kind is Kind.MAP:
        return config or ({} if prior else prior)
    return _plan_scalar(prior, config, attribute)


def _given(config: Any, attribute: Attribute) -> Any:
    """Return the input that counts: a default for none, none for an empty one that says none.

    A list of strings or a map with one unknown in it is unknown as a whole.
    """
    if config is None and not attribute.is_array:
        return attribute.default
    if config == "" and attribute.computed:
        return None
    if config == [] and attribute.computed and attribute.fields is not None:
        return None
    if isinstance(config, list) and attribute.fields is None and UNKNOWN in config:
        return UNKNOWN
    if isinstance(config, dict) and UNKNOWN in config.values():
        return UNKNOWN
    return config


def _never_computed(prior: Any, attribute: Attribute) -> bool:
    """Whether a list is still to be computed, as after a create that failed half-way."""
    return prior is None and attribute.kind is Kind.LIST and not attribute.single


def _plan_scalar(prior: Any, config: Any, attribute: Attribute) -> Any:
    if attribute.equivalent is not None and attribute.equivalent(prior, config):
        return prior
    if config is None:
        return prior if prior == ZERO[attribute.kind] else None
    return prior if config == "" and prior is None else config


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
    same = prior is not None and set(prior) == set(config)
    return prior if same else ordered_set(config, attribute)


def _plan_object_list(prior: list[Any], config: list[Any], fields: Fields) -> list[Any]:
    if "internal" in fields and same_ports(prior, config):
        return prior
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
    if attribute.single and not any(config[0].values()):
        return prior
    elements = [set_element(element, fields) for element in config]
    recorded = {identity(element, fields) for element in prior}
    if prior and recorded == {identity(element, fields) for element in elements}:
        return prior
    return ordered_set(elements, attribute)


def set_element(element: Mapping[str, Any], fields: Fields) -> State:
    """Return an element of a set, every attribute said: an unset string empty, a number null."""
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
    """Tell an element of a set from others: equal but for unset against zero."""
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


def same_ports(prior: list[Any], config: list[Any]) -> bool:
    """Whether ports are published as before, in whichever order they stand.

    The real plugin compares each recorded port with the first new one of the same container port,
    so the same port on two addresses is the same only in the same order. Docker Engine 20.10
    lists such a pair in the reverse of the order given, which makes it a change each time.
    """
    if len(prior) != len(config) or UNKNOWN in config:
        return False
    return all(_port_found(port, config) for port in prior)


def _port_found(port: Mapping[str, Any], config: list[Any]) -> bool:
    for other in config:
        if other.get("internal") != port["internal"]:
            continue
        if other.get("protocol") != port["protocol"]:
            if any(_same_socket(third, port) for third in config):
                continue
            return False
        return all((other.get(key) or 0) == (port[key] or 0) for key in ("external", "ip"))
    return False


def _same_socket(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(one.get(key) == other[key] for key in ("internal", "protocol"))
