"""A plugin as a child process, and its calls: how tests drive a plugin without an engine.

It starts any `pulumi-resource-*` command, the stand-ins here or a real one, so that the same
calls can be made of both and compared.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import grpc
from google.protobuf import empty_pb2
from pulumi.runtime.proto import provider_pb2, provider_pb2_grpc, status_pb2
from typing_extensions import override

from tests.sandbox.plugins.values import from_struct, to_struct

_STARTUP_LINE_BYTES = 64
_CALL_SECONDS = 120
_END_SECONDS = 10
# A half-made resource's whole state comes in the metadata of the error, beyond gRPC's 8 KiB.
_METADATA_BYTES = 16 * 1024 * 1024
_OPTIONS = (
    ("grpc.max_metadata_size", _METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", _METADATA_BYTES),
)


class PluginCallError(Exception):
    """A call that the plugin refused: its message, and a partly made resource if there is one."""

    def __init__(self, message: str, partial: Created | None = None) -> None:
        super().__init__(message)
        self.partial = partial


@dataclass(frozen=True)
class Created:
    """What a create, an update or a read returns: an id (empty: it is gone) and the state."""

    id: str
    properties: dict[str, Any]
    inputs: dict[str, Any]


@dataclass(frozen=True)
class Difference:
    """What a diff decides: whether anything changes, the keys, and which of them replace."""

    changes: bool
    detailed: dict[str, str]
    replaces: tuple[str, ...]
    delete_before_replace: bool


class PluginCalls:
    """The calls of a plugin that serves on a port of loopback."""

    def __init__(self, port: int, package: str) -> None:
        self._package = package
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=_OPTIONS)
        self._stub = provider_pb2_grpc.ResourceProviderStub(self._channel)

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def urn(self, token: str, name: str = "it") -> str:
        """Return the URN that calls use for a resource of this type."""
        return f"urn:pulumi:stack::project::{token}::{name}"

    def check_config(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Check the provider's own inputs and return them with what the plugin adds."""
        request = provider_pb2.CheckRequest(
            urn=self.urn(f"pulumi:providers:{self._package}"), news=to_struct(inputs)
        )
        return self._checked(self._call("CheckConfig", request))

    def configure(self, inputs: Mapping[str, Any]) -> None:
        """Configure the provider with checked inputs (strings, or JSON for lists)."""
        request = provider_pb2.ConfigureRequest(
            args=to_struct(inputs),
            variables={f"{self._package}:config:{key}": str(v) for key, v in inputs.items()},
            acceptSecrets=True,
            acceptResources=True,
        )
        self._call("Configure", request)

    def check(
        self, token: str, news: Mapping[str, Any], olds: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Check a resource's inputs and return them with defaults; raise on failures."""
        request = provider_pb2.CheckRequest(urn=self.urn(token), news=to_struct(news))
        if olds is not None:
            request.olds.CopyFrom(to_struct(olds))
        return self._checked(self._call("Check", request))

    def diff(
        self,
        token: str,
        identity: str,
        state: Mapping[str, Any],
        news: Mapping[str, Any],
        old_inputs: Mapping[str, Any] | None = None,
        ignore: Sequence[str] = (),
    ) -> Difference:
        """Ask what new checked inputs would do to the recorded state."""
        request = provider_pb2.DiffRequest(
            id=identity,
            urn=self.urn(token),
            olds=to_struct(state),
            news=to_struct(news),
            old_inputs=to_struct(old_inputs or {}),
            ignoreChanges=ignore,
        )
        answer = self._call("Diff", request)
        kinds = provider_pb2.PropertyDiff.Kind
        return Difference(
            changes=answer.changes == provider_pb2.DiffResponse.DIFF_SOME,
            detailed={
                key: kinds.Name(value.kind).lower().replace("_", "-")
                for key, value in answer.detailedDiff.items()
            },
            replaces=tuple(answer.replaces),
            delete_before_replace=answer.deleteBeforeReplace,
        )

    def create(self, token: str, news: Mapping[str, Any], *, preview: bool = False) -> Created:
        """Create a resource from checked inputs."""
        request = provider_pb2.CreateRequest(
            urn=self.urn(token), properties=to_struct(news), preview=preview
        )
        answer = self._call("Create", request)
        return Created(answer.id, from_struct(answer.properties), dict(news))

    def read(
        self, token: str, identity: str, state: Mapping[str, Any], inputs: Mapping[str, Any]
    ) -> Created:
        """Read the live resource; the id is empty when it is gone."""
        request = provider_pb2.ReadRequest(
            id=identity, urn=self.urn(token), properties=to_struct(state), inputs=to_struct(inputs)
        )
        answer = self._call("Read", request)
        return Created(answer.id, from_struct(answer.properties), from_struct(answer.inputs))

    def update(
        self, token: str, identity: str, state: Mapping[str, Any], news: Mapping[str, Any]
    ) -> Created:
        """Update a resource in place."""
        request = provider_pb2.UpdateRequest(
            id=identity, urn=self.urn(token), olds=to_struct(state), news=to_struct(news)
        )
        answer = self._call("Update", request)
        return Created(identity, from_struct(answer.properties), dict(news))

    def delete(self, token: str, identity: str, state: Mapping[str, Any]) -> None:
        """Delete a resource."""
        request = provider_pb2.DeleteRequest(
            id=identity, urn=self.urn(token), properties=to_struct(state)
        )
        self._call("Delete", request)

    def invoke(self, token: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Call a function of the plugin."""
        request = provider_pb2.InvokeRequest(tok=token, args=to_struct(arguments))
        answer = self._call("Invoke", request)
        self._refuse_failures(answer.failures)
        return from_struct(getattr(answer, "return"))

    def version(self) -> str:
        """Return the version that the plugin reports of itself."""
        return str(self._call("GetPluginInfo", empty_pb2.Empty()).version)

    def _call(self, method: str, request: Any) -> Any:
        try:
            return getattr(self._stub, method)(request, timeout=_CALL_SECONDS, wait_for_ready=True)
        except grpc.RpcError as error:
            raise _call_error(error) from error

    def _checked(self, answer: provider_pb2.CheckResponse) -> dict[str, Any]:
        self._refuse_failures(answer.failures)
        return from_struct(answer.inputs)

    @staticmethod
    def _refuse_failures(failures: Any) -> None:
        if failures:
            raise PluginCallError("; ".join(f"{f.property}: {f.reason}" for f in failures))


class PluginProcess(PluginCalls):
    """A plugin started as a child process; a context manager that ends it."""

    def __init__(
        self, command: Sequence[str], package: str, environment: Mapping[str, str] | None = None
    ) -> None:
        self._process = subprocess.Popen(
            [*command, "127.0.0.1:1"],
            stdout=subprocess.PIPE,
            env=dict(environment) if environment is not None else None,
        )
        stdout = self._process.stdout
        line = stdout.readline(_STARTUP_LINE_BYTES) if stdout else b""
        if not line.strip():
            self._end()
            raise PluginCallError(f"{command[0]} printed no port; run it by hand to see why")
        super().__init__(int(line), package)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The process id of the plugin."""
        return self._process.pid

    @override
    def close(self) -> None:
        """Close the connection, end the plugin and wait for it."""
        super().close()
        self._end()

    def _end(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(_END_SECONDS)
        if self._process.stdout:
            self._process.stdout.close()


def _call_error(error: Any) -> PluginCallError:
    """Turn a failed call into an error; the stubs do not say that it is a call as well."""
    return PluginCallError(str(error.details()), _partial(error.trailing_metadata() or ()))


def _partial(metadata: Any) -> Created | None:
    """Return the half-made resource that an initialisation error carries in its details."""
    for key, value in metadata:
        if key != "grpc-status-details-bin":
            continue
        for detail in status_pb2.Status.FromString(value).details:
            failed = provider_pb2.ErrorResourceInitFailed()
            if detail.Unpack(failed):
                return Created(
                    failed.id, from_struct(failed.properties), {"reasons": list(failed.reasons)}
                )
    return None
