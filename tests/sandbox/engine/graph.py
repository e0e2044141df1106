"""Who depends on whom (pkg/resource/graph/dependency_graph.go)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tests.sandbox.engine.state import Resource, provider_urn


class DependencyGraph:
    """The order of a snapshot's resources, which is a topological one."""

    def __init__(self, resources: Sequence[Resource]) -> None:
        self._resources = list(resources)
        self._index = {id(resource): place for place, resource in enumerate(self._resources)}

    def __contains__(self, resource: Resource) -> bool:
        return id(resource) in self._index

    def depending_on(self, root: Resource, ignore: Iterable[str]) -> list[Resource]:
        """List what depends on `root`, directly or not, in dependency order."""
        ignored, dependents = set(ignore), {root.urn}
        found = []
        for candidate in self._resources[self._index[id(root)] + 1 :]:
            if candidate.urn in ignored:
                continue
            needs = candidate.all_dependencies()
            if candidate.parent and candidate.parent not in candidate.dependencies:
                needs = [urn for urn in needs if urn != candidate.parent]
            if candidate.provider:
                needs.append(provider_urn(candidate.provider))
            if dependents.intersection(needs):
                found.append(candidate)
                dependents.add(candidate.urn)
        return found

    def dependencies_of(self, resource: Resource) -> list[Resource]:
        """List what a resource depends on directly; a component stands for its children."""
        needs = {urn for urn in resource.all_dependencies() if urn != resource.parent}
        needs.update(resource.dependencies)
        if resource.provider:
            needs.add(provider_urn(resource.provider))
        before = self._resources[: self._index[id(resource)]]
        found = []
        for candidate in before:
            if candidate.urn in needs:
                found.append(candidate)
                if not candidate.custom:
                    found.extend(r for r in before if r.parent == candidate.urn)
            elif candidate.urn == resource.parent:
                found.append(candidate)
        return found

    def transitive_dependencies_of(self, resource: Resource) -> set[int]:
        """Identify (by id()) all that a resource depends on, directly or not."""
        found: set[int] = set()
        frontier = [resource]
        while frontier:
            for needed in self.dependencies_of(frontier.pop()):
                if id(needed) not in found:
                    found.add(id(needed))
                    frontier.append(needed)
        return found


def schedule_deletes(graph: DependencyGraph, condemned: Sequence[Resource]) -> list[list[Resource]]:
    """Arrange deletes in rounds: dependents first; within a round the order is free."""
    left = list(condemned)
    rounds: list[list[Resource]] = []
    while left:
        remaining = {id(resource) for resource in left}
        ready = [
            resource
            for resource in left
            if not any(id(needed) in remaining for needed in graph.dependencies_of(resource))
        ]
        assert ready, "the snapshot's dependencies form a circle"
        chosen = {id(resource) for resource in ready}
        left = [resource for resource in left if id(resource) not in chosen]
        rounds.append(ready)
    return rounds[::-1]
