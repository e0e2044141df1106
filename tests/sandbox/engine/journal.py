"""The state as it changes: written before and after every step.

The rules are those of pkg/backend/snapshot.go: what is done of the old state leaves it, what is
new stands before the rest of the old, and a provider call that has begun is recorded as pending.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from tests.sandbox.engine.goals import Step
from tests.sandbox.engine.state import Operation, Resource, Snapshot, provider_id, provider_urn
from tests.sandbox.engine.values import deep_equal

_PENDING = {
    "create": "creating",
    "create-replacement": "creating",
    "update": "updating",
    "delete": "deleting",
    "delete-replaced": "deleting",
    "discard": "deleting",
    "discard-replaced": "deleting",
    "read": "reading",
    "read-replacement": "reading",
}
_COMPARED = (
    "urn",
    "type",
    "custom",
    "custom_timeouts",
    "retain_on_delete",
    "provider",
    "parent",
    "deleted_with",
    "replace_with",
    "protect",
    "inputs",
    "outputs",
    "replacement_trigger",
)


def _must_write(old: Resource, new: Resource) -> bool:
    if sorted(old.dependencies) != sorted(new.dependencies):
        return True
    return not all(deep_equal(getattr(old, name), getattr(new, name)) for name in _COMPARED)


def _renamed(resource: Resource, names: dict[str, str]) -> Resource:
    """Point a resource's references at the new URNs of what was renamed."""
    provider = resource.provider
    if provider and provider_urn(provider) in names:
        provider = f"{names[provider_urn(provider)]}::{provider_id(provider)}"
    twin = resource.copy()
    twin.provider = provider
    twin.aliases = []
    twin.parent = names.get(resource.parent, resource.parent)
    twin.dependencies = [names.get(urn, urn) for urn in resource.dependencies]
    twin.deleted_with = names.get(resource.deleted_with, resource.deleted_with)
    twin.property_dependencies = {
        key: [names.get(urn, urn) for urn in urns]
        for key, urns in resource.property_dependencies.items()
    }
    return twin


class Journal:
    """Keeps the snapshot of a running update and has it written by `save`."""

    def __init__(self, base: Snapshot, save: Callable[[Snapshot], None]) -> None:
        self.base = base
        self._save = save
        self._new: list[Resource] = []
        self._done: set[int] = set()
        self._operations: list[Operation] = []
        self._lock = threading.RLock()

    def snapshot(self) -> Snapshot:
        """Compose the state as it is now."""
        kept = [r for r in (*self._new, *self.base.resources) if id(r) not in self._done]
        names = {alias: r.urn for r in kept for alias in r.aliases if not r.delete}
        if names:
            kept = [_renamed(r, names) for r in kept]
        # Creates that an interrupted run left pending stay until someone looks after them.
        pending = [o for o in self.base.operations if o.type == "creating"]
        return Snapshot(kept, [*self._operations, *pending], self.base.metadata)

    def write(self) -> None:
        """Write the state."""
        with self._lock:
            self._save(self.snapshot())

    def begin(self, step: Step) -> None:
        """Record that a step's provider call begins."""
        kind = _PENDING.get(step.op)
        if kind is None:
            return
        resource = step.old if kind == "deleting" else step.new
        assert resource is not None
        with self._lock:
            self._operations.append(Operation(resource, kind))
            self.write()

    def _finish(self, step: Step) -> None:
        subjects = {id(step.old), id(step.new)}
        self._operations = [o for o in self._operations if id(o.resource) not in subjects]

    def _done_with(self, resource: Resource | None) -> None:
        if resource is not None:
            self._done.add(id(resource))

    def end(self, step: Step, *, successful: bool) -> None:
        """Record a step's end; the state is written unless nothing in it changed."""
        if step.op in ("replace", "refresh"):
            return
        with self._lock:
            self._finish(step)
            if successful and not self._apply(step):
                return
            self.write()

    def _apply(self, step: Step) -> bool:
        """Change the lists for a successful step; False where no write is needed."""
        old, new = step.old, step.new
        if step.op == "same":
            self._done_with(old)
            if step.skipped_create or new is None:
                return False
            self._new.append(new)
            return old is None or _must_write(old, new)
        creates = step.op in ("create", "create-replacement")
        deletes = step.op.startswith(("delete", "discard", "discard"))
        # A create takes the place of what was deleted before it; a delete before its replacement
        # leaves the old state in place, marked, until then.
        stays = (creates and not (old and old.pending_replacement)) or (
            deletes and old is not None and old.pending_replacement
        )
        if not stays:
            self._done_with(old)
        if new is not None:
            self._new.append(new)
        return True

    def outputs_registered(self) -> None:
        """Write the state after a component's or the stack's outputs came."""
        self.write()

    def rebase(self, resources: list[Resource]) -> None:
        """Replace the base by what a refresh found, and write it."""
        with self._lock:
            self.base.resources = resources
            self.write()
