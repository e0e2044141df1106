"""The `--json` form of a preview or update (pkg/backend/display/json.go, pkg/display/json.go)."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from typing import Any

from tests.sandbox.engine.events import Context, Diagnostic
from tests.sandbox.engine.goals import Step
from tests.sandbox.engine.state import ROOT_TYPE, Resource, Writer, is_provider_type, urn_name
from tests.sandbox.engine.values import deep_equal, mask

_PREFIXES = {"warning": "warning: ", "error": "error: "}
_REPLACEMENT_STEPS = {
    "create-replacement",
    "delete-replaced",
    "read-replacement",
    "discard-replaced",
    "remove-pending-replace",
}


def is_internal(resource: Resource) -> bool:
    """Whether a resource is a default provider, which nobody declared."""
    return is_provider_type(resource.type) and urn_name(resource.urn).startswith("default")


def is_internal_step(step: Step) -> bool:
    """Whether a step is the engine's own business."""
    return step.op == "remove-pending-replace" or is_internal(step.res)


def is_shown(step: Step) -> bool:
    """Whether a person wants to see the step."""
    if is_internal(step.res) or step.op in _REPLACEMENT_STEPS:
        return False
    if step.op == "refresh":
        return True
    return step.op != "same"


class Counts:
    """The number of resources by what happens to them."""

    def __init__(self, *, refresh_only: bool) -> None:
        self._refresh_only = refresh_only
        self.by_op: Counter[str] = Counter()

    def add(self, step: Step) -> None:
        """Count a step that ended well."""
        if is_internal(step.res):
            return
        if step.op == "refresh":
            if self._refresh_only:
                self.by_op[step.found] += 1
        elif step.op == "read":
            old, new = step.old, step.new
            if old is not None and new is not None and not deep_equal(old.outputs, new.outputs):
                self.by_op["read"] += 1
        elif step.logical:
            self.by_op[step.op] += 1

    @property
    def changes(self) -> int:
        """The number of changes."""
        return sum(n for op, n in self.by_op.items() if op not in ("same", "read"))


def _state(resource: Resource, *, blind: bool) -> dict[str, Any]:
    twin = resource.copy()
    twin.inputs = {} if blind else mask(resource.inputs)
    twin.outputs = {} if blind else mask(resource.outputs)
    return Writer(None).resource(twin)


class Digest:
    """Collects what happens and prints it as one JSON document."""

    def __init__(
        self, context: Context, *, refresh_only: bool, suppress_outputs: bool = False
    ) -> None:
        self._context = context
        self._suppress = suppress_outputs
        self._refresh_only = refresh_only
        self._steps: dict[int, dict[str, Any]] = {}
        self._diagnostics: list[dict[str, str]] = []
        self._lock = threading.Lock()
        self._started = time.monotonic()
        self.counts = Counts(refresh_only=refresh_only)

    def _written(self, step: Step, op: str) -> dict[str, Any]:
        root = step.res.type == ROOT_TYPE
        blind = root and self._suppress
        written: dict[str, Any] = {"op": op, "urn": step.urn}
        if step.res.provider:
            written["provider"] = step.res.provider
        if step.old is not None:
            written["oldState"] = _state(step.old, blind=blind)
        if step.new is not None:
            written["newState"] = _state(step.new, blind=blind)
        if step.changed:
            written["diffReasons"] = step.changed
        if step.keys:
            written["replaceReasons"] = step.keys
        written["detailedDiff"] = None
        if step.detailed is not None:
            written["detailedDiff"] = {
                path: {"kind": kind, "inputDiff": of_input}
                for path, (kind, of_input) in sorted(step.detailed.items())
            }
        return written

    def step_begins(self, step: Step) -> None:
        """Note a step as it begins."""
        if not is_shown(step) and step.res.type != ROOT_TYPE:
            return
        with self._lock:
            written = self._written(step, step.op)
            self._steps[id(step)] = written

    def step_ends(self, step: Step, error: str | None) -> None:
        """Note a step's end; a refresh then shows what it found."""
        with self._lock:
            if error is not None:
                message = f"error: Preview failed: {error}\n"
                self._diagnostics.append({"urn": step.urn, "message": message, "severity": "error"})
                return
            self.counts.add(step)
            if step.op != "refresh" or not self._refresh_only:
                return
            drifted = step.found == "update" and step.detailed is not None
            if drifted or step.found == "delete":
                self._steps[id(step)] = self._written(step, step.found)

    def outputs(self, resource: Resource, old: Resource | None) -> None:
        """Do nothing: outputs are part of the states already."""

    def diagnostic(self, diagnostic: Diagnostic) -> None:
        """Note a message."""
        if diagnostic.severity == "debug":
            return
        text = _PREFIXES.get(diagnostic.severity, "") + diagnostic.message + "\n"
        written = {"message": text, "severity": diagnostic.severity}
        if diagnostic.urn:
            written = {"urn": diagnostic.urn, **written}
        with self._lock:
            self._diagnostics.append(written)

    def finish(self, *, ok: bool) -> None:  # noqa: ARG002 - its messages tell
        """Print the document."""
        document: dict[str, Any] = {}
        if self._context.config:
            document["config"] = dict(sorted(self._context.config.items()))
        if self._steps:
            document["steps"] = list(self._steps.values())
        if self._diagnostics:
            document["diagnostics"] = self._diagnostics
        document["duration"] = int((time.monotonic() - self._started) * 1e9)
        document["changeSummary"] = dict(sorted(self.counts.by_op.items())) or None
        print(json.dumps(document, indent=4, ensure_ascii=False))
