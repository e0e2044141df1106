"""The `--json` form of an update: one event a line as it happens (display/events.go)."""

from __future__ import annotations

import json
import math
import threading
import time
from typing import Any

from tests.sandbox.engine.digest import Counts, is_internal_step
from tests.sandbox.engine.events import Context, Diagnostic
from tests.sandbox.engine.goals import Step
from tests.sandbox.engine.state import Resource, Writer
from tests.sandbox.engine.values import SECRET_SIGNATURE, SIGNATURE_KEY, Secret

_PREFIXES = {"warning": "warning: ", "error": "error: ", "debug": "debug: "}


class _Blind(Writer):
    """Writes states without their secrets."""

    def value(self, value: Any) -> Any:
        """Write one property value."""
        if isinstance(value, Secret):
            return {SIGNATURE_KEY: SECRET_SIGNATURE, "ciphertext": "[secret]"}
        return super().value(value)


def _state(resource: Resource | None) -> dict[str, Any] | None:
    if resource is None:
        return None
    writer = _Blind(None)
    written: dict[str, Any] = {"type": resource.type, "urn": resource.urn}
    for name in ("custom", "delete", "external"):
        if getattr(resource, name):
            written[name] = True
    written |= {"id": resource.id, "parent": resource.parent}
    if resource.protect:
        written["protect"] = True
    if resource.retain_on_delete:
        written["retainOnDelete"] = True
    written |= {
        "inputs": writer.value(resource.inputs),
        "outputs": writer.value(resource.outputs),
        "provider": resource.provider,
    }
    if resource.init_errors:
        written["initErrors"] = resource.init_errors
    return written


def _before(step: Step) -> Resource | None:
    """Give the old state; a create that targets leave out is shown as one of nothing."""
    if not step.skipped_create or step.new is None:
        return step.old
    twin = step.new.copy()
    twin.inputs, twin.outputs, twin.id = {}, {}, ""
    return twin


def _metadata(step: Step, op: str) -> dict[str, Any]:
    written: dict[str, Any] = {
        "op": op,
        "urn": step.urn,
        "type": step.res.type,
        "old": _state(_before(step)),
        "new": _state(step.new),
    }
    if step.keys:
        written["keys"] = step.keys
    if step.changed:
        written["diffs"] = step.changed
    written["detailedDiff"] = None
    if step.detailed is not None:
        written["detailedDiff"] = {
            path: {"diffKind": kind, "inputDiff": of_input}
            for path, (kind, of_input) in sorted(step.detailed.items())
        }
    if step.logical:
        written["logical"] = True
    return {**written, "provider": step.res.provider}


class EventLog:
    """Prints each event of an update as a line of JSON."""

    def __init__(self, context: Context, *, refresh_only: bool) -> None:
        self._refresh_only = refresh_only
        self._sequence = 0
        self._lock = threading.Lock()
        self._started = time.monotonic()
        self._steps: dict[str, Step] = {}
        self.counts = Counts(refresh_only=refresh_only)
        self._write("preludeEvent", {"config": dict(sorted(context.config.items()))})

    def _write(self, kind: str, payload: dict[str, Any]) -> None:
        with self._lock:
            event = {"sequence": self._sequence, "timestamp": int(time.time()), kind: payload}
            self._sequence += 1
            print(json.dumps(event, separators=(",", ":"), ensure_ascii=False), flush=True)

    def step_begins(self, step: Step) -> None:
        """Print that a step begins."""
        self._steps[step.urn] = step
        if not is_internal_step(step):
            self._write("resourcePreEvent", {"metadata": _metadata(step, step.op)})

    def step_ends(self, step: Step, error: str | None) -> None:
        """Print that a step ended."""
        internal = is_internal_step(step)
        if error is not None:
            self.diagnostic(Diagnostic("" if internal else step.urn, error, "error"))
            if not internal:
                failed = {"metadata": _metadata(step, step.op), "status": 0, "steps": 0}
                self._write("resOpFailedEvent", failed)
            return
        self.counts.add(step)
        reported = step.res.custom or step.op in ("delete", "refresh")
        if reported and not internal:
            op = step.found if step.op == "refresh" and self._refresh_only else step.op
            self._write("resOutputsEvent", {"metadata": _metadata(step, op)})

    def outputs(self, resource: Resource, old: Resource | None) -> None:  # noqa: ARG002 - a Listener's
        """Print that a component's or the stack's outputs came."""
        step = self._steps.get(resource.urn)
        if step is not None:
            self._write("resOutputsEvent", {"metadata": _metadata(step, step.op)})

    def diagnostic(self, diagnostic: Diagnostic) -> None:
        """Print a message."""
        written: dict[str, Any] = {}
        if diagnostic.urn:
            written["urn"] = diagnostic.urn
        if diagnostic.severity in _PREFIXES:
            written["prefix"] = _PREFIXES[diagnostic.severity]
        written |= {
            "message": diagnostic.message + "\n",
            "color": "never",
            "severity": diagnostic.severity,
        }
        self._write("diagnosticEvent", written)

    def finish(self, *, ok: bool) -> None:
        """Print the summary."""
        seconds = math.ceil(time.monotonic() - self._started)
        summary = {
            "maybeCorrupt": False,
            "durationSeconds": seconds,
            "resourceChanges": dict(sorted(self.counts.by_op.items())),
            "PolicyPacks": {},
            "isPreview": False,
            "result": "succeeded" if ok else "failed",
        }
        self._write("summaryEvent", summary)
        self._write("cancelEvent", {})
