"""What a person sees: the tree of steps, messages, outputs and the summary."""

from __future__ import annotations

import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from tests.sandbox.engine.difftext import DiffText, shown_block, shown_value
from tests.sandbox.engine.digest import Counts, is_shown
from tests.sandbox.engine.events import Context, Diagnostic
from tests.sandbox.engine.goals import Step
from tests.sandbox.engine.state import ROOT_TYPE, Resource, urn_name
from tests.sandbox.engine.values import UNKNOWN, deep_equal

_SYMBOLS = {
    "same": "  ",
    "create": "+ ",
    "update": "~ ",
    "delete": "- ",
    "replace": "+-",
    "read": "> ",
    "refresh": "~ ",
    "discard": "< ",
}
_PAST = {
    "create": "created",
    "update": "updated",
    "delete": "deleted",
    "replace": "replaced",
    "read": "read",
    "same": "unchanged",
    "discard": "discarded",
}
_ORDER = ("create", "update", "delete", "replace", "read", "discard")
_PREFIXES = {"warning": "warning: ", "error": "error: "}
_WIDTH_TYPE = 44


class Display:
    """Prints an update's course and result to standard output."""

    def __init__(
        self,
        context: Context,
        title: str,
        *,
        diff: bool = False,
        refresh_only: bool = False,
        suppress_outputs: bool = False,
        show_secrets: bool = False,
    ) -> None:
        self._context = context
        self._diff = diff
        self._texts = DiffText(show_secrets=show_secrets)
        self._drifts: dict[str, Step] = {}
        self._suppress = suppress_outputs
        self._show_secrets = show_secrets
        self._steps: list[tuple[Step, str]] = []
        self._failed: set[int] = set()
        self._messages: dict[str, list[Diagnostic]] = defaultdict(list)
        self._root: tuple[Resource, Resource | None] | None = None
        self._lock = threading.Lock()
        self._started = time.monotonic()
        self.counts = Counts(refresh_only=refresh_only)
        print(f"{title} ({context.stack}):", flush=True)

    def step_begins(self, step: Step) -> None:
        """Show, during an update, that a step begins."""
        if not self._context.preview and is_shown(step) and step.op != "refresh":
            self._line(step, f"{step.op.removesuffix('e')}ing" if step.op != "same" else "")

    def _line(self, step: Step, status: str) -> None:
        symbol = _SYMBOLS.get(step.op, "  ")
        with self._lock:
            print(f" {symbol} {step.res.type} {urn_name(step.urn)} {status}", flush=True)

    def step_ends(self, step: Step, error: str | None) -> None:
        """Note a step's end, and show it during an update."""
        status = "failed" if error is not None else _PAST.get(step.op, step.op)
        if step.op == "refresh" and error is None:
            status = {"same": "unchanged", "update": "drifted", "delete": "gone"}[step.found]
        with self._lock:
            self._steps.append((step, status))
            if step.op == "refresh" and step.found == "update":
                self._drifts[step.urn] = step
            if error is None:
                self.counts.add(step)
            else:
                self._failed.add(id(step))
                self._messages[step.urn].append(Diagnostic(step.urn, error, "error"))
        if not self._context.preview and is_shown(step) and step.op != "refresh":
            self._line(step, status)

    def outputs(self, resource: Resource, old: Resource | None) -> None:
        """Note the stack's outputs."""
        if resource.type == ROOT_TYPE:
            self._root = (resource, old)

    def diagnostic(self, diagnostic: Diagnostic) -> None:
        """Note a message."""
        if diagnostic.severity != "debug":
            with self._lock:
                self._messages[diagnostic.urn].append(diagnostic)

    def finish(self, *, ok: bool) -> None:  # noqa: ARG002 - its messages tell
        """Print the result."""
        for part in (self._tree(), self._diagnostics(), self._outputs(), self._summary()):
            lines = list(part)
            if lines:
                print("\n".join(lines) + "\n", flush=True)

    def _tree(self) -> Iterator[str]:
        """Write each resource that changes below its parents."""
        shown = {}
        for step, status in self._steps:
            drift = step.op != "refresh" or step.found != "same" or id(step) in self._failed
            if is_shown(step) and drift:
                shown[step.urn] = (step, status)
        needed = set(shown)
        parents = {step.urn: step.res.parent for step, _ in self._steps}
        for urn in list(shown):
            while urn := parents.get(urn, ""):
                needed.add(urn)
        order = [step for step, _ in self._steps if step.urn in needed]
        if not order:
            return
        plan = "Plan" if self._context.preview else "Status"
        yield f"    {'Type'.ljust(_WIDTH_TYPE)} {'Name'.ljust(24)} {plan}"
        done: set[str] = set()
        for step in order:
            if step.res.parent not in needed:
                yield from self._branch(step.urn, "", order, shown, done)

    def _branch(
        self,
        urn: str,
        indent: str,
        order: list[Step],
        shown: dict[str, tuple[Step, str]],
        done: set[str],
    ) -> Iterator[str]:
        if urn in done:
            return
        done.add(urn)
        step = next(s for s in order if s.urn == urn)
        status, symbol = "", "  "
        if urn in shown:
            step, outcome = shown[urn]
            symbol = _SYMBOLS.get(self._effective(step), "  ")
            status = self._effective(step) if self._context.preview else outcome
            if step.op == "refresh":
                status = outcome
        count = len(self._messages.get(urn, ()))
        note = f" ({count} message{'s' if count > 1 else ''})" if count else ""
        reasons = f" [{', '.join(step.keys or step.changed)}]" if step.keys or step.changed else ""
        kind = (indent + step.res.type).ljust(_WIDTH_TYPE)
        yield f" {symbol} {kind} {urn_name(urn).ljust(24)} {status}{reasons}{note}".rstrip()
        if urn in shown:
            yield from self._details(step, "        " + indent)
        for child in order:
            if child.res.parent == urn and child.urn != urn:
                yield from self._branch(child.urn, indent + "  ", order, shown, done)

    def _details(self, step: Step, indent: str) -> Iterator[str]:
        """Write what drifted, always, and with `--diff` what the step changes."""
        drift = self._drifts.get(step.urn)
        if drift is not None and drift is not step:
            yield f"{indent}drifted:"
            yield from self._texts.step(drift, indent + "  ")
        if self._diff or drift is step:
            yield from self._texts.step(step, indent)

    @staticmethod
    def _effective(step: Step) -> str:
        return step.found if step.op == "refresh" else step.op

    def _diagnostics(self) -> Iterator[str]:
        root = f"{self._context.project}-{self._context.stack}"
        if any(self._messages.values()):
            yield "Diagnostics:"
        for urn, messages in self._messages.items():
            kind, name = (urn.split("::")[2].rsplit("$", 1)[-1], urn_name(urn)) if urn else ("", "")
            yield f"  {kind or ROOT_TYPE} ({name or root}):"
            for message in messages:
                text = _PREFIXES.get(message.severity, "") + message.message
                yield from (f"    {line}" for line in text.splitlines() or [""])

    def _outputs(self) -> Iterator[str]:
        if self._root is None or self._suppress:
            return
        resource, old = self._root
        before = old.outputs if old is not None else {}
        names = sorted({**before, **resource.outputs}) if before else sorted(resource.outputs)
        if not names:
            return
        width = max(map(len, names))
        lines = [
            line for name in names for line in self._output(name, width, before, resource.outputs)
        ]
        if lines:
            yield "Outputs:"
            yield from lines

    def _output(self, name: str, width: int, before: Any, after: Any) -> Iterator[str]:
        """Write one output; a preview leaves out what stays."""
        label = name.ljust(width)
        old, new = before.get(name), after.get(name)
        if name not in after:
            yield from self._block(f"  - {label}: ", old)
        elif name not in before:
            yield from self._block(f"  + {label}: ", new)
        elif new is not UNKNOWN and deep_equal(old, new):
            if not self._context.preview:
                yield from self._block(f"    {label}: ", new)
        elif isinstance(old, dict) and isinstance(new, dict):
            yield f"  ~ {label}:"
            yield from self._texts.lines(old, new, "      ")
        else:
            values = [shown_value(v, show_secrets=self._show_secrets) for v in (old, new)]
            yield f"  ~ {label}: {' => '.join(values)}"

    def _block(self, head: str, value: Any) -> Iterator[str]:
        first, *rest = shown_block(value, "    ", show_secrets=self._show_secrets)
        yield head + first
        yield from rest

    def _summary(self) -> Iterator[str]:
        by_op = self.counts.by_op
        yield "Resources:"
        changed = 0
        for op in _ORDER:
            if count := by_op.get(op):
                changed += count if op != "read" else 0
                words = f"to {op}" if self._context.preview else _PAST[op]
                yield f"    {_SYMBOLS[op]}{count} {words}"
        same = by_op.get("same", 0)
        kinds = [op for op in _ORDER if by_op.get(op)]
        if len(kinds) > 1 or (kinds and same):
            tail = f". {same} unchanged" if same else ""
            yield f"    {changed} change{'s' if changed != 1 else ''}{tail}"
        elif same:
            yield f"    {same} unchanged"
        if not self._context.preview:
            yield ""
            yield f"Duration: {int(time.monotonic() - self._started)}s"


def fail(message: str) -> None:
    """Print an error."""
    print(f"error: {message}", file=sys.stderr)
