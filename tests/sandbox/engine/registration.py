"""Reading what a program's SDK sends: goals from RegisterResource requests."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from pulumi.runtime.proto import alias_pb2, resource_pb2

from tests.sandbox.engine.errors import RefusedError
from tests.sandbox.engine.goals import AliasSpec, Goal
from tests.sandbox.engine.state import is_provider_type
from tests.sandbox.engine.values import from_struct

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(h|ms|m|s)")
_UNIT_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


def duration_seconds(text: str) -> float:
    """Read a Go duration such as `1h30m`; raises RefusedError where it is none."""
    if not text or _DURATION.sub("", text):
        raise RefusedError(f"unable to parse customTimeout value {text!r}; write it like 5m or 90s")
    return sum(float(amount) * _UNIT_SECONDS[unit] for amount, unit in _DURATION.findall(text))


def read_alias(alias: alias_pb2.Alias) -> AliasSpec:
    """Read an alias."""
    if alias.WhichOneof("alias") == "urn":
        return AliasSpec(urn=alias.urn)
    spec = alias.spec
    return AliasSpec(
        name=spec.name,
        type=spec.type,
        stack=spec.stack,
        project=spec.project,
        parent=spec.parentUrn,
        no_parent=spec.noParent,
    )


class Positions:
    """Turns the SDK's source positions into the state's, relative to the project."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def one(self, position: Any) -> str:
        """Write one position as `project:///file#line`."""
        parts = urlsplit(position.uri)
        if parts.scheme != "file" or not parts.path.startswith("/"):
            return ""
        relative = os.path.relpath(unquote(parts.path), self._root)
        column = f",{position.column}" if position.column else ""
        return f"project:///{relative}#{position.line}{column}"

    def trace(self, trace: Any) -> list[dict[str, str]]:
        """Write a stack trace; frames without a file stay empty."""
        written = (self.one(frame.pc) for frame in trace.frames)
        return [{"sourcePosition": position} if position else {} for position in written]


def refuse_unknown_options(request: resource_pb2.RegisterResourceRequest) -> None:
    """Refuse by name the options that this engine does not know."""
    refused = {
        "remote components": request.remote,
        "import_": bool(request.importId),
        "transforms": bool(request.transforms),
        "hooks": any(names for _, names in request.hooks.ListFields()),
        "package references": bool(request.packageRef),
        "state migrations": bool(getattr(request, "state_migrations", ())),
    }
    names = [name for name, used in refused.items() if used]
    if names:
        raise RefusedError(
            f"resource {request.name!r}: this engine does not know {', '.join(names)}; "
            "use the real Pulumi CLI"
        )


def read_goal(request: resource_pb2.RegisterResourceRequest, positions: Positions) -> Goal:
    """Read a RegisterResource request, but for its provider."""
    refuse_unknown_options(request)
    inputs = from_struct(request.object)
    dependencies = list(dict.fromkeys(request.dependencies))
    by_property = {key: list(d.urns) for key, d in request.propertyDependencies.items()}
    if not by_property:
        by_property = dict.fromkeys(inputs, dependencies)
    for key in inputs:
        by_property.setdefault(key, [])
    if is_provider_type(request.type) and request.version:
        inputs = {**inputs, "version": request.version, "__internal": {}}
    defined = request.deleteBeforeReplaceDefined or request.deleteBeforeReplace
    timeouts = request.customTimeouts
    trigger = None
    if request.HasField("replacement_trigger"):
        wrapped = resource_pb2.RegisterResourceRequest()
        wrapped.object.fields["value"].CopyFrom(request.replacement_trigger)
        trigger = from_struct(wrapped.object)["value"]
    return Goal(
        type=request.type,
        name=request.name,
        custom=request.custom,
        inputs=inputs,
        parent=request.parent,
        protect=request.protect if request.HasField("protect") else None,
        dependencies=dependencies,
        property_dependencies=by_property,
        delete_before_replace=request.deleteBeforeReplace if defined else None,
        ignore_changes=list(request.ignoreChanges),
        additional_secret_outputs=list(request.additionalSecretOutputs),
        aliases=[
            *(AliasSpec(urn=urn) for urn in request.aliasURNs),
            *(read_alias(alias) for alias in request.aliases),
        ],
        custom_timeouts={
            kind: duration_seconds(getattr(timeouts, kind))
            for kind in ("create", "update", "delete", "read")
            if getattr(timeouts, kind)
        },
        replace_on_changes=list(request.replaceOnChanges),
        replacement_trigger=trigger,
        retain_on_delete=request.retainOnDelete if request.HasField("retainOnDelete") else None,
        deleted_with=request.deletedWith,
        replace_with=list(request.replace_with),
        source_position=positions.one(request.sourcePosition),
        stack_trace=positions.trace(request.stackTrace),
    )


def inherit(goal: Goal, parent: Goal) -> None:
    """Take over from the parent what the child leaves open."""
    goal.deleted_with = goal.deleted_with or parent.deleted_with
    if goal.protect is None:
        goal.protect = parent.protect
    if goal.retain_on_delete is None:
        goal.retain_on_delete = parent.retain_on_delete
