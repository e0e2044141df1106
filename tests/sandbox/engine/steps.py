"""Carrying a step out: the provider calls and what they do to the states.

Follows pkg/resource/deploy/step.go and step_executor.go.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.sandbox.engine.errors import EngineError
from tests.sandbox.engine.events import Diagnostic, Listener
from tests.sandbox.engine.goals import Step
from tests.sandbox.engine.journal import Journal
from tests.sandbox.engine.paths import changed_keys, ignore_changes, object_diff
from tests.sandbox.engine.provider import Diff, PartialState, Provider, ProviderError, Subject
from tests.sandbox.engine.registry import Registry
from tests.sandbox.engine.state import Resource, now, urn_name, urn_type
from tests.sandbox.engine.values import UNKNOWN_WIRE, Properties, Secret, deep_equal, make_secret

_INVERTED = {
    "add": "delete",
    "add-replace": "delete-replace",
    "delete": "add",
    "delete-replace": "add-replace",
}


class ProtectedError(EngineError):
    """A delete of what is protected; it ends the update but not what is under way."""


def subject(resource: Resource) -> Subject:
    """Tell a provider which resource a call is about."""
    return Subject(resource.urn, urn_name(resource.urn), urn_type(resource.urn), resource.id)


def diff_resource(
    provider: Provider,
    about: Subject,
    old: tuple[Properties, Properties],
    news: Properties,
    ignored: list[str],
) -> Diff:
    """Ask the provider; where it leaves the verdict open, compare the inputs."""
    diff = provider.diff(about, old, news, ignore_changes=ignored)
    if diff.changes is not None:
        return diff
    effective = ignore_changes(news, old[0], ignored)
    changed = changed_keys(old[0], effective)
    if not changed:
        return Diff(False, diff.replaces, [], diff.detailed, diff.delete_before_replace)
    detailed = {path: (kind, True) for path, kind in object_diff(old[0], effective).items()}
    return Diff(True, diff.replaces, changed, detailed, diff.delete_before_replace)


def invert(diff: Diff) -> Diff:
    """Tell a diff from the other side: what the program must add is what is gone."""
    if diff.detailed is None:
        return diff
    detailed = {p: (_INVERTED.get(kind, kind), of) for p, (kind, of) in diff.detailed.items()}
    return Diff(diff.changes, diff.replaces, diff.changed, detailed, diff.delete_before_replace)


@dataclass
class Work:
    """What the steps of one update share."""

    registry: Registry
    journal: Journal
    listener: Listener
    preview: bool
    ensure_provider: Callable[[str], None]
    deletions: set[str] = field(default_factory=set)
    news: dict[str, Resource] = field(default_factory=dict)
    reads: dict[str, Resource] = field(default_factory=dict)
    pending_outputs: dict[str, Step] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)


class StepRunner:
    """Carries steps out, one call at a time per thread."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._appliers: dict[str, Callable[[Step], None]] = {
            "same": self._same,
            "create": self._create,
            "create-replacement": self._create,
            "update": self._update,
            "delete": self._delete,
            "delete-replaced": self._delete,
            "discard": self._delete,
            "discard-replaced": self._delete,
            "read": self._read,
            "read-replacement": self._read,
            "refresh": self._refresh,
        }

    def run(self, step: Step) -> None:
        """Carry a step out, record it, and answer whoever waits for it.

        Raises EngineError (already shown) where it fails.
        """
        work = self._work
        work.listener.step_begins(step)
        if not work.preview:
            work.journal.begin(step)
        failure: EngineError | None = None
        partial: PartialState | None = None
        try:
            if apply := self._appliers.get(step.op):
                apply(step)
        except ProviderError as error:
            failure, partial = error, error.state
        except EngineError as error:
            failure = error
        if failure is None and step.logical and step.new is not None:
            with work.lock:
                work.pending_outputs[step.urn] = step
        if (failure is None or partial is not None) and step.new and step.op != "replace":
            self._settle(step)
        if not work.preview:
            work.journal.end(step, successful=failure is None or partial is not None)
        work.listener.step_ends(step, None if failure is None else str(failure))
        if failure is not None:
            raise failure
        if step.done is not None and step.op != "replace":
            step.done.fulfil(step.new, unknown=step.skipped_create)

    def _settle(self, step: Step) -> None:
        """Mark secret what must be, and remember the new state."""
        new = step.new
        assert new is not None
        for key in new.additional_secret_outputs:
            if key == "id":
                message = (
                    "The 'id' property cannot be made secret. See pulumi/pulumi#2717 for more "
                    "details."
                )
                self._work.listener.diagnostic(Diagnostic(new.urn, message, "warning"))
            elif key in new.outputs:
                new.outputs[key] = make_secret(new.outputs[key])
        for key, value in new.inputs.items():
            if isinstance(value, Secret) and key in new.outputs:
                new.outputs[key] = make_secret(new.outputs[key])
        with self._work.lock:
            target = self._work.reads if step.op.startswith("read") else self._work.news
            target[new.urn] = new

    def _provider(self, resource: Resource) -> Provider:
        provider = self._work.registry.get(resource.provider)
        if provider is None:
            self._work.ensure_provider(resource.provider)
            provider = self._work.registry.get(resource.provider)
        assert provider is not None
        return provider

    def _same(self, step: Step) -> None:
        new, old = step.new, step.old
        assert new is not None
        if step.skipped_create or old is None:
            return
        new.id = old.id
        new.outputs = dict(old.outputs)
        new.created, new.modified = old.created, old.modified
        new.init_errors = old.init_errors
        new.refresh_before_update = old.refresh_before_update
        if new.is_provider:
            self._work.registry.same(new)

    def _create(self, step: Step) -> None:
        new = step.new
        assert new is not None
        error: ProviderError | None = None
        if new.is_provider:
            new.id, new.outputs = self._work.registry.create(new.urn, new.inputs)
        elif new.custom:
            try:
                new.id, new.outputs = self._provider(new).create(
                    subject(new),
                    new.inputs,
                    timeout=new.custom_timeouts.get("create", 0),
                    preview=self._work.preview,
                )
            except ProviderError as failure:
                if failure.state is None:
                    raise
                error = failure
                new.id, new.outputs = failure.state.id, failure.state.outputs
                new.init_errors = failure.state.reasons
        new.created = new.modified = now()
        if step.replacing and step.pending_delete and step.old is not None:
            step.old.delete = True
        if error is not None:
            raise error

    def _update(self, step: Step) -> None:
        new, old = step.new, step.old
        assert new is not None
        assert old is not None
        new.id, new.created, new.modified = old.id, old.created, old.modified
        if not new.custom:
            return
        error: ProviderError | None = None
        if new.is_provider:
            new.outputs = self._work.registry.update(new.urn, new.id, new.inputs)
        else:
            try:
                new.outputs = self._provider(new).update(
                    subject(new),
                    (old.inputs, old.outputs),
                    new.inputs,
                    ignore_changes=step.ignore_changes,
                    timeout=new.custom_timeouts.get("update", 0),
                    preview=self._work.preview,
                )
            except ProviderError as failure:
                if failure.state is None:
                    raise
                error = failure
                new.outputs = failure.state.outputs
                new.init_errors = failure.state.reasons
        new.modified = now()
        if error is not None:
            raise error

    def _delete(self, step: Step) -> None:
        old = step.old
        assert old is not None
        if old.protect and not step.replacing:
            raise ProtectedError(protected_message(old.urn))
        calls = old.custom and not (old.external or old.retain_on_delete or old.is_provider)
        gone_with = bool(old.deleted_with) and old.deleted_with in self._work.deletions
        if calls and not gone_with and not self._work.preview:
            self._provider(old).delete(
                subject(old),
                old.inputs,
                old.outputs,
                timeout=old.custom_timeouts.get("delete", 0),
            )
        if step.pending_replacement:
            old.pending_replacement = True

    def _read(self, step: Step) -> None:
        new, old = step.new, step.old
        assert new is not None
        if new.id == UNKNOWN_WIRE:
            new.outputs = {}
        else:
            found = self._provider(new).read(subject(new), new.inputs, new.inputs)
            if not found.id and not found.outputs:
                raise EngineError(f"resource '{new.id}' does not exist")
            new.outputs, new.init_errors = found.outputs, found.reasons
            new.id = found.id or new.id
        if step.replacing and old is not None:
            old.delete = True
        if old is not None:
            new.created, new.modified = old.created, old.modified
            same = deep_equal(new.inputs, old.inputs) and deep_equal(new.outputs, old.outputs)
            if not same:
                new.modified = now()

    def _refresh(self, step: Step) -> None:
        old = step.old
        assert old is not None
        step.new = old
        if not old.custom or old.is_provider or old.pending_replacement:
            return
        provider = self._provider(old)
        found = provider.read(subject(old), old.inputs, old.outputs)
        if found.reasons:
            message = "Refreshed resource is in an unhealthy state:\n* " + "\n* ".join(
                found.reasons
            )
            self._work.listener.diagnostic(Diagnostic(old.urn, message, "warning"))
        if not found.id:
            step.new, step.found = None, "delete"
            return
        new = old.copy()
        new.id, new.init_errors = found.id, found.reasons
        new.inputs = old.inputs if found.inputs is None else found.inputs
        new.outputs = found.outputs
        moved = not deep_equal(new.outputs, old.outputs) or not deep_equal(new.inputs, old.inputs)
        if moved:
            new.modified = now()
        step.new = new
        if old.external:
            step.found = "update" if not deep_equal(old.outputs, new.outputs) else "same"
            return
        seen = (new.inputs, new.outputs)
        diff = diff_resource(provider, subject(new), seen, old.inputs, old.ignore_changes)
        diff = invert(diff)
        step.found = "update" if diff.changes else "same"
        step.changed, step.detailed = diff.changed, diff.detailed


def protected_message(urn: str) -> str:
    """Tell why a protected resource stays, and the way out."""
    return (
        f'resource "{urn}" cannot be deleted\nbecause it is protected. To unprotect the resource, '
        "either remove the `protect` flag from the resource in your Pulumi program and run "
        f"`pulumi up`, or use the command:\n`pulumi state unprotect {quoted(urn)}`"
    )


def quoted(urn: str) -> str:
    """Quote a URN for a shell, as the real CLI's messages have it."""
    return f"'{urn}'"
