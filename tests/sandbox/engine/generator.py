"""Deciding what to do: from a registration and the old state to steps.

Follows pkg/resource/deploy/step_generator.go.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace

from tests.sandbox.engine.aliases import Aliases
from tests.sandbox.engine.decisions import (
    apply_replace_on_changes,
    delete_step,
    go_text,
    path_matches,
    triggered,
)
from tests.sandbox.engine.errors import Bail, EngineError
from tests.sandbox.engine.events import Diagnostic
from tests.sandbox.engine.goals import Goal, ReadEvent, RegisterEvent, Step
from tests.sandbox.engine.graph import DependencyGraph
from tests.sandbox.engine.paths import ignore_changes
from tests.sandbox.engine.provider import Diff, Provider
from tests.sandbox.engine.state import (
    ROOT_TYPE,
    Resource,
    is_provider_type,
    make_urn,
    provider_urn,
    urn_name,
)
from tests.sandbox.engine.steps import Work, diff_resource, subject
from tests.sandbox.engine.values import UNKNOWN, Properties, deep_equal


@dataclass(frozen=True)
class Scope:
    """Which stack, and which resources of it (none named: all)."""

    stack: str
    project: str
    targets: frozenset[str] = frozenset()


@dataclass
class Seen:
    """What was decided so far, by URN."""

    urns: set[str] = field(default_factory=set)
    creates: set[str] = field(default_factory=set)
    updates: set[str] = field(default_factory=set)
    replaces: set[str] = field(default_factory=set)
    sames: set[str] = field(default_factory=set)
    reads: set[str] = field(default_factory=set)
    skipped_creates: set[str] = field(default_factory=set)

    def operated(self, urn: str) -> bool:
        """Whether the program still has the resource."""
        return any(
            urn in names
            for names in (self.creates, self.updates, self.replaces, self.sames, self.reads)
        )


class StepGenerator:
    """Turns registrations into steps, in the order in which they come."""

    def __init__(self, scope: Scope, olds: list[Resource], work: Work) -> None:
        self.scope = scope
        self.work = work
        self.previous = olds
        self.olds = {r.urn: r for r in olds if not r.delete}
        self.graph = DependencyGraph(olds)
        self.seen = Seen()
        self.aliases = Aliases(scope.stack, scope.project)
        self.errored = False
        # deleted before their replacement: by identity, and why they were
        self.pending_deletes: set[int] = set()
        self.dependent_keys: dict[str, list[str]] = {}
        self.new_providers: dict[str, Resource] = {}

    @property
    def deletes(self) -> set[str]:
        """URNs whose old resource is deleted by this update."""
        return self.work.deletions

    def diagnose(self, urn: str, message: str) -> None:
        """Show an error and remember that there was one."""
        self.errored = True
        self.work.listener.diagnostic(Diagnostic(urn, message, "error"))

    def _targeted(self, resource: Resource) -> bool:
        if not self.scope.targets or resource.is_provider or resource.type == ROOT_TYPE:
            return True
        return any(path_matches(target, resource.urn) for target in self.scope.targets)

    def _urn(self, goal: Goal) -> str:
        urn = make_urn(self.scope.stack, self.scope.project, goal.parent, goal.type, goal.name)
        if urn in self.seen.urns:
            self.diagnose(urn, f"Duplicate resource URN '{urn}'; try giving it a unique name")
            raise Bail("duplicate resource")
        self.seen.urns.add(urn)
        return urn

    def _parent(self, goal: Goal) -> str:
        if goal.parent or goal.type == ROOT_TYPE:
            return goal.parent
        root = make_urn(
            self.scope.stack,
            self.scope.project,
            "",
            ROOT_TYPE,
            f"{self.scope.project}-{self.scope.stack}",
        )
        # default providers have no parent, whatever the program does
        return root if root in self.seen.urns and not is_provider_type(goal.type) else ""

    def read_steps(self, event: ReadEvent) -> list[Step]:
        """Answer a ReadResource."""
        goal = event.goal
        goal.parent = self._parent(goal)
        urn = self._urn(goal)
        new = self._state(goal, urn, [])
        new.id, new.external = event.id, True
        old = self.olds.get(urn)
        if old is not None and not old.external and old.id != event.id:
            self.seen.replaces.add(urn)
            return [
                Step("read-replacement", old, new, event.done, replacing=True),
                Step("replace", old, new, pending_delete=True),
            ]
        self.seen.reads.add(urn)
        return [Step("read", old, new, event.done)]

    @staticmethod
    def _state(goal: Goal, urn: str, aliases: list[str]) -> Resource:
        return Resource(
            urn=urn,
            type=goal.type,
            custom=goal.custom,
            inputs=goal.inputs,
            parent=goal.parent,
            protect=bool(goal.protect),
            dependencies=goal.dependencies,
            provider=goal.provider,
            property_dependencies=goal.property_dependencies,
            additional_secret_outputs=goal.additional_secret_outputs,
            aliases=aliases,
            custom_timeouts=goal.custom_timeouts,
            retain_on_delete=bool(goal.retain_on_delete),
            deleted_with=goal.deleted_with,
            replace_with=goal.replace_with,
            source_position=goal.source_position,
            stack_trace=goal.stack_trace,
            ignore_changes=goal.ignore_changes,
            replace_on_changes=goal.replace_on_changes,
            replacement_trigger=goal.replacement_trigger,
        )

    def register_steps(self, event: RegisterEvent) -> list[Step]:
        """Answer a RegisterResource; raises EngineError where the resource can not be."""
        goal = event.goal
        goal.parent = self._parent(goal)
        urn = self._urn(goal)
        old_urn, error = self.aliases.match(urn, goal, self.olds, self.seen.urns)
        if error:
            self.diagnose(urn, error)
            raise Bail("duplicate alias")
        old = self.olds.get(old_urn)
        new = self._state(goal, urn, [old_urn] if old_urn != urn else [])
        if old is not None:
            new.created, new.modified = old.created, old.modified
            new.refresh_before_update = old.refresh_before_update
        if new.is_provider:
            self.new_providers[urn] = new
        steps = self._decide(event, old, new)
        self._refuse_untargeted_needs(steps)
        return steps

    def _refuse_untargeted_needs(self, steps: list[Step]) -> None:
        if not self.scope.targets:
            return
        for step in steps:
            if step.new is None or step.skipped_create:
                continue
            needs = step.new.all_dependencies()
            if step.new.provider:
                needs.append(provider_urn(step.new.provider))
            for urn in needs:
                if urn not in self.seen.skipped_creates:
                    continue
                self.diagnose(
                    step.urn,
                    f"Resource '{step.urn}' depends on '{urn}' which was was not specified in "
                    "--target list.",
                )
                if not self.work.preview:
                    raise Bail("untargeted create")
                self.seen.skipped_creates.discard(urn)

    def _provider_of(self, new: Resource) -> Provider | None:
        if not new.custom or new.is_provider:
            return None
        provider = self.work.registry.get(new.provider)
        if provider is None:
            raise EngineError(f"unknown provider '{new.provider}' for resource '{new.urn}'")
        return provider

    def _check(self, new: Resource, olds: Properties, news: Properties) -> None:
        """Let the provider check the inputs; raises Bail after showing its complaints."""
        if not new.custom:
            return
        if new.is_provider:
            inputs, failures = self.work.registry.check(new.urn, olds, news)
        else:
            provider = self._provider_of(new)
            assert provider is not None
            seed = os.urandom(32)
            inputs, failures = provider.check(subject(new), olds, news, seed=seed)
        for name, reason in failures:
            label = f"{new.type} resource '{urn_name(new.urn)}'"
            if name:
                value = go_text(news.get(name))
                label += f": property {name} value {value} has a problem: {reason}"
            else:
                label += f" has a problem: {reason}"
            self.diagnose(new.urn, label)
        if failures:
            raise Bail(f"resource {new.urn} is invalid")
        new.inputs = inputs

    def _decide(self, event: RegisterEvent, old: Resource | None, new: Resource) -> list[Step]:
        goal, urn = event.goal, new.urn
        recreating = urn in self.deletes
        targeted = self._targeted(new)
        self._provider_of(new)
        if targeted:
            fresh = recreating or old is None or old.external
            if old is None or fresh:
                self._check(new, {}, goal.inputs)
            else:
                news = ignore_changes(goal.inputs, old.inputs, goal.ignore_changes)
                new.inputs = news
                self._check(new, old.inputs, news)
        if recreating and old is not None:
            self.deletes.discard(urn)
            self.seen.replaces.add(urn)
            keys = self.dependent_keys.get(urn, [])
            return [
                Step("replace", old, new),
                Step("create-replacement", old, new, event.done, keys=keys, replacing=True),
            ]
        if old is not None and old.external:
            self.seen.creates.add(urn)
            return [
                Step(
                    "create-replacement", old, new, event.done, replacing=True, pending_delete=True
                ),
                Step("replace", old, new, pending_delete=True),
            ]
        if old is not None:
            if not targeted:
                return self._untargeted(event, old)
            return self._from_diff(event, old, new)
        if not targeted:
            new.inputs = {}
            self.seen.sames.add(urn)
            self.seen.skipped_creates.add(urn)
            return [Step("same", None, new, event.done, skipped_create=True)]
        self.seen.creates.add(urn)
        return [Step("create", None, new, event.done)]

    def _untargeted(self, event: RegisterEvent, old: Resource) -> list[Step]:
        """Keep an untargeted resource, and before it what it needs that nobody registered."""
        steps: list[Step] = []
        for urn in old.all_dependencies():
            needed = self.olds.get(urn)
            if needed is not None and urn not in self.seen.urns and not needed.delete:
                self.seen.urns.add(urn)
                self.seen.sames.add(urn)
                steps.append(Step("same", needed, needed.copy(), untargeted=True))
        if old.provider and self.work.registry.get(old.provider) is None:
            raise EngineError(
                f"provider {old.provider} for resource {old.urn} has not been registered yet, this "
                "is due to a change of providers mixed with --target. Change your program back to "
                "the original providers"
            )
        self.seen.sames.add(old.urn)
        twin = old.copy()
        twin.id = ""
        return [*steps, Step("same", old, twin, event.done, untargeted=True)]

    def _provider_changed(self, old: Resource, new: Resource) -> bool:
        if old.provider == new.provider:
            return False
        if not old.provider or not new.provider:
            return True
        old_urn, new_urn = provider_urn(old.provider), provider_urn(new.provider)
        if old_urn != new_urn and self.aliases.current(old_urn) == new_urn:
            return False
        provider = self.work.registry.get(new.provider)
        before, after = self.olds.get(old_urn), self.new_providers.get(new_urn)
        if provider is None or before is None or after is None:
            raise EngineError(f"failed to resolve provider reference: {old.provider!r}")
        about = replace(subject(after), id="")
        return provider.diff_config(about, before.inputs, before.outputs, after.inputs).replace

    def _reason(self, old: Resource, new: Resource) -> str:
        """Tell what of the options forces a replacement, if anything."""
        if any(urn in self.seen.replaces for urn in new.replace_with):
            return "replaceWith"
        if new.deleted_with and new.deleted_with in self.seen.replaces:
            return "deletedWith"
        return "provider" if self._provider_changed(old, new) else ""

    def _diff(self, goal: Goal, old: Resource, new: Resource) -> Diff:
        if reason := self._reason(old, new):
            return Diff(True, [reason])
        if new.is_provider:
            return self.work.registry.diff(old, new.inputs)
        provider = self._provider_of(new)
        if provider is None:
            return Diff(not deep_equal(old.inputs, new.inputs))
        if not provider.known:
            message = (
                "The provider for this resource has inputs that are not known during preview.\n"
                "This preview may not correctly represent the changes that will be applied during "
                "an update."
            )
            self.work.listener.diagnostic(Diagnostic(new.urn, message, "warning"))
            return Diff(True)
        states = (old.inputs, old.outputs)
        about = replace(subject(new), id=old.id)
        return diff_resource(provider, about, states, new.inputs, goal.ignore_changes)

    def _from_diff(self, event: RegisterEvent, old: Resource, new: Resource) -> list[Step]:
        goal, urn = event.goal, new.urn
        forced = triggered(new.replacement_trigger, old.replacement_trigger)
        diff = Diff(True) if forced else self._diff(goal, old, new)
        diff = apply_replace_on_changes(diff, goal.replace_on_changes, bool(old.init_errors))
        if diff.changes or old.pending_replacement:
            if diff.replace or forced or old.pending_replacement:
                return self._replace(event, old, new, diff)
        elif not old.init_errors:
            self.seen.sames.add(urn)
            return [Step("same", old, new, event.done)]
        self.seen.updates.add(urn)
        return [self._step("update", event, old, new, diff)]

    @staticmethod
    def _step(op: str, event: RegisterEvent, old: Resource, new: Resource, diff: Diff) -> Step:
        return Step(
            op,  # type: ignore[arg-type]
            old,
            new,
            event.done if op != "replace" else None,
            keys=diff.replaces,
            changed=diff.changed,
            detailed=diff.detailed,
            replacing=op == "create-replacement",
            ignore_changes=event.goal.ignore_changes,
        )

    def _replace(
        self, event: RegisterEvent, old: Resource, new: Resource, diff: Diff
    ) -> list[Step]:
        goal, urn = event.goal, new.urn
        if new.protect and old.protect:
            message = (
                f'unable to replace resource "{urn}"\nas it is currently marked for protection. '
                "To unprotect the resource, remove the `protect` flag from the resource in your "
                "Pulumi program and run `pulumi up`"
            )
            self.diagnose(urn, message)
            if not self.work.preview:
                raise Bail(message)
        self.seen.replaces.add(urn)
        # Defaults carried over from the old resource are no longer true.
        self._check(new, {}, goal.inputs)
        before = goal.delete_before_replace
        if diff.delete_before_replace if before is None else before:
            return self._delete_before_replace(event, old, new, diff)
        create = self._step("create-replacement", event, old, new, diff)
        create.pending_delete = True
        note = self._step("replace", event, old, new, diff)
        note.pending_delete = True
        return [create, note]

    def _delete_before_replace(
        self, event: RegisterEvent, old: Resource, new: Resource, diff: Diff
    ) -> list[Step]:
        steps: list[Step] = []
        for dependent, keys in reversed(self.dependents(old)):
            if id(dependent) in self.pending_deletes:
                continue
            self.dependent_keys[dependent.urn] = keys
            if dependent.delete:
                steps.append(delete_step(dependent))
            elif dependent.protect:
                message = (
                    f'unable to replace resource "{dependent.urn}" as part of replacing '
                    f'"{new.urn}" as it is currently marked for protection. To unprotect the '
                    "resource, remove the `protect` flag from the resource in your Pulumi program "
                    "and run `pulumi up`"
                )
                self.diagnose(new.urn, message)
                raise Bail(message)
            else:
                steps.append(delete_step(dependent, replacing=True, pending=True))
            self.deletes.add(dependent.urn)
            self.pending_deletes.add(id(dependent))
        self.work.ensure_provider(old.provider)
        if not old.pending_replacement:
            self.deletes.add(old.urn)
            steps.append(delete_step(old, replacing=True, pending=True))
        steps.append(self._step("replace", event, old, new, diff))
        return [*steps, self._step("create-replacement", event, old, new, diff)]

    def dependents(self, root: Resource) -> list[tuple[Resource, list[str]]]:
        """Find what must be deleted before `root` can be, with the keys that say so."""
        found: list[tuple[Resource, list[str]]] = []
        if root in self.graph:
            seen = self.seen
            ignore = seen.reads | seen.creates | seen.sames | seen.updates | seen.replaces
            replaced = {root.urn}
            for candidate in self.graph.depending_on(root, ignore | self.deletes):
                keys = self._needs_replacement(candidate, replaced)
                if keys is not None:
                    found.append((candidate, keys))
                    replaced.add(candidate.urn)
        known = {resource.urn for resource, _ in found}
        for resource in self.olds.values():
            cascades = root.urn in resource.replace_with or resource.deleted_with == root.urn
            if cascades and resource.urn not in known:
                found.append((resource, []))
        return found

    def _needs_replacement(self, resource: Resource, replaced: set[str]) -> list[str] | None:
        """Tell whether a dependent must be replaced too: its keys, or None."""
        if not resource.custom or resource.external:
            return None
        if resource.provider and provider_urn(resource.provider) in replaced:
            self.work.ensure_provider(resource.provider)
            return []
        if resource.deleted_with in replaced:
            return []
        inputs: Properties = dict(resource.inputs)
        touched = False
        for key in inputs:
            if replaced.intersection(resource.property_dependencies.get(key, ())):
                inputs[key] = UNKNOWN
                touched = True
        if not touched:
            return None
        if resource.is_provider:
            self.work.registry.same(resource)
            diff = self.work.registry.diff(resource, inputs)
        else:
            self.work.ensure_provider(resource.provider)
            provider = self.work.registry.get(resource.provider)
            assert provider is not None
            states = (resource.inputs, resource.outputs)
            ignored = resource.ignore_changes
            diff = diff_resource(provider, subject(resource), states, inputs, ignored)
        diff = apply_replace_on_changes(diff, resource.replace_on_changes, False)
        return diff.replaces if diff.replace else None
