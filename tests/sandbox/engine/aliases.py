"""Earlier identities: finding the old state of a resource that was renamed or moved."""

from __future__ import annotations

from collections.abc import Mapping

from tests.sandbox.engine.goals import AliasSpec, Goal
from tests.sandbox.engine.state import ROOT_TYPE, Resource, make_urn, urn_name, urn_type


class Aliases:
    """Who was called what, over one update."""

    def __init__(self, stack: str, project: str) -> None:
        self._stack = stack
        self._project = project
        self._former: dict[str, str] = {}
        self._current: dict[str, str] = {}

    def current(self, urn: str) -> str:
        """Tell the present URN of what was once called `urn`."""
        return self._current.get(urn, urn)

    def _collapse(self, goal: Goal, spec: AliasSpec) -> str:
        if spec.urn:
            return spec.urn
        parent = self._former.get(spec.parent, spec.parent) if spec.parent else goal.parent
        if spec.no_parent or (parent and urn_type(parent) == ROOT_TYPE):
            parent = ""
        stack, project = spec.stack or self._stack, spec.project or self._project
        return make_urn(stack, project, parent, spec.type or goal.type, spec.name or goal.name)

    def _inherited(self, kind: str, name: str, parent: str, former: str) -> str:
        parent_name = urn_name(parent)
        if name.startswith(parent_name):
            name = urn_name(former) + name.removeprefix(parent_name)
        return make_urn(self._stack, self._project, former, kind, name)

    def _candidates(self, goal: Goal) -> list[str]:
        own = [self._collapse(goal, spec) for spec in goal.aliases]
        found = list(own)
        if former := self._former.get(goal.parent):
            found.append(self._inherited(goal.type, goal.name, goal.parent, former))
            found.extend(
                self._inherited(urn_type(urn), urn_name(urn), goal.parent, former) for urn in own
            )
        return list(dict.fromkeys(found))

    def match(
        self, urn: str, goal: Goal, olds: Mapping[str, Resource], registered: set[str]
    ) -> tuple[str, str]:
        """Find the URN under which the old state has the resource, and what is wrong with it."""
        if urn in self._current:
            return urn, (
                f"Duplicate resource URN '{urn}' conflicting with alias on resource with URN "
                f"'{self._current[urn]}'"
            )
        for candidate in (urn, *self._candidates(goal)):
            if candidate not in olds:
                continue
            if candidate == urn:
                break
            taken = (candidate in registered and candidate) or self._current.get(candidate)
            if taken:
                return urn, (
                    f"Duplicate resource alias '{candidate}' applied to resource with URN '{urn}' "
                    f"conflicting with resource with URN '{taken}'"
                )
            self._current[candidate] = urn
            self._former[urn] = candidate
            return candidate, ""
        return urn, ""
