"""The services that a program talks to: ResourceMonitor and Engine.

Follows pkg/resource/deploy/source_eval.go. A call puts an event into the deployment's queue and
waits for its promise; where the update is cancelled, it ends as UNAVAILABLE.
"""

# ruff: noqa: ARG002 - the signatures are those of the services

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent import futures
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import grpc
from google.protobuf import empty_pb2
from pulumi.runtime.proto import (
    engine_pb2,
    engine_pb2_grpc,
    provider_pb2,
    resource_pb2,
    resource_pb2_grpc,
)

from tests.sandbox.engine.errors import EngineError
from tests.sandbox.engine.events import Diagnostic, Severity
from tests.sandbox.engine.goals import (
    Event,
    Goal,
    OutputsEvent,
    Promise,
    ReadEvent,
    Refusal,
    RegisterEvent,
)
from tests.sandbox.engine.plugins import CHANNEL_OPTIONS, DYNAMIC
from tests.sandbox.engine.registration import Positions, inherit, read_goal
from tests.sandbox.engine.registry import Registry, package_of
from tests.sandbox.engine.state import is_provider_type, provider_urn, urn_type
from tests.sandbox.engine.values import Properties, Secret, contains_unknown, from_struct, to_struct

_FEATURES = {
    "secrets",
    "resourceReferences",
    "outputValues",
    "aliasSpecs",
    "replacementTrigger",
    "deletedWith",
    "replaceWith",
    "transforms",
    "invokeTransforms",
    "parameterization",
    "resourceHooks",
    "errorHooks",
    "sendsOptionsToHooks",
}
# A call occupies a thread while it waits; a program registers everything at once.
_THREADS = 512
_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class StackInfo:
    """What a program may ask about its deployment."""

    project: str
    stack: str
    config: dict[str, str]
    secret_keys: list[str]
    preview: bool
    parallel: int
    root: Path


class Inbox:
    """The deployment's queue and the flag that ends all waiting."""

    def __init__(self) -> None:
        self.events: queue.Queue[Event] = queue.Queue()
        self.cancelled = threading.Event()

    def ask(self, event: RegisterEvent | ReadEvent | OutputsEvent) -> Promise | None:
        """Put an event in and wait; None where the update was cancelled meanwhile."""
        if self.cancelled.is_set():
            return None
        self.events.put(event)
        while not event.done.wait(_POLL_SECONDS):
            if self.cancelled.is_set():
                return None
        return event.done


class DefaultProviders:
    """Registers the provider of a package and version that nobody declared."""

    def __init__(self, inbox: Inbox, info: StackInfo) -> None:
        self._inbox = inbox
        self._info = info
        self._references: dict[tuple[str, str, str], str] = {}
        self._lock = threading.Lock()

    def _inputs(self, package: str) -> Properties:
        found: Properties = {}
        for key, value in self._info.config.items():
            namespace, name = key.split(":", 1)
            if package in (DYNAMIC, namespace):
                wrapped = Secret(value) if key in self._info.secret_keys else value
                found[key if package == DYNAMIC else name] = wrapped
        return found

    def reference(self, package: str, version: str, url: str) -> str | None:
        """Find or register the provider: its reference, or None if cancelled."""
        with self._lock:
            key = (package, version, url)
            if key in self._references:
                return self._references[key]
            inputs, name = self._inputs(package), "default"
            if version:
                inputs |= {"version": version, "__internal": {}}
                name += "_" + version.replace(".", "_").replace("-", "_").replace("+", "_")
            goal = Goal(f"pulumi:providers:{package}", name, custom=True, inputs=inputs)
            promise = self._inbox.ask(RegisterEvent(goal))
            if promise is None or promise.state is None:
                return None
            self._references[key] = f"{promise.state.urn}::{promise.state.id}"
            return self._references[key]


class Monitor(resource_pb2_grpc.ResourceMonitorServicer):
    """The ResourceMonitor service."""

    def __init__(self, inbox: Inbox, info: StackInfo, registry: Registry) -> None:
        self._inbox = inbox
        self._info = info
        self._registry = registry
        self._defaults = DefaultProviders(inbox, info)
        self._positions = Positions(info.root)
        self._goals: dict[str, Goal] = {}
        self._providers: dict[str, dict[str, str]] = {}

    @staticmethod
    def _down(context: grpc.ServicerContext) -> NoReturn:
        context.abort(grpc.StatusCode.UNAVAILABLE, "resource monitor shut down")
        raise AssertionError

    @staticmethod
    def _fail(context: grpc.ServicerContext, error: Exception) -> NoReturn:
        context.abort(grpc.StatusCode.UNKNOWN, str(error))
        raise AssertionError

    def SupportsFeature(  # noqa: N802
        self, request: resource_pb2.SupportsFeatureRequest, context: grpc.ServicerContext
    ) -> resource_pb2.SupportsFeatureResponse:
        """Tell whether the engine knows a feature."""
        return resource_pb2.SupportsFeatureResponse(hasSupport=request.id in _FEATURES)

    def GetDeploymentInfo(  # noqa: N802
        self, request: empty_pb2.Empty, context: grpc.ServicerContext
    ) -> resource_pb2.DeploymentInfo:
        """Tell all about the deployment at once."""
        names = {f"RESOURCE_MONITOR_FEATURE_{_upper(name)}" for name in _FEATURES}
        known = resource_pb2.ResourceMonitorFeature.items()
        return resource_pb2.DeploymentInfo(
            project=self._info.project,
            stack=self._info.stack,
            organization="organization",
            config=self._info.config,
            configSecretKeys=self._info.secret_keys,
            dryRun=self._info.preview,
            parallel=self._info.parallel,
            supportedFeatures=[number for name, number in known if name in names],
        )

    def _provider_reference(self, request: Any, kind: str) -> str | None:
        """Find the provider of a resource: explicit, of its family, or the default one."""
        package = package_of(kind)
        if request.provider:
            return str(request.provider)
        if chosen := getattr(request, "providers", {}).get(package):
            return str(chosen)
        if chosen := self._providers.get(request.parent, {}).get(package):
            return chosen
        return self._defaults.reference(package, request.version, request.pluginDownloadURL)

    def RegisterResource(  # noqa: N802
        self, request: resource_pb2.RegisterResourceRequest, context: grpc.ServicerContext
    ) -> resource_pb2.RegisterResourceResponse:
        """Register a resource and wait until it is as the program wants it."""
        try:
            goal = read_goal(request, self._positions)
        except EngineError as error:
            self._inbox.events.put(Refusal(str(error)))
            self._inbox.cancelled.wait()
            self._down(context)
        parent = self._goals.get(goal.parent)
        if parent is not None:
            inherit(goal, parent)
        if goal.custom and not is_provider_type(goal.type):
            reference = self._provider_reference(request, goal.type)
            if reference is None:
                self._down(context)
            goal.provider = reference
        promise = self._inbox.ask(RegisterEvent(goal))
        if promise is None:
            self._down(context)
        state = promise.state
        if promise.result != "success" and not request.supportsResultReporting:
            context.abort(grpc.StatusCode.INTERNAL, "resource registration failed")
        if state is None:
            self._down(context)
        self._goals[state.urn] = goal
        if not goal.custom:
            inherited = self._providers.get(goal.parent, {})
            self._providers[state.urn] = {**inherited, **dict(request.providers)}
        outputs = state.outputs if goal.custom else {}
        if not request.supportsPartialValues:
            outputs = {k: v for k, v in outputs.items() if not contains_unknown(v)}
        return resource_pb2.RegisterResourceResponse(
            urn=state.urn,
            id=state.id,
            object=to_struct(
                outputs, secrets=request.acceptSecrets, references=request.acceptResources
            ),
            result=resource_pb2.SUCCESS if promise.result == "success" else resource_pb2.FAIL,
            unknown=promise.unknown,
        )

    def RegisterResourceOutputs(  # noqa: N802
        self, request: resource_pb2.RegisterResourceOutputsRequest, context: grpc.ServicerContext
    ) -> empty_pb2.Empty:
        """Take the outputs of a component or of the stack."""
        event = OutputsEvent(request.urn, from_struct(request.outputs))
        if self._inbox.ask(event) is None:
            self._down(context)
        return empty_pb2.Empty()

    def ReadResource(  # noqa: N802
        self, request: resource_pb2.ReadResourceRequest, context: grpc.ServicerContext
    ) -> resource_pb2.ReadResourceResponse:
        """Read a resource that the stack does not own."""
        reference = self._provider_reference(request, request.type)
        if reference is None:
            self._down(context)
        goal = Goal(
            type=request.type,
            name=request.name,
            custom=True,
            inputs=from_struct(request.properties),
            parent=request.parent,
            dependencies=list(request.dependencies),
            provider=reference,
            additional_secret_outputs=list(request.additionalSecretOutputs),
            source_position=self._positions.one(request.sourcePosition),
            stack_trace=self._positions.trace(request.stackTrace),
        )
        promise = self._inbox.ask(ReadEvent(goal, request.id))
        if promise is None or promise.state is None:
            self._down(context)
        state = promise.state
        properties = to_struct(
            state.outputs, secrets=request.acceptSecrets, references=request.acceptResources
        )
        return resource_pb2.ReadResourceResponse(urn=state.urn, properties=properties)

    def Invoke(  # noqa: N802
        self, request: resource_pb2.ResourceInvokeRequest, context: grpc.ServicerContext
    ) -> resource_pb2.ResourceInvokeResponse:
        """Call a provider's function."""
        reference = self._provider_reference(request, request.tok)
        if reference is None:
            self._down(context)
        provider = self._registry.get(reference)
        if provider is None or urn_type(provider_urn(reference)) == "":
            self._fail(context, EngineError(f"Invoke: unknown provider '{reference}'"))
        try:
            args = from_struct(request.args)
            result, failures = provider.invoke(request.tok, args, preview=self._info.preview)
        except EngineError as error:
            message = f"invocation of {request.tok} returned an error: {error}"
            self._fail(context, EngineError(message))
        keep = request.acceptResources or request.tok == "pulumi:pulumi:getResource"
        response = resource_pb2.ResourceInvokeResponse(
            failures=[provider_pb2.CheckFailure(property=p, reason=r) for p, r in failures]
        )
        getattr(response, "return").CopyFrom(to_struct(result, references=keep))
        return response

    def SignalAndWaitForShutdown(  # noqa: N802
        self, request: empty_pb2.Empty, context: grpc.ServicerContext
    ) -> empty_pb2.Empty:
        """Let the SDK go; it keeps no callbacks that this engine calls."""
        return empty_pb2.Empty()


def _upper(name: str) -> str:
    return "".join(f"_{c}" if c.isupper() else c.upper() for c in name)


_SEVERITIES: dict[int, Severity] = {
    engine_pb2.DEBUG: "debug",
    engine_pb2.INFO: "info",
    engine_pb2.WARNING: "warning",
    engine_pb2.ERROR: "error",
}


class EngineService(engine_pb2_grpc.EngineServicer):
    """The Engine service: messages, and the stack's own URN."""

    def __init__(self, show: Callable[[Diagnostic], None]) -> None:
        self._show = show
        self._root = ""
        # set when the program is being ended: the errors that its SDK reports then are about that
        self.muted = False

    def Log(  # noqa: N802
        self, request: engine_pb2.LogRequest, context: grpc.ServicerContext
    ) -> empty_pb2.Empty:
        """Show a message of the program or of a provider."""
        late = self.muted and not request.urn and request.severity == engine_pb2.ERROR
        if not request.ephemeral and not late:
            severity = _SEVERITIES[request.severity]
            self._show(Diagnostic(request.urn, request.message, severity))
        return empty_pb2.Empty()

    def GetRootResource(  # noqa: N802
        self, request: engine_pb2.GetRootResourceRequest, context: grpc.ServicerContext
    ) -> engine_pb2.GetRootResourceResponse:
        """Tell the stack's URN."""
        return engine_pb2.GetRootResourceResponse(urn=self._root)

    def SetRootResource(  # noqa: N802
        self, request: engine_pb2.SetRootResourceRequest, context: grpc.ServicerContext
    ) -> engine_pb2.SetRootResourceResponse:
        """Learn the stack's URN."""
        self._root = request.urn
        return engine_pb2.SetRootResourceResponse()


class Server:
    """A gRPC server on a loopback port."""

    def __init__(self, add: Callable[[grpc.Server], None]) -> None:
        pool = futures.ThreadPoolExecutor(_THREADS, thread_name_prefix="rpc")
        self._server = grpc.server(pool, options=CHANNEL_OPTIONS)
        add(self._server)
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def stop(self) -> None:
        """End the server."""
        self._server.stop(None)
