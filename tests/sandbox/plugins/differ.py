"""Which properties differ between a recorded and a planned state, in the keys a preview shows.

A change inside a list is shown at its element; inside a set at the element of the new inputs
when the planned elements can be told apart from those inputs, else at the whole set (an element
of `volumes` has gained empty strings in planning, so it can not; a label can).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tests.sandbox.plugins.conversion import (
    DEFAULTS_KEY,
    META_KEY,
    State,
    from_terraform,
    to_terraform,
)
from tests.sandbox.plugins.planning import identity
from tests.sandbox.plugins.schema import Attribute, Fields, Kind, by_pulumi_name
from tests.sandbox.plugins.values import UNKNOWN

Changes = dict[str, str]


def detailed_diff(
    prior: State, planned: State, inputs: Mapping[str, Any], fields: Fields
) -> Changes:
    """Return the kinds of change by property path: add, delete, update, each perhaps with -replace.

    Terraform decides whether anything replaces, and the bridge the keys; where they disagree
    Terraform wins: the keys lose their -replace, or a key of the bridge's own gains it.
    """
    known = by_pulumi_name(fields)
    old, new = from_terraform(prior, fields), from_terraform(planned, fields)
    changes: Changes = {}
    for key in sorted(known):
        change = _Change(known[key][1], known[key][1].forced, inputs.get(key))
        changes |= change.between(key, old[key], new[key])
    return _decided(changes, requires_replacement(prior, planned, fields))


def _decided(changes: Changes, replace: bool) -> Changes:
    if not replace:
        return {path: kind.removesuffix("-replace") for path, kind in changes.items()}
    if not any(kind.endswith("-replace") for kind in changes.values()):
        return {**changes, META_KEY: "update-replace"}
    return changes


def requires_replacement(prior: State, planned: State, fields: Fields) -> bool:
    """Whether Terraform would replace: a changed attribute, or one inside it, forces it."""
    return any(
        _forces(prior.get(name), planned.get(name), attribute)
        for name, attribute in fields.items()
        if not _equal(prior.get(name), planned.get(name))
    )


def _equal(old: Any, new: Any) -> bool:
    return _same(old, new) or (old in (None, []) and new in (None, []))


def _forces(old: Any, new: Any, attribute: Attribute) -> bool:
    fields = attribute.fields
    if fields is None or new is UNKNOWN or len(old or []) != len(new or []):
        return attribute.forced
    if attribute.kind is Kind.LIST:
        return any(
            requires_replacement(a or {}, b or {}, fields) for a, b in zip(old, new, strict=True)
        )
    before = {identity(element, fields): element for element in old}
    after = {identity(element, fields): element for element in new}
    changed = [before[key] for key in before.keys() - after.keys()]
    changed += [after[key] for key in after.keys() - before.keys()]
    return any(_forcing_element(element, fields) for element in changed)


def _forcing_element(element: Mapping[str, Any], fields: Fields) -> bool:
    """Whether an element's coming or going forces: a mount's does not, but for its tmpfs."""
    return any(
        attribute.forced and (not attribute.is_array or bool(element.get(name)))
        for name, attribute in fields.items()
    )


class _Change:
    """A property: its attribute, whether a change of it replaces, and its new input."""

    def __init__(
        self, attribute: Attribute, forced: bool, given: Any, *, inherited: bool = True
    ) -> None:
        self._attribute = attribute
        self._forced = forced
        self._given = given
        # An element of a list or set does not hand its collection's force to its attributes.
        self._inherited = inherited

    def between(self, path: str, old: Any, new: Any) -> Changes:
        # An empty list is no list to the bridge: filling it is an add, emptying it a delete.
        old, new = (None if value == [] else value for value in (old, new))
        if new is UNKNOWN or old is None or new is None:
            return self._short(path, old, new)
        if self._attribute.single:
            return self._object(path, old, new)
        if self._attribute.kind is Kind.MAP:
            return self._map(path, old, new)
        if not self._attribute.is_array:
            return {} if _same(old, new) else {path: self._kind("update")}
        if self._attribute.kind is Kind.SET:
            return self._set(path, old, new)
        return self._list(path, old, new)

    def _kind(self, kind: str) -> str:
        return f"{kind}-replace" if self._forced else kind

    def _short(self, path: str, old: Any, new: Any) -> Changes:
        if old is None and new is None:
            return {}
        if old is None:
            return {path: self._kind("add")}
        return {path: self._kind("delete" if new is None else "update")}

    def _object(self, path: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Changes:
        given = self._given if isinstance(self._given, Mapping) else {}
        changes: Changes = {}
        known = by_pulumi_name(self._attribute.fields or {})
        for key in sorted(known):
            _, attribute = known[key]
            forced = attribute.forced or (self._forced and self._inherited)
            inner = _Change(attribute, forced, given.get(key))
            changes |= inner.between(f"{path}.{key}", old.get(key), new.get(key))
        return changes

    def _map(self, path: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Changes:
        changes: Changes = {}
        for key in sorted({*old, *new}):
            leaf = _Change(Attribute(Kind.STRING), self._forced, None)
            changes |= leaf.between(_subpath(path, key), old.get(key), new.get(key))
        return changes

    def _element(self, given: Any) -> _Change:
        fields = self._attribute.fields
        if fields is None:
            return _Change(Attribute(Kind.STRING), self._forced, given)
        element = Attribute(Kind.LIST, fields=fields, single=True)
        return _Change(element, self._forced, given, inherited=False)

    def _list(self, path: str, old: list[Any], new: list[Any]) -> Changes:
        if self._attribute.fields is None:
            return {f"{path}[{i}]": self._kind(kind) for i, kind in _edits(old, new).items()}
        changes: Changes = {}
        for index in range(max(len(old), len(new))):
            before = old[index] if index < len(old) else None
            after = new[index] if index < len(new) else None
            changes |= self._element(None).between(f"{path}[{index}]", before, after)
        return changes

    def _set(self, path: str, old: list[Any], new: list[Any]) -> Changes:
        recorded = {self._identity(element): i for i, element in enumerate(old)}
        planned = {self._identity(element): i for i, element in enumerate(new)}
        removed = sorted(recorded[key] for key in recorded.keys() - planned.keys())
        added = sorted(planned[key] for key in planned.keys() - recorded.keys())
        if not removed and not added:
            return {}
        matched = self._match(added, new)
        if matched is None:
            return {path: self._kind("update")}
        changes: Changes = {}
        for index in sorted({*removed, *matched}):
            before = old[index] if index in removed else None
            after = new[matched[index]] if index in matched else None
            changes |= self._element(None).between(f"{path}[{index}]", before, after)
        return changes

    def _identity(self, element: Any) -> str:
        fields = self._attribute.fields
        if fields is None or element is UNKNOWN:
            return identity(element, None)
        return identity(to_terraform(element, fields), fields)

    def _match(self, added: list[int], new: list[Any]) -> dict[int, int] | None:
        """Return the index among the inputs of each added element, if every one is found."""
        given = self._given if isinstance(self._given, list) else []
        if len(given) < len(new):
            return None
        matched: dict[int, int] = {}
        for index in added:
            for position, element in enumerate(given):
                fits = _planned_from(element, new[index], self._attribute.fields)
                if position not in matched and fits:
                    matched[position] = index
                    break
        return matched if len(matched) == len(added) else None


def _planned_from(given: Any, planned: Any, fields: Fields | None) -> bool:
    """Whether planning could have made this element of that input without adding to it."""
    if fields is None or not isinstance(planned, Mapping) or not isinstance(given, Mapping):
        return _same(given, planned)
    known = by_pulumi_name(fields)
    for key, value in planned.items():
        source = given.get(key)
        _, attribute = known[key]
        if source is None and (value is None or attribute.is_computed):
            continue
        if attribute.single:
            return False
        if attribute.is_array or attribute.kind is Kind.MAP:
            if bool(source) != bool(value) or not _same_elements(source, value):
                return False
        elif not _same(source, value):
            return False
    return True


def _same_elements(given: Any, planned: Any) -> bool:
    if isinstance(given, Mapping):
        given = {k: v for k, v in given.items() if k != DEFAULTS_KEY}
    return not given or bool(given == planned)


def _same(old: Any, new: Any) -> bool:
    if isinstance(old, bool) or isinstance(new, bool):
        return old is new
    return bool(old == new)


def _subpath(path: str, key: str) -> str:
    plain = key.isidentifier() and key.isascii()
    return f"{path}.{key}" if plain else f"{path}[{json.dumps(key)}]"


def _edits(old: list[Any], new: list[Any]) -> dict[int, str]:
    """Return the indices that a shortest edit of one list of strings into another touches."""
    kept = _longest_common(old, new)
    removed = set(range(len(old))) - {i for i, _ in kept}
    added = set(range(len(new))) - {j for _, j in kept}
    kinds: dict[int, str] = {}
    for index in sorted(removed | added):
        both = index in removed and index in added
        kinds[index] = "update" if both else ("delete" if index in removed else "add")
    return kinds


def _longest_common(old: list[Any], new: list[Any]) -> list[tuple[int, int]]:
    """Return the index pairs of a longest common subsequence."""
    lengths = [[0] * (len(new) + 1) for _ in range(len(old) + 1)]
    for i in reversed(range(len(old))):
        for j in reversed(range(len(new))):
            same = old[i] == new[j]
            skip = max(lengths[i + 1][j], lengths[i][j + 1])
            lengths[i][j] = lengths[i + 1][j + 1] + 1 if same else skip
    pairs: list[tuple[int, int]] = []
    i = j = 0
    while i < len(old) and j < len(new):
        if old[i] == new[j]:
            pairs.append((i, j))
            i, j = i + 1, j + 1
        elif lengths[i + 1][j] >= lengths[i][j + 1]:
            i += 1
        else:
            j += 1
    return pairs
