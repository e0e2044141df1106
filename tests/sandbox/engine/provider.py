"""The ResourceProvider service as the engine calls it.

What each call sends and expects follows sdk/go/common/resource/plugin/provider_plugin.go.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf import empty_pb2, struct_pb2
from pulumi.runtime.proto import provider_pb2, provider_pb2_grpc, status_pb2

from tests.sandbox.engine.errors import EngineError
from tests.sandbox.engine.values import (
    Properties,
    annotate_secrets,
    contains_unknown,
    from_struct,
    to_struct,
    unwrap,
)

_CALL_CANCEL_SECONDS = 2


class ProviderError(EngineError):
    """A provider's refusal; a partial one left a resource behind (`state`)."""

    def __init__(self, message: str, state: PartialState | None = None) -> None:
        super().__init__(message)
        self.state = state


@dataclass(frozen=True)
class PartialState:
    """What exists of a resource whose create or update failed in its initialization."""

    id: str
    outputs: Properties
    inputs: Properties | None
    reasons: list[str]


@dataclass(frozen=True)
class Diff:
    """A provider's verdict on old and new."""

    changes: bool | None
    replaces: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    detailed: dict[str, tuple[str, bool]] | None = None
    delete_before_replace: bool = False

    @property
    def replace(self) -> bool:
        """Whether the resource must be replaced."""
        return bool(self.replaces)


@dataclass(frozen=True)
class Subject:
    """The resource that a call is about."""

    urn: str
    name: str
    type: str
    id: str = ""


@dataclass(frozen=True)
class ReadResult:
    """What a read found; no id: the resource is gone."""

    id: str
    outputs: Properties
    inputs: Properties | None
    reasons: list[str]


_KINDS = {
    provider_pb2.PropertyDiff.ADD: "add",
    provider_pb2.PropertyDiff.ADD_REPLACE: "add-replace",
    provider_pb2.PropertyDiff.DELETE: "delete",
    provider_pb2.PropertyDiff.DELETE_REPLACE: "delete-replace",
    provider_pb2.PropertyDiff.UPDATE: "update",
    provider_pb2.PropertyDiff.UPDATE_REPLACE: "update-replace",
}


def _read_diff(response: provider_pb2.DiffResponse) -> Diff:
    changes = {
        provider_pb2.DiffResponse.DIFF_NONE: False,
        provider_pb2.DiffResponse.DIFF_SOME: True,
    }.get(response.changes)
    detailed = None
    if response.hasDetailedDiff:
        detailed = {
            path: (_KINDS[diff.kind], diff.inputDiff)
            for path, diff in response.detailedDiff.items()
        }
    return Diff(
        changes,
        list(response.replaces),
        list(response.diffs),
        detailed,
        response.deleteBeforeReplace,
    )


def _partial(call: Any) -> PartialState | None:
    for key, value in call.trailing_metadata() or ():
        if key != "grpc-status-details-bin":
            continue
        for detail in status_pb2.Status.FromString(value).details:
            failure = provider_pb2.ErrorResourceInitFailed()
            if detail.Is(failure.DESCRIPTOR) and detail.Unpack(failure):
                inputs = from_struct(failure.inputs) if failure.HasField("inputs") else None
                outputs = from_struct(failure.properties)
                return PartialState(failure.id, outputs, inputs, list(failure.reasons))
    return None


class Provider:
    """A configured plugin as the engine calls it."""

    def __init__(self, stub: provider_pb2_grpc.ResourceProviderStub) -> None:
        self._stub = stub
        self.known = False
        self._secrets = False
        self._references = False
        self._previews = False
        self._refusal: ProviderError | None = None

    def _ready(self) -> None:
        if self._refusal is not None:
            raise self._refusal

    def _call(self, method: Callable[..., Any], request: Any) -> Any:
        try:
            return method(request)
        except grpc.RpcError as error:
            # Every RpcError of a stub is a Call too; the stubs' types do not say so.
            call: Any = error
            partial = _partial(call)
            message = call.details() or "unknown error"
            if partial is not None and partial.reasons:
                message = _listed(partial.reasons)
            raise ProviderError(message, partial) from error

    def _struct(self, properties: Mapping[str, Any], *, unknowns: bool = True) -> struct_pb2.Struct:
        return to_struct(
            properties, secrets=self._secrets, references=self._references, unknowns=unknowns
        )

    def _received(self, struct: struct_pb2.Struct, source: Mapping[str, Any]) -> Properties:
        properties = from_struct(struct)
        if not self._secrets:
            annotate_secrets(properties, source)
        return properties

    def check_config(
        self, subject: Subject, olds: Properties, news: Properties
    ) -> tuple[Properties, list[tuple[str, str]]]:
        """Validate a provider's own inputs; without CheckConfig they are taken as they are."""
        request = provider_pb2.CheckRequest(
            urn=subject.urn,
            name=subject.name,
            type=subject.type,
            olds=to_struct(olds, secrets=False),
        )
        request.news.CopyFrom(to_struct(news, secrets=False))
        try:
            response = self._stub.CheckConfig(request)
        except grpc.RpcError as error:
            if _unimplemented(error):
                return dict(news), []
            raise _refused(error) from error
        inputs = from_struct(response.inputs)
        annotate_secrets(inputs, news)
        return inputs, [(f.property, f.reason) for f in response.failures]

    def diff_config(
        self, subject: Subject, old_inputs: Properties, old_outputs: Properties, news: Properties
    ) -> Diff:
        """Compare a provider's own inputs; without DiffConfig the verdict is open."""
        request = provider_pb2.DiffRequest(
            id=subject.id,
            urn=subject.urn,
            name=subject.name,
            type=subject.type,
            olds=to_struct(old_outputs, secrets=False),
            news=to_struct(news, secrets=False),
            old_inputs=to_struct(old_inputs, secrets=False),
        )
        try:
            return _read_diff(self._stub.DiffConfig(request))
        except grpc.RpcError as error:
            if _unimplemented(error):
                return Diff(None)
            raise _refused(error) from error

    def configure(self, subject: Subject, package: str, inputs: Properties) -> None:
        """Configure the plugin; with unknown inputs it stays unconfigured.

        A refusal comes out at the first call that needs the configuration.
        """
        if contains_unknown(inputs):
            return
        plain = unwrap(inputs)
        variables = {
            f"{package}:config:{key}": value if isinstance(value, str) else json.dumps(value)
            for key, value in plain.items()
            if key != "version"
        }
        request = provider_pb2.ConfigureRequest(
            variables=variables,
            args=to_struct(inputs),
            acceptSecrets=True,
            acceptResources=True,
            sends_old_inputs=True,
            sends_old_inputs_to_delete=True,
            id=subject.id,
            urn=subject.urn,
            name=subject.name,
            type=subject.type,
        )
        self.known = True
        try:
            response = self._call(self._stub.Configure, request)
        except ProviderError as error:
            self._refusal = error
            return
        self._secrets = response.acceptSecrets
        self._references = response.acceptResources
        self._previews = response.supportsPreview

    def check(
        self, subject: Subject, olds: Properties, news: Properties, *, seed: bytes
    ) -> tuple[Properties, list[tuple[str, str]]]:
        """Validate inputs and fill in defaults: (inputs, [(property, reason)])."""
        self._ready()
        if not self.known:
            return dict(news), []
        request = provider_pb2.CheckRequest(
            urn=subject.urn,
            name=subject.name,
            type=subject.type,
            olds=self._struct(olds),
            news=self._struct(news),
            randomSeed=seed,
        )
        response = self._call(self._stub.Check, request)
        failures = [(f.property, f.reason) for f in response.failures]
        return self._received(response.inputs, news), failures

    def diff(
        self,
        subject: Subject,
        old: tuple[Properties, Properties],
        news: Properties,
        *,
        ignore_changes: list[str],
    ) -> Diff:
        """Compare: `old` is (inputs, outputs)."""
        self._ready()
        request = provider_pb2.DiffRequest(
            id=subject.id,
            urn=subject.urn,
            name=subject.name,
            type=subject.type,
            olds=self._struct(old[1]),
            news=self._struct(news),
            old_inputs=self._struct(old[0]),
            ignoreChanges=ignore_changes,
        )
        return _read_diff(self._call(self._stub.Diff, request))

    def create(
        self, subject: Subject, inputs: Properties, *, timeout: float, preview: bool
    ) -> tuple[str, Properties]:
        """Create the resource: (id, outputs); raises ProviderError."""
        self._ready()
        if preview and not self._previews:
            return "", dict(inputs) if self.known else {}
        request = provider_pb2.CreateRequest(
            urn=subject.urn,
            name=subject.name,
            type=subject.type,
            properties=self._struct(inputs, unknowns=preview),
            timeout=timeout,
            preview=preview,
        )
        response = self._call(self._stub.Create, request)
        if not response.id and not preview:
            raise ProviderError(f"plugin returned empty resource.ID from create '{subject.urn}'")
        return response.id, self._received(response.properties, inputs)

    def update(
        self,
        subject: Subject,
        old: tuple[Properties, Properties],
        news: Properties,
        *,
        ignore_changes: list[str],
        timeout: float,
        preview: bool,
    ) -> Properties:
        """Update in place: the outputs; raises ProviderError."""
        self._ready()
        if preview and not self._previews:
            return dict(news) if self.known else {}
        request = provider_pb2.UpdateRequest(
            id=subject.id,
            urn=subject.urn,
            name=subject.name,
            type=subject.type,
            olds=self._struct(old[1]),
            news=self._struct(news, unknowns=preview),
            old_inputs=self._struct(old[0]),
            ignoreChanges=ignore_changes,
            timeout=timeout,
            preview=preview,
        )
        return self._received(self._call(self._stub.Update, request).properties, news)

    def read(self, subject: Subject, inputs: Properties, outputs: Properties) -> ReadResult:
        """Read the live state; raises ProviderError."""
        self._ready()
        if not self.known:
            return ReadResult(subject.id, {}, {}, [])
        request = provider_pb2.ReadRequest(
            id=subject.id,
            urn=subject.urn,
            name=subject.name,
            type=subject.type,
            properties=self._struct(outputs),
            inputs=self._struct(inputs),
        )
        try:
            response = self._call(self._stub.Read, request)
        except ProviderError as error:
            if (partial := error.state) is None:
                raise
            return ReadResult(partial.id, partial.outputs, partial.inputs, partial.reasons)
        live = None
        if response.HasField("inputs"):
            live = self._received(response.inputs, inputs)
        return ReadResult(response.id, self._received(response.properties, outputs), live, [])

    def delete(
        self, subject: Subject, inputs: Properties, outputs: Properties, *, timeout: float
    ) -> None:
        """Delete the resource; raises ProviderError."""
        self._ready()
        request = provider_pb2.DeleteRequest(
            id=subject.id,
            urn=subject.urn,
            name=subject.name,
            type=subject.type,
            properties=self._struct(outputs),
            old_inputs=self._struct(inputs),
            timeout=timeout,
        )
        self._call(self._stub.Delete, request)

    def invoke(self, token: str, args: Properties, *, preview: bool) -> tuple[Properties, Any]:
        """Call a function: (result, [(property, reason)])."""
        self._ready()
        request = provider_pb2.InvokeRequest(tok=token, args=self._struct(args), preview=preview)
        response = self._call(self._stub.Invoke, request)
        result = from_struct(getattr(response, "return"))
        return result, [(f.property, f.reason) for f in response.failures]

    def cancel(self) -> None:
        """Tell the plugin to give up what it is doing."""
        with contextlib.suppress(grpc.RpcError):
            self._stub.Cancel(empty_pb2.Empty(), timeout=_CALL_CANCEL_SECONDS)


def _listed(reasons: list[str]) -> str:
    """Write several errors as the real engine's library does."""
    count = len(reasons)
    head = f"{count} error{'s' if count > 1 else ''} occurred:"
    return "\n".join([head, *(f"\t* {reason}" for reason in reasons)])


def _unimplemented(call: Any) -> bool:
    return bool(call.code() == grpc.StatusCode.UNIMPLEMENTED)


def _refused(call: Any) -> ProviderError:
    return ProviderError(call.details() or "unknown error")
