"""The ResourceProvider service of a stand-in plugin, over its resources' handlers."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import grpc
from google.protobuf import any_pb2, empty_pb2, struct_pb2
from pulumi.runtime.proto import plugin_pb2, provider_pb2, provider_pb2_grpc, status_pb2
from typing_extensions import override

from tests.sandbox.plugins.checks import autonamed, failures, has_given_name, with_defaults
from tests.sandbox.plugins.conversion import (
    DEFAULTS_KEY,
    State,
    outputs,
    recorded_state,
    to_terraform,
)
from tests.sandbox.plugins.differ import detailed_diff
from tests.sandbox.plugins.faults import BadRuleError, Faults, InjectedFailureError, split_urn
from tests.sandbox.plugins.planning import plan
from tests.sandbox.plugins.refresh import imported_inputs, refreshed, refreshed_inputs
from tests.sandbox.plugins.resource import (
    Handler,
    PartialError,
    PlainError,
    ResourceError,
    applied,
)
from tests.sandbox.plugins.schema import ZERO, Fields, by_pulumi_name
from tests.sandbox.plugins.values import (
    UNKNOWN,
    contains_unknown,
    from_struct,
    make_secret,
    to_struct,
    unwrap,
)

_SEED_BYTES = 32
_SUFFIX_LETTERS = 7
_PROVIDER_ONLY = ("version", "pluginDownloadURL", "__internal", DEFAULTS_KEY)
Invoker = Callable[[Mapping[str, Any]], dict[str, Any]]


class _HalfMadeError(Exception):
    """A resource that exists but is not as it should be: the engine keeps it, with the reason."""

    def __init__(self, identity: str, properties: dict[str, Any], reason: str) -> None:
        super().__init__(reason)
        self.identity = identity
        self.properties = properties


class Plugin:
    """What a stand-in is made of: its package's name and version, its handlers, its config."""

    # Whether the real plugin names the changed properties in detail, with their kinds.
    detailed = True

    def __init__(self, package: str, version: str, config: Fields) -> None:
        self.package = package
        self.version = version
        self.config = config
        self.handlers: dict[str, Handler] = {}
        self.invokers: dict[str, Invoker] = {}

    def configure(self, config: Mapping[str, Any]) -> None:
        """Take the provider's configuration (Pulumi names, plain values)."""
        raise NotImplementedError


class Provider(provider_pb2_grpc.ResourceProviderServicer):
    """The gRPC service; every refusal is an error of code UNKNOWN, as the real plugins send."""

    def __init__(self, plugin: Plugin, faults: Faults | None = None) -> None:
        self._plugin = plugin
        self._faults = faults or Faults()

    @override
    def GetPluginInfo(
        self, request: empty_pb2.Empty, context: grpc.ServicerContext
    ) -> plugin_pb2.PluginInfo:
        """Tell the version that the stand-in stands in for."""
        return plugin_pb2.PluginInfo(version=self._plugin.version)

    @override
    def CheckConfig(
        self, request: provider_pb2.CheckRequest, context: grpc.ServicerContext
    ) -> provider_pb2.CheckResponse:
        """Refuse configuration that the stand-in does not know, by name."""
        news = from_struct(request.news)
        known = {key: value for key, value in news.items() if key not in _PROVIDER_ONLY}
        name = split_urn(request.urn)[1]
        wrong = failures(name, _decoded(known, self._plugin.config), self._plugin.config)
        return provider_pb2.CheckResponse(
            inputs=to_struct(_with_secrets(news, self._plugin.config)),
            failures=[
                provider_pb2.CheckFailure(
                    reason=f"could not validate provider configuration: {failure.reason}"
                )
                for failure in wrong
            ],
        )

    @override
    def DiffConfig(
        self, request: provider_pb2.DiffRequest, context: grpc.ServicerContext
    ) -> provider_pb2.DiffResponse:
        """Compare configurations: a provider changes in place, never by replacement."""
        olds, news = from_struct(request.old_inputs), from_struct(request.news)
        keys = sorted(
            key for key in {*olds, *news} - set(_PROVIDER_ONLY) if olds.get(key) != news.get(key)
        )
        some = provider_pb2.DiffResponse.DIFF_SOME
        none = provider_pb2.DiffResponse.DIFF_NONE
        return provider_pb2.DiffResponse(changes=some if keys else none, diffs=keys)

    @override
    def Configure(
        self, request: provider_pb2.ConfigureRequest, context: grpc.ServicerContext
    ) -> provider_pb2.ConfigureResponse:
        """Take the configuration; secrets and outputs arrive unwrapped, as the real one asks."""
        with _reported(context):
            config = unwrap(_configuration(request, self._plugin.package))
            self._plugin.configure(_decoded(config, self._plugin.config))
        return provider_pb2.ConfigureResponse(supportsPreview=True)

    @override
    def Check(
        self, request: provider_pb2.CheckRequest, context: grpc.ServicerContext
    ) -> provider_pb2.CheckResponse:
        """Check inputs and add defaults."""
        with _reported(context):
            handler = self._handler(request.urn, "Check")
            with self._faulty("check", request.urn):
                given = from_struct(request.news)
                fields = handler.schema.fields
                news = _named(request, given, fields)
                wrong = failures(split_urn(request.urn)[1], news, fields)
                inputs = news if wrong else with_defaults(news, fields)
                made = {key for key in news if key not in given}
                if made and not wrong:
                    inputs[DEFAULTS_KEY] = sorted({*inputs[DEFAULTS_KEY], *made})
        return provider_pb2.CheckResponse(
            inputs=to_struct(inputs),
            failures=[provider_pb2.CheckFailure(reason=failure.reason) for failure in wrong],
        )

    @override
    def Diff(
        self, request: provider_pb2.DiffRequest, context: grpc.ServicerContext
    ) -> provider_pb2.DiffResponse:
        """Decide between nothing, update and replacement, and name the properties."""
        with _reported(context):
            handler = self._handler(request.urn, "Diff")
            with self._faulty("diff", request.urn):
                fields = handler.schema.fields
                news = _plain(request.news)
                _ignore(news, _plain(request.olds), request.ignoreChanges)
                prior = recorded_state(_plain(request.olds), fields)
                planned = plan(prior, to_terraform(news, fields), fields)
                changes = detailed_diff(prior, planned, news, fields)
        delete_first = handler.schema.delete_before_replace or has_given_name(news, fields)
        response = _diff_response(changes, delete_first)
        if not self._plugin.detailed:
            response.ClearField("detailedDiff")
            response.hasDetailedDiff = False
        return response

    @override
    def Create(
        self, request: provider_pb2.CreateRequest, context: grpc.ServicerContext
    ) -> provider_pb2.CreateResponse:
        """Create a resource, or say what a preview can know of it."""
        with _reported(context):
            handler = self._handler(request.urn, "Create")
            schema = handler.schema
            config = to_terraform(_plain(request.properties), schema.fields)
            planned = plan(None, config, schema.fields)
            if request.preview:
                return provider_pb2.CreateResponse(
                    properties=to_struct(_preview_outputs(handler, planned))
                )
            with self._faulty("create", request.urn):
                identity, properties = self._create(handler, planned, request.urn)
        return provider_pb2.CreateResponse(id=identity, properties=to_struct(properties))

    def _create(self, handler: Handler, planned: State, urn: str) -> tuple[str, dict[str, Any]]:
        try:
            identity = handler.create(planned)
        except PartialError as error:
            state = _known(applied(planned, {}, handler.schema.fields))
            made = outputs(handler.schema, error.identity, state)
            reason = f"creating {urn}: {_one_error(str(error))}"
            raise _HalfMadeError(error.identity, made, reason) from error
        seen = handler.read(identity, planned)
        if seen is None:
            raise ResourceError("the resource was gone right after it was created; run again")
        state = applied(planned, seen[1], handler.schema.fields)
        properties = outputs(handler.schema, seen[0], state)
        self._trip_partial("create", urn, seen[0], properties)
        return seen[0], properties

    @override
    def Read(
        self, request: provider_pb2.ReadRequest, context: grpc.ServicerContext
    ) -> provider_pb2.ReadResponse:
        """Tell the live state of a resource, or that it is gone."""
        with _reported(context, f"refreshing {request.urn}: "):
            handler = self._handler(request.urn, "Read")
            with self._faulty("read", request.urn):
                fields = handler.schema.fields
                recorded = _plain(request.properties)
                state = recorded_state(recorded, fields) if recorded else {}
                seen = handler.read(request.id, state) if recorded else handler.imported(request.id)
                if seen is None:
                    return provider_pb2.ReadResponse()
                fresh = refreshed(state, seen[1], fields)
                properties = outputs(handler.schema, seen[0], fresh)
                inputs = (
                    refreshed_inputs(from_struct(request.inputs), properties, fields)
                    if recorded
                    else imported_inputs(properties, fields)
                )
        return provider_pb2.ReadResponse(
            id=seen[0], properties=to_struct(properties), inputs=to_struct(inputs)
        )

    @override
    def Update(
        self, request: provider_pb2.UpdateRequest, context: grpc.ServicerContext
    ) -> provider_pb2.UpdateResponse:
        """Apply a change in place."""
        with _reported(context):
            handler = self._handler(request.urn, "Update")
            fields = handler.schema.fields
            news, olds = _plain(request.news), _plain(request.olds)
            _ignore(news, olds, request.ignoreChanges)
            prior = recorded_state(olds, fields)
            planned = plan(prior, to_terraform(news, fields), fields)
            _refuse_replacement(detailed_diff(prior, planned, news, fields), request.urn)
            if request.preview:
                properties = outputs(handler.schema, request.id, refreshed(planned, {}, fields))
            else:
                with self._faulty("update", request.urn):
                    properties = self._update(handler, request, prior, planned)
        return provider_pb2.UpdateResponse(properties=to_struct(properties))

    def _update(
        self,
        handler: Handler,
        request: provider_pb2.UpdateRequest,
        prior: State,
        planned: State,
    ) -> dict[str, Any]:
        try:
            seen = handler.update(request.id, prior, planned)
        except ResourceError as error:
            fields = handler.schema.fields
            left = refreshed(_zeroed(prior, planned, fields), {}, fields)
            made = outputs(handler.schema, request.id, left)
            reason = f"updating {request.urn}: {_one_error(str(error))}"
            raise _HalfMadeError(request.id, made, reason) from error
        identity, actual = seen or (request.id, {})
        state = refreshed(
            _zeroed(prior, planned, handler.schema.fields), actual, handler.schema.fields
        )
        properties = outputs(handler.schema, identity, state)
        self._trip_partial("update", request.urn, identity, properties)
        return properties

    @override
    def Delete(
        self, request: provider_pb2.DeleteRequest, context: grpc.ServicerContext
    ) -> empty_pb2.Empty:
        """Delete a resource."""
        with _reported(context, f"deleting {request.urn}: "):
            handler = self._handler(request.urn, "Delete")
            with self._faulty("delete", request.urn):
                fields = handler.schema.fields
                state = recorded_state(_plain(request.properties), fields)
                handler.delete(request.id, state)
        return empty_pb2.Empty()

    @override
    def Invoke(
        self, request: provider_pb2.InvokeRequest, context: grpc.ServicerContext
    ) -> provider_pb2.InvokeResponse:
        """Call a function."""
        with _reported(context, f"invoking {request.tok}: "):
            invoker = self._plugin.invokers.get(request.tok)
            if invoker is None:
                raise ResourceError(
                    f"{request.tok} is not supported by the sandbox's stand-in plugin"
                )
            result = to_struct(invoker(_plain(request.args)))
        response = provider_pb2.InvokeResponse()
        # The field is named by a word that Python keeps for itself.
        getattr(response, "return").CopyFrom(result)
        return response

    @override
    def Cancel(self, request: empty_pb2.Empty, context: grpc.ServicerContext) -> empty_pb2.Empty:
        """Operations are short: there is nothing to cancel, as in the real plugin."""
        return empty_pb2.Empty()

    def _handler(self, urn: str, method: str) -> Handler:
        token = split_urn(urn)[0]
        handler = self._plugin.handlers.get(token)
        if handler is None:
            raise ResourceError(
                f"unrecognized resource type ({method}): {token} (the sandbox's stand-in for "
                f"{self._plugin.package} knows {', '.join(sorted(self._plugin.handlers))})"
            )
        return handler

    @contextmanager
    def _faulty(self, operation: str, urn: str) -> Iterator[None]:
        self._faults.trip(operation, urn, "before")
        yield
        self._faults.trip(operation, urn, "after")

    def _trip_partial(
        self, operation: str, urn: str, identity: str, properties: dict[str, Any]
    ) -> None:
        try:
            self._faults.trip(operation, urn, "partial")
        except InjectedFailureError as failure:
            raise _HalfMadeError(identity, properties, str(failure)) from failure


def _named(
    request: provider_pb2.CheckRequest, given: dict[str, Any], fields: Fields
) -> dict[str, Any]:
    """Return the inputs with a name made for the resource, if it is to have one and has none."""
    seed = request.randomSeed or os.urandom(_SEED_BYTES)
    suffix = hashlib.sha256(seed).hexdigest()[:_SUFFIX_LETTERS]
    olds = from_struct(request.olds)
    return autonamed(given, olds, split_urn(request.urn)[1], suffix, fields)


def _plain(struct: struct_pb2.Struct) -> dict[str, Any]:
    return dict(unwrap(from_struct(struct)))


def _refuse_replacement(changes: Mapping[str, str], urn: str) -> None:
    """Refuse an update that would have to replace: the engine asked without a diff."""
    if any(kind.endswith("-replace") for kind in changes.values()):
        raise PlainError(
            "internal: expected diff to not require deletion or replacement during Update of "
            f"{urn}. Found delete=false, replace=true. This indicates a bug in provider."
        )


def _zeroed(prior: State, planned: State, fields: Fields) -> State:
    """Return the state after an update: what the inputs no longer set is a zero, not null."""
    return {
        name: ZERO[attribute.kind]
        if planned[name] is None and prior[name] is not None and not attribute.is_array
        else planned[name]
        for name, attribute in fields.items()
    }


def _known(state: State) -> State:
    return {name: None if contains_unknown(value) else value for name, value in state.items()}


def _preview_outputs(handler: Handler, planned: State) -> dict[str, Any]:
    return outputs(handler.schema, UNKNOWN, planned)


def _ignore(news: dict[str, Any], olds: Mapping[str, Any], paths: Sequence[str]) -> None:
    """Put the recorded value in the place of properties whose changes are to be ignored."""
    for path in paths:
        steps = [_step(part) for part in re.findall(r'[^.\[\]"]+', path)]
        target: Any = news
        source: Any = olds
        for step in steps[:-1]:
            target, source = _inside(target, step), _inside(source, step)
        last = steps[-1]
        recorded = _inside(source, last)
        settable = isinstance(target, dict) or _inside(target, last) is not None
        if recorded is not None and settable:
            target[last] = recorded


def _step(part: str) -> str | int:
    return int(part) if part.isdigit() else part


def _inside(value: Any, step: str | int) -> Any:
    if isinstance(value, dict):
        return value.get(step)
    inside = isinstance(value, list) and isinstance(step, int) and step < len(value)
    return value[step] if inside else None


def _configuration(request: provider_pb2.ConfigureRequest, package: str) -> dict[str, Any]:
    """Return the configuration of a request; old engines send it as variables only."""
    if request.args.fields:
        return from_struct(request.args)
    prefix = f"{package}:config:"
    return {
        key.removeprefix(prefix): value
        for key, value in request.variables.items()
        if key.startswith(prefix)
    }


def _with_secrets(config: Mapping[str, Any], fields: Fields) -> dict[str, Any]:
    """Return configuration with its secret values marked as such, as the real plugins do."""
    known = by_pulumi_name(fields)
    return {
        key: make_secret(value) if key in known and known[key][1].secret else value
        for key, value in config.items()
    }


def _decoded(config: Mapping[str, Any], fields: Fields) -> dict[str, Any]:
    """Return configuration with its nested values read from JSON, as the SDK sends them."""
    known = by_pulumi_name(fields)
    result: dict[str, Any] = {}
    for key, value in config.items():
        if key in _PROVIDER_ONLY:
            continue
        nested = key in known and known[key][1].is_array and isinstance(value, str)
        result[key] = json.loads(value) if nested else value
    return result


def _diff_response(changes: dict[str, str], delete_first: bool) -> provider_pb2.DiffResponse:
    def top(path: str) -> str:
        return path.split("[", 1)[0].split(".", 1)[0]

    kinds = provider_pb2.PropertyDiff.Kind
    replaces = sorted(top(path) for path, kind in changes.items() if kind.endswith("-replace"))
    some, none = provider_pb2.DiffResponse.DIFF_SOME, provider_pb2.DiffResponse.DIFF_NONE
    return provider_pb2.DiffResponse(
        changes=some if changes else none,
        replaces=replaces,
        deleteBeforeReplace=bool(replaces) and delete_first,
        diffs=sorted({top(path) for path in changes}),
        detailedDiff={
            path: provider_pb2.PropertyDiff(kind=kinds.Value(kind.upper().replace("-", "_")))
            for path, kind in changes.items()
        },
        hasDetailedDiff=True,
    )


def _one_error(message: str) -> str:
    return f"1 error occurred:\n\t* {message}\n\n"


@contextmanager
def _reported(context: grpc.ServicerContext, prefix: str = "") -> Iterator[None]:
    """Turn errors into the status that the engine expects of them."""
    try:
        yield
    except _HalfMadeError as error:
        _abort_half_made(context, error)
    except ResourceError as error:
        context.abort(grpc.StatusCode.UNKNOWN, f"{prefix}{_one_error(str(error))}")
    except (InjectedFailureError, BadRuleError, PlainError) as error:
        context.abort(grpc.StatusCode.UNKNOWN, f"{prefix}{error}")


def _abort_half_made(context: grpc.ServicerContext, error: _HalfMadeError) -> NoReturn:
    detail = any_pb2.Any()
    detail.Pack(
        provider_pb2.ErrorResourceInitFailed(
            id=error.identity, properties=to_struct(error.properties), reasons=[str(error)]
        )
    )
    unknown = grpc.StatusCode.UNKNOWN
    status = status_pb2.Status(code=int(unknown.value[0]), message=str(error), details=[detail])
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    context.abort(unknown, str(error))
