"""Running an update: the program's registrations, the steps, the deletes.

Follows pkg/resource/deploy/deployment_executor.go.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from concurrent import futures
from dataclasses import dataclass, field

from tests.sandbox.engine.builtin import BuiltinProvider
from tests.sandbox.engine.decisions import delete_step, path_matches
from tests.sandbox.engine.errors import Bail, EngineError, RefusedError
from tests.sandbox.engine.events import Diagnostic, Listener
from tests.sandbox.engine.generator import Scope, StepGenerator
from tests.sandbox.engine.goals import (
    Event,
    OutputsEvent,
    ProgramEnded,
    ReadEvent,
    Refusal,
    RegisterEvent,
    Step,
)
from tests.sandbox.engine.graph import DependencyGraph, schedule_deletes
from tests.sandbox.engine.journal import Journal
from tests.sandbox.engine.monitor import EngineService, Inbox, Monitor, Server, StackInfo
from tests.sandbox.engine.plugins import PluginHost
from tests.sandbox.engine.program import Addresses, Program
from tests.sandbox.engine.project import Project
from tests.sandbox.engine.registry import Registry
from tests.sandbox.engine.services import add_monitor
from tests.sandbox.engine.state import (
    ROOT_TYPE,
    Resource,
    provider_id,
    provider_urn,
)
from tests.sandbox.engine.steps import ProtectedError, StepRunner, Work
from tests.sandbox.engine.values import Properties

_POLL_SECONDS = 0.2
_PENDING_WARNING = (
    "These resources are in an unknown state because the Pulumi CLI was interrupted while waiting "
    "for changes to these resources to complete. You should confirm whether or not the operations "
    "listed completed successfully by checking the state of the appropriate provider. For example, "
    "if you are using AWS, you can confirm using the AWS Console.\n\nOnce you have confirmed the "
    "status of the interrupted operations, you can repair your stack using `pulumi refresh` which "
    "will refresh the state from the provider you are using and clear the pending operations if "
    "there are any.\n\nNote that `pulumi refresh` will need to be run interactively to clear "
    "pending CREATE operations."
)


@dataclass(frozen=True)
class Plan:
    """What to do."""

    preview: bool = False
    refresh: bool = False
    run_program: bool = True
    destroy: bool = False
    targets: frozenset[str] = frozenset()
    parallel: int = 16


@dataclass
class Surroundings:
    """What an update works with."""

    project: Project
    info: StackInfo
    host: PluginHost
    engine: EngineService
    engine_address: str
    journal: Journal
    listener: Listener
    stack_outputs: Callable[[str], Properties]


@dataclass
class _Failures:
    """What went wrong so far."""

    step: bool = False
    # a resource that could not be read; the others are read all the same
    refresh: bool = False
    protected: bool = False
    errored: list[Step] = field(default_factory=list)


class Deployment:
    """One run of one stack."""

    def __init__(self, plan: Plan, around: Surroundings) -> None:
        self._plan = plan
        self._around = around
        self._inbox = Inbox()
        self._interrupted = threading.Event()
        self._failures = _Failures()
        # a failure whose own message says all
        self._bailed = False
        self._stack_outputs: OutputsEvent | None = None
        self._registry = Registry(around.host, preview=plan.preview)
        self._work = Work(
            self._registry,
            around.journal,
            around.listener,
            plan.preview,
            self._ensure_provider,
        )
        self._registry.builtin = BuiltinProvider(around.stack_outputs, self._find)
        self._runner = StepRunner(self._work)
        self._pool = futures.ThreadPoolExecutor(plan.parallel, thread_name_prefix="step")
        self._running: list[futures.Future[None]] = []

    def interrupt(self) -> None:
        """Begin nothing new, tell the providers, and end with a true state."""
        self._interrupted.set()
        self._stop_program()
        threading.Thread(target=self._around.host.cancel, daemon=True).start()

    def _stop_program(self) -> None:
        """Answer the program no more; what it says from now on is about that."""
        self._around.engine.muted = True
        self._inbox.cancelled.set()

    def _show_program(self, diagnostic: Diagnostic) -> None:
        if not self._around.engine.muted:
            self._around.listener.diagnostic(diagnostic)

    def _find(self, urn: str) -> Resource | None:
        return self._work.news.get(urn) or self._work.reads.get(urn)

    def _ensure_provider(self, reference: str) -> None:
        """Configure a provider of the old state; raises EngineError where it is not there."""
        if not reference or self._registry.get(reference) is not None:
            return
        urn, identity = provider_urn(reference), provider_id(reference)
        known = [*self._around.journal.base.resources, *self._work.news.values()]
        for resource in known:
            if resource.urn == urn and resource.id == identity:
                self._registry.same(resource)
                return
        raise EngineError(f"could not find provider {reference} in the state")

    def _diagnose(self, urn: str, message: str) -> None:
        self._around.listener.diagnostic(Diagnostic(urn, message, "error"))

    def run(self) -> bool:
        """Do what the plan says; whether it went well. The state is true either way."""
        ok = False
        try:
            ok = self._run()
        except EngineError as error:
            self._bailed = True
            if not isinstance(error, Bail):
                self._diagnose("", str(error))
        finally:
            self._inbox.cancelled.set()
            self._pool.shutdown(wait=True)
        kind = "preview" if self._plan.preview else "update"
        if self._interrupted.is_set():
            self._diagnose("", f"{kind} canceled")
            return False
        if not ok and not self._bailed:
            self._diagnose("", f"{kind} failed")
        return ok

    def _run(self) -> bool:
        base = self._around.journal.base
        if self._plan.refresh:
            if not self._refresh(base.resources):
                return False
        elif base.operations and not self._plan.preview:
            self._warn_of_pending()
        if not self._plan.run_program and not self._plan.destroy:
            return True
        scope = Scope(self._around.info.stack, self._around.info.project, self._plan.targets)
        generator = StepGenerator(scope, base.resources, self._work)
        ended_well = self._run_program(generator) if self._plan.run_program else True
        if ended_well and not self._stopped:
            targets_known = self._check_targets(generator)
            self._wait()
            if not self._stopped:
                with contextlib.suppress(Bail):
                    self._delete(generator)
            ended_well = targets_known
        self._wait()
        ok = ended_well and not self._failed and not generator.errored
        self._finish_outputs(generator, errored=not ok)
        return ok

    @property
    def _failed(self) -> bool:
        return self._failures.step or self._failures.protected or self._failures.refresh

    @property
    def _stopped(self) -> bool:
        return self._failures.step or self._interrupted.is_set()

    def _warn_of_pending(self) -> None:
        operations = self._around.journal.base.operations
        listed = "".join(f"  * {o.resource.urn}, interrupted while {o.type}\n" for o in operations)
        message = (
            f"Attempting to deploy or update resources with {len(operations)} pending operations "
            f"from previous deployment.\n{listed}{_PENDING_WARNING}"
        )
        self._around.listener.diagnostic(Diagnostic("", message, "warning"))

    def _check_targets(self, generator: StepGenerator | None) -> bool:
        known = {r.urn for r in self._around.journal.base.resources}
        if generator is not None:
            known |= generator.seen.urns
        missing = [
            target
            for target in sorted(self._plan.targets)
            if "*" not in target and target not in known
        ]
        for target in missing:
            hint = "" if "$" in target else " Did you forget to escape $ in your shell?"
            self._diagnose("", f"Target '{target}' could not be found in the stack.{hint}")
        self._bailed = self._bailed or bool(missing)
        return not missing

    def _run_program(self, generator: StepGenerator) -> bool:
        around = self._around
        monitor = Monitor(self._inbox, around.info, self._registry)
        server = Server(lambda target: add_monitor(monitor, target))
        try:
            addresses = Addresses(server.address, around.engine_address)
            program = Program(around.project, around.info, addresses, self._show_program)
            try:
                threading.Thread(target=self._await, args=(program,), daemon=True).start()
                return self._serve(generator)
            finally:
                program.stop(at_once=around.engine.muted)
        finally:
            server.stop()

    def _await(self, program: Program) -> None:
        code, shown = program.wait()
        self._inbox.events.put(ProgramEnded(code, shown))

    def _next(self) -> Event | None:
        import queue

        while not self._stopped:
            try:
                return self._inbox.events.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                continue
        return None

    def _serve(self, generator: StepGenerator) -> bool:
        """Answer the program until it ends; whether it ended well."""
        while (event := self._next()) is not None:
            if isinstance(event, ProgramEnded):
                if event.exit_code and not event.shown:
                    message = f"Program exited with non-zero exit code: {event.exit_code}"
                    self._diagnose("", message)
                self._bailed = event.exit_code != 0
                return event.exit_code == 0
            try:
                self._handle(generator, event)
            except EngineError as error:
                if not isinstance(error, Bail):
                    self._diagnose(_urn_of(event, generator), str(error))
                self._bailed = True
                self._stop_program()
                return False
        self._stop_program()
        return False

    def _handle(self, generator: StepGenerator, event: Event) -> None:
        if isinstance(event, RegisterEvent):
            self._submit(generator.register_steps(event))
        elif isinstance(event, ReadEvent):
            self._submit(generator.read_steps(event))
        elif isinstance(event, OutputsEvent):
            self._register_outputs(event)
        elif isinstance(event, Refusal):
            raise RefusedError(event.message)

    def _register_outputs(self, event: OutputsEvent) -> None:
        if event.urn.split("::")[2] == ROOT_TYPE:
            # The stack's outputs count at the end, when it is known how the update went.
            self._stack_outputs = event
            event.done.fulfil(None)
            return
        with self._work.lock:
            step = self._work.pending_outputs.pop(event.urn, None)
        if step is None:
            raise EngineError(
                f"cannot complete a resource '{event.urn}' whose registration isn't pending"
            )
        self._store_outputs(step, event.outputs)
        event.done.fulfil(step.new)

    def _store_outputs(self, step: Step, outputs: Properties) -> None:
        assert step.new is not None
        if step.skipped_create:
            return
        step.new.outputs = outputs
        old = step.old
        self._around.listener.outputs(step.new, old)
        if not self._plan.preview:
            self._around.journal.outputs_registered()

    def _finish_outputs(self, generator: StepGenerator, *, errored: bool) -> None:
        event = self._stack_outputs
        if event is None:
            return
        step = self._work.pending_outputs.pop(event.urn, None)
        if step is None:
            return
        outputs = event.outputs
        if errored:
            old = generator.olds.get(event.urn)
            outputs = {**(old.outputs if old else {}), **outputs}
        self._store_outputs(step, outputs)

    def _submit(self, chain: list[Step]) -> None:
        self._running.append(self._pool.submit(self._run_chain, chain))

    def _run_chain(self, chain: list[Step]) -> None:
        for step in chain:
            if self._stopped:
                return
            try:
                self._runner.run(step)
            except ProtectedError:
                self._failures.protected = True
                self._failures.errored.append(step)
                return
            except EngineError:
                if step.op == "refresh":
                    self._failures.refresh = True
                    return
                self._failures.step = True
                self._stop_program()
                return

    def _wait(self) -> None:
        """Wait for all steps under way; a defect of the engine itself comes out here."""
        for future in futures.wait(self._running).done:
            future.result()
        self._running.clear()

    def _refresh(self, resources: list[Resource]) -> bool:
        """Read every resource; the base state is then what was found."""
        if not self._check_targets(None):
            return False
        chosen = [r for r in resources if self._refreshes(r)]
        for resource in chosen:
            if resource.custom and not resource.is_provider:
                self._ensure_provider(resource.provider)
        steps = {id(r): Step("refresh", r, r) for r in chosen}
        for step in steps.values():
            self._submit([step])
        self._wait()
        # What was read counts, also where another resource could not be read.
        found = [steps[id(r)].new if id(r) in steps else r for r in resources]
        self._around.journal.rebase(_repaired([r for r in found if r is not None]))
        return not self._failed

    def _refreshes(self, resource: Resource) -> bool:
        targets = self._plan.targets
        return not targets or any(path_matches(t, resource.urn) for t in targets)

    def _delete(self, generator: StepGenerator) -> None:
        """Delete what the program no longer has, dependents first."""
        sames, deletes = self._condemned(generator)
        for step in sames:
            self._submit([step])
        self._wait()
        graph = DependencyGraph(generator.previous)
        spared: set[int] = set()
        for rank in schedule_deletes(graph, [s.old for s in deletes if s.old is not None]):
            for failed in self._failures.errored:
                if failed.old is not None and failed.old in graph:
                    spared |= graph.transitive_dependencies_of(failed.old)
            steps = {id(s.old): s for s in deletes}
            for resource in rank:
                if id(resource) not in spared:
                    self._submit([steps[id(resource)]])
            self._wait()
            if self._stopped:
                return

    def _condemned(self, generator: StepGenerator) -> tuple[list[Step], list[Step]]:
        sames: list[Step] = []
        deletes: list[Step] = []
        allowed = self._allowed(generator)
        for resource in generator.previous:
            if allowed is not None and resource.urn not in allowed:
                if not generator.seen.operated(resource.urn) and not resource.delete:
                    twin = resource.copy()
                    twin.id = ""
                    sames.append(Step("same", resource, twin, untargeted=True))
            elif (step := self._farewell(generator, resource)) is not None:
                deletes.append(step)
        for step in deletes:
            assert step.old is not None
            generator.deletes.add(step.old.urn)
            if not self._plan.preview and step.old.custom and not step.old.is_provider:
                self._ensure_provider(step.old.provider)
        self._refuse_untargeted(generator, allowed, deletes)
        return sames, deletes

    @staticmethod
    def _farewell(generator: StepGenerator, resource: Resource) -> Step | None:
        """Make the step for an old resource that has no place in the new state."""
        if resource.delete:
            if id(resource) in generator.pending_deletes:
                return None
            return delete_step(resource, replacing=True)
        renamed = generator.aliases.current(resource.urn) != resource.urn
        if renamed or generator.seen.operated(resource.urn):
            return None
        if resource.pending_replacement:
            return Step("remove-pending-replace", resource)
        return None if id(resource) in generator.pending_deletes else delete_step(resource)

    def _allowed(self, generator: StepGenerator) -> set[str] | None:
        """Tell which URNs may be deleted: the targets and what must go with them; None: all."""
        if not self._plan.targets:
            return None
        allowed: set[str] = set()
        for resource in generator.previous:
            needs = {resource.parent, *resource.all_dependencies()}
            if self._refreshes(resource) or needs & allowed:
                allowed.add(resource.urn)
        for resource in generator.previous:
            if resource.urn in allowed:
                allowed.update(r.urn for r, _ in generator.dependents(resource))
        return allowed

    def _refuse_untargeted(
        self, generator: StepGenerator, allowed: set[str] | None, deletes: list[Step]
    ) -> None:
        if allowed is None:
            return
        refused = [s for s in deletes if s.old is not None and not self._refreshes(s.old)]
        for step in refused:
            generator.diagnose(
                step.urn,
                f"Resource '{step.urn}' will be destroyed but was not specified in --target list.\n"
                "Either include resource in --target list or pass --target-dependents to proceed.",
            )
        if refused and not self._plan.preview:
            raise Bail("delete untargeted resource")


def _urn_of(event: Event, generator: StepGenerator) -> str:
    if isinstance(event, RegisterEvent | ReadEvent):
        from tests.sandbox.engine.state import make_urn

        goal, scope = event.goal, generator.scope
        return make_urn(scope.stack, scope.project, goal.parent, goal.type, goal.name)
    return event.urn if isinstance(event, OutputsEvent) else ""


def _repaired(resources: list[Resource]) -> list[Resource]:
    """Drop references to what is gone; parents that are gone give way to their own parents."""
    there: set[str] = set()
    for resource in resources:
        resource.dependencies = [urn for urn in resource.dependencies if urn in there]
        resource.property_dependencies = {
            key: kept
            for key, urns in resource.property_dependencies.items()
            if (kept := [urn for urn in urns if urn in there])
        }
        resource.replace_with = [urn for urn in resource.replace_with if urn in there]
        if resource.deleted_with not in there:
            resource.deleted_with = ""
        if resource.parent not in there:
            resource.parent = ""
        there.add(resource.urn)
    return resources
