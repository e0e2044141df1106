"""Resource plugins: processes that speak the ResourceProvider service.

A plugin is `pulumi-resource-NAME` on PATH; `pulumi-python` is the dynamic provider of the
`pulumi` wheel, run by the program's own interpreter. What each call sends and expects follows
sdk/go/common/resource/plugin/provider_plugin.go.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import empty_pb2, struct_pb2
from google.rpc import status_pb2
from pulumi.runtime.proto import provider_pb2, provider_pb2_grpc

from tests.sandbox.engine.errors import EngineError
from tests.sandbox.engine.events import Diagnostic, Severity
from tests.sandbox.engine.values import (
    Properties,
    annotate_secrets,
    contains_unknown,
    from_struct,
    to_struct,
    unwrap,
)

DYNAMIC = "pulumi-python"
_MAX_MESSAGE_BYTES = 400 * 1024 * 1024
CHANNEL_OPTIONS = [
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.enable_http_proxy", 0),
]
_PLUGIN_STOP_SECONDS = 5
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


@dataclass(frozen=True)
class PluginSettings:
    """What the host tells every plugin process."""

    engine_address: str
    project: str
    root: Path
    program: Path
    python: Path
    config_json: str
    runtime_options: dict[str, Any]


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


def _partial(error: grpc.RpcError) -> PartialState | None:
    metadata = error.trailing_metadata() if isinstance(error, grpc.Call) else None
    for key, value in metadata or ():
        if key != "grpc-status-details-bin":
            continue
        for detail in status_pb2.Status.FromString(value).details:
            failure = provider_pb2.ErrorResourceInitFailed()
            if detail.Is(failure.DESCRIPTOR) and detail.Unpack(failure):
                inputs = from_struct(failure.inputs) if failure.HasField("inputs") else None
                outputs = from_struct(failure.properties)
                return PartialState(failure.id, outputs, inputs, list(failure.reasons))
    return None


def plugin_path(package: str) -> str | None:
    """Find a package's plugin on PATH."""
    return shutil.which(f"pulumi-resource-{package}")


class PluginProcess:
    """One running plugin; its first line of output is its port."""

    def __init__(
        self, package: str, settings: PluginSettings, show: Callable[[Diagnostic], None]
    ) -> None:
        self.package = package
        self._show = show
        self._noise: list[str] = []
        self._stopping = False
        self._process = subprocess.Popen(
            [*self._command(package, settings), settings.engine_address],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=settings.program if settings.program.is_dir() else settings.program.parent,
            env=self._environment(settings),
            process_group=0,
        )
        self._readers = [self._drain(self._process.stderr, "info#err")]

    @staticmethod
    def _command(package: str, settings: PluginSettings) -> list[str]:
        if package == DYNAMIC:
            return [str(settings.python), "-u", "-m", "pulumi.dynamic"]
        if path := plugin_path(package):
            return [path]
        raise EngineError(
            f"no resource plugin 'pulumi-resource-{package}' found on PATH; "
            "install it and put it there (this engine downloads none)"
        )

    @staticmethod
    def _environment(settings: PluginSettings) -> dict[str, str]:
        options = settings.runtime_options.items()
        runtime = {f"PULUMI_RUNTIME_{name.upper()}": str(value) for name, value in options}
        own = {"PULUMI_PROJECT": settings.project, "PULUMI_CONFIG": settings.config_json}
        return {**os.environ, **runtime, **own}

    def _drain(self, stream: Any, severity: Severity) -> threading.Thread:
        """Show what the plugin prints."""

        def read() -> None:
            for line in stream:
                text = line.decode(errors="replace").rstrip("\n")
                self._noise.append(text)
                if not self._stopping:
                    self._show(Diagnostic("", text, severity))

        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        return thread

    def connect(self, settings: PluginSettings) -> provider_pb2_grpc.ResourceProviderStub:
        """Wait for the plugin's port, connect and shake hands."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline().decode(errors="replace").strip()
        if not line.isdigit():
            self.stop()
            noise = "\n".join(self._noise[-20:])
            raise EngineError(
                f"could not read plugin pulumi-resource-{self.package}: it printed {line!r} "
                f"where its port was expected\n{noise}"
            )
        self._readers.append(self._drain(self._process.stdout, "info"))
        channel = grpc.insecure_channel(f"127.0.0.1:{line}", options=CHANNEL_OPTIONS)
        stub = provider_pb2_grpc.ResourceProviderStub(channel)
        request = provider_pb2.ProviderHandshakeRequest(
            engine_address=settings.engine_address,
            root_directory=str(settings.root),
            program_directory=str(settings.program),
            configure_with_urn=True,
            invoke_with_preview=True,
        )
        with contextlib.suppress(grpc.RpcError):
            stub.Handshake(request, wait_for_ready=True)
        return stub

    def stop(self) -> None:
        """End the process, by force if it does not hear."""
        self._stopping = True
        if self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(_PLUGIN_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Provider:
    """A configured plugin as the engine calls it."""

    def __init__(self, stub: provider_pb2_grpc.ResourceProviderStub) -> None:
        self._stub = stub
        self.known = False
        self._secrets = False
        self._references = False
        self._previews = False

    def _call(self, method: Callable[..., Any], request: Any) -> Any:
        try:
            return method(request)
        except grpc.RpcError as error:
            details = error.details() if isinstance(error, grpc.Call) else str(error)
            raise ProviderError(details or "unknown error", _partial(error)) from error

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
            if isinstance(error, grpc.Call) and _unimplemented(error):
                return dict(news), []
            raise ProviderError(str(getattr(error, "details", str)())) from error
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
            if isinstance(error, grpc.Call) and _unimplemented(error):
                return Diff(None)
            raise ProviderError(str(getattr(error, "details", str)())) from error

    def configure(self, subject: Subject, package: str, inputs: Properties) -> None:
        """Configure the plugin; with unknown inputs it stays unconfigured."""
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
        response = self._call(self._stub.Configure, request)
        self._secrets = response.acceptSecrets
        self._references = response.acceptResources
        self._previews = response.supportsPreview
        self.known = True

    def check(
        self, subject: Subject, olds: Properties, news: Properties, *, seed: bytes
    ) -> tuple[Properties, list[tuple[str, str]]]:
        """Validate inputs and fill in defaults: (inputs, [(property, reason)])."""
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
        request = provider_pb2.InvokeRequest(tok=token, args=self._struct(args), preview=preview)
        response = self._call(self._stub.Invoke, request)
        result = from_struct(getattr(response, "return"))
        return result, [(f.property, f.reason) for f in response.failures]

    def cancel(self) -> None:
        """Tell the plugin to give up what it is doing."""
        with contextlib.suppress(grpc.RpcError):
            self._stub.Cancel(empty_pb2.Empty(), timeout=_CALL_CANCEL_SECONDS)


def _unimplemented(error: grpc.Call) -> bool:
    return bool(error.code() == grpc.StatusCode.UNIMPLEMENTED)


class PluginHost:
    """Starts plugins, keeps count of them and ends them."""

    def __init__(self, settings: PluginSettings, show: Callable[[Diagnostic], None]) -> None:
        self.settings = settings
        self._show = show
        self._warned: set[str] = set()
        self._spare: dict[str, PluginProcess] = {}
        self._processes: list[PluginProcess] = []
        self._providers: list[Provider] = []
        self._lock = threading.Lock()

    def prefetch(self, package: str) -> None:
        """Start a plugin that will be wanted soon."""
        if package == DYNAMIC or plugin_path(package):
            self._spare[package] = self._start(package)

    def _start(self, package: str) -> PluginProcess:
        process = PluginProcess(package, self.settings, self._show)
        with self._lock:
            self._processes.append(process)
        return process

    def load(self, package: str) -> Provider:
        """Start (or take the prefetched) plugin and connect to it."""
        with self._lock:
            process = self._spare.pop(package, None)
        process = process or self._start(package)
        path = plugin_path(package)
        if package != DYNAMIC and path and package not in self._warned:
            self._warned.add(package)
            message = f"using pulumi-resource-{package} from $PATH at {path}"
            self._show(Diagnostic("", message, "warning"))
        provider = Provider(process.connect(self.settings))
        with self._lock:
            self._providers.append(provider)
        return provider

    def cancel(self) -> None:
        """Tell every plugin to give up."""
        with self._lock:
            providers = list(self._providers)
        for provider in providers:
            provider.cancel()

    def close(self) -> None:
        """End every plugin."""
        with self._lock:
            processes, self._processes = self._processes, []
        for process in processes:
            process.stop()


def default_python() -> Path:
    """Tell the interpreter that runs this engine."""
    return Path(sys.executable)
