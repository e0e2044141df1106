"""A resource plugin for comparisons: resources are files, behaviour is asked for by inputs.

Package `compare`, type `compare:index:Thing`. Inputs that ask for a behaviour:

    replaceOn: [names]   a change of these properties replaces
    dbr: true            replace by deleting first
    failCreate, failUpdate, failDelete, failRead, failCheck: message   refuse
    failInit: message    create, then report a failed initialization
    adopt: true          the id is `<name>-<v>`, so that a create finds what an earlier one made
    lingerSeconds: n     take that long, so that a kill can meet the call
    waitFor: name        wait until the store has a file of that name
    diffStyle: detailed (default) | keys | unknown

Every other input is copied to the outputs, with `computed` (`<name>-<n>!`). Files are below the
directory that COMPARE_STORE names; every call is added to its calls.log.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import threading
import time
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import any_pb2, empty_pb2, json_format, struct_pb2
from pulumi.runtime.proto import provider_pb2, provider_pb2_grpc, status_pb2

# ruff: noqa: ARG002, N802 - names and arguments are the service's

_UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"
_SIGNATURE = "4dabf18193072939515e22adb298388d"
_SECRET = "1b47061264138c4ac30d75fd1eb44270"
_KINDS = provider_pb2.PropertyDiff
_GATE_SECONDS = 60


def _plain(value: Any) -> Any:
    """Look through secrets."""
    if isinstance(value, dict):
        if value.get(_SIGNATURE) == _SECRET:
            return _plain(value.get("value"))
        return {key: _plain(element) for key, element in value.items()}
    if isinstance(value, list):
        return [_plain(element) for element in value]
    return value


def _read(struct: struct_pb2.Struct) -> dict[str, Any]:
    read: dict[str, Any] = json_format.MessageToDict(struct)
    return read


def _struct(properties: dict[str, Any]) -> struct_pb2.Struct:
    return json_format.ParseDict(properties, struct_pb2.Struct())


class Store:
    """The resources as files, and the log of calls."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    def log(self, method: str, urn: str) -> None:
        """Add a call to the log."""
        with (self._directory / "calls.log").open("a", encoding="utf-8") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            stream.write(f"{method} {urn.split('::', 3)[-1]}\n")

    def new_id(self, name: str) -> str:
        """Make the next id of a name."""
        with (self._directory / "counter").open("a+", encoding="utf-8") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            stream.seek(0)
            counts = json.loads(stream.read() or "{}")
            counts[name] = counts.get(name, 0) + 1
            stream.seek(0)
            stream.truncate()
            stream.write(json.dumps(counts))
        return f"{name}-{counts[name]}"

    def path(self, identity: str) -> Path:
        """Tell where a resource is."""
        return self._directory / f"{identity}.json"

    def put(self, identity: str, properties: dict[str, Any]) -> None:
        """Write a resource whole or not at all."""
        temporary = self._directory / f".{identity}.{os.getpid()}.{threading.get_ident()}"
        temporary.write_text(json.dumps(properties, sort_keys=True), encoding="utf-8")
        temporary.replace(self.path(identity))


class ComparePlugin(provider_pb2_grpc.ResourceProviderServicer):
    """The ResourceProvider service."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._config: dict[str, Any] = {}

    def _refuse(self, context: grpc.ServicerContext, message: Any) -> None:
        context.abort(grpc.StatusCode.UNKNOWN, str(message))

    def GetPluginInfo(
        self, request: empty_pb2.Empty, context: grpc.ServicerContext
    ) -> provider_pb2.PluginInfo:  # type: ignore[name-defined]
        from pulumi.runtime.proto import plugin_pb2

        return plugin_pb2.PluginInfo(version="1.0.0")

    def CheckConfig(
        self, request: provider_pb2.CheckRequest, context: grpc.ServicerContext
    ) -> provider_pb2.CheckResponse:
        return provider_pb2.CheckResponse(inputs=request.news)

    def DiffConfig(
        self, request: provider_pb2.DiffRequest, context: grpc.ServicerContext
    ) -> provider_pb2.DiffResponse:
        old, new = _plain(_read(request.old_inputs)), _plain(_read(request.news))
        changed = sorted(k for k in {**old, **new} if old.get(k) != new.get(k))
        replaces = ["region"] if "region" in changed else []
        some = provider_pb2.DiffResponse.DIFF_SOME
        none = provider_pb2.DiffResponse.DIFF_NONE
        return provider_pb2.DiffResponse(
            changes=some if changed else none, diffs=changed, replaces=replaces
        )

    def Configure(
        self, request: provider_pb2.ConfigureRequest, context: grpc.ServicerContext
    ) -> provider_pb2.ConfigureResponse:
        self._config = _plain(_read(request.args))
        if message := self._config.get("failConfigure"):
            self._refuse(context, message)
        return provider_pb2.ConfigureResponse(
            acceptSecrets=self._config.get("acceptSecrets") != "no",
            supportsPreview=self._config.get("supportsPreview") == "yes",
            acceptResources=True,
        )

    def Check(
        self, request: provider_pb2.CheckRequest, context: grpc.ServicerContext
    ) -> provider_pb2.CheckResponse:
        news = _read(request.news)
        response = provider_pb2.CheckResponse()
        if message := _plain(news).get("failCheck"):
            response.failures.add(property="failCheck", reason=str(message))
        if "defaulted" in news and not news["defaulted"]:
            news["defaulted"] = f"default-of-{request.urn.rsplit('::', 1)[-1]}"
        response.inputs.CopyFrom(_struct(news))
        return response

    def Diff(
        self, request: provider_pb2.DiffRequest, context: grpc.ServicerContext
    ) -> provider_pb2.DiffResponse:
        self._store.log("diff", request.urn)
        # What is live decides: the outputs of the state, less what only the plugin sets.
        olds, news = _plain(_read(request.olds)), _plain(_read(request.news))
        style = news.get("diffStyle", "detailed")
        if style == "unknown":
            return provider_pb2.DiffResponse(changes=provider_pb2.DiffResponse.DIFF_UNKNOWN)
        olds.pop("computed", None)
        ignored = set(request.ignoreChanges)
        changed = sorted(
            k for k in {**olds, **news} if olds.get(k) != news.get(k) and k not in ignored
        )
        replaces = [key for key in changed if key in (news.get("replaceOn") or [])]
        response = provider_pb2.DiffResponse(
            changes=provider_pb2.DiffResponse.DIFF_SOME
            if changed
            else provider_pb2.DiffResponse.DIFF_NONE,
            diffs=changed,
            replaces=replaces,
            deleteBeforeReplace=bool(news.get("dbr")) and bool(replaces),
        )
        if style == "detailed":
            response.hasDetailedDiff = True
            for key in changed:
                kind = "UPDATE" if key in olds and key in news else "ADD"
                kind = "DELETE" if key not in news else kind
                kind += "_REPLACE" if key in replaces else ""
                response.detailedDiff[key].kind = getattr(_KINDS, kind)
        return response

    def Create(
        self, request: provider_pb2.CreateRequest, context: grpc.ServicerContext
    ) -> provider_pb2.CreateResponse:
        properties = _read(request.properties)
        if request.preview:
            self._store.log("create-preview", request.urn)
            outputs = {**properties, "computed": _UNKNOWN}
            return provider_pb2.CreateResponse(properties=_struct(outputs))
        self._store.log("create", request.urn)
        plain = _plain(properties)
        if message := plain.get("failCreate"):
            self._refuse(context, message)
        _linger(plain)
        name = request.urn.rsplit("::", 1)[-1]
        identity = f"{name}-{plain.get('v')}" if plain.get("adopt") else self._store.new_id(name)
        self._store.put(identity, plain)
        outputs = {**properties, "computed": f"{identity}!"}
        if message := plain.get("failInit"):
            _fail_initialization(context, identity, outputs, str(message))
        return provider_pb2.CreateResponse(id=identity, properties=_struct(outputs))

    def Update(
        self, request: provider_pb2.UpdateRequest, context: grpc.ServicerContext
    ) -> provider_pb2.UpdateResponse:
        properties = _read(request.news)
        outputs = {**properties, "computed": f"{request.id}!"}
        if request.preview:
            self._store.log("update-preview", request.urn)
            return provider_pb2.UpdateResponse(properties=_struct(outputs))
        self._store.log("update", request.urn)
        plain = _plain(properties)
        if message := plain.get("failUpdate"):
            self._refuse(context, message)
        _linger(plain)
        self._store.put(request.id, plain)
        if message := plain.get("failInit"):
            _fail_initialization(context, request.id, outputs, str(message))
        return provider_pb2.UpdateResponse(properties=_struct(outputs))

    def Read(
        self, request: provider_pb2.ReadRequest, context: grpc.ServicerContext
    ) -> provider_pb2.ReadResponse:
        self._store.log("read", request.urn)
        if message := _plain(_read(request.properties)).get("failRead"):
            self._refuse(context, message)
        try:
            live = json.loads(self._store.path(request.id).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return provider_pb2.ReadResponse()
        old = _read(request.properties)
        kept = {k: old[k] for k in live if k in old and _plain(old[k]) == live[k]}
        outputs = {**live, **kept, "computed": f"{request.id}!"}
        response = provider_pb2.ReadResponse(id=request.id, properties=_struct(outputs))
        if live.get("readInputs"):
            response.inputs.CopyFrom(_struct({**live, **kept}))
        else:
            response.inputs.CopyFrom(request.inputs)
        return response

    def Delete(
        self, request: provider_pb2.DeleteRequest, context: grpc.ServicerContext
    ) -> empty_pb2.Empty:
        self._store.log("delete", request.urn)
        plain = _plain(_read(request.properties))
        if message := plain.get("failDelete"):
            self._refuse(context, message)
        _linger(plain)
        self._store.path(request.id).unlink(missing_ok=True)
        return empty_pb2.Empty()

    def Invoke(
        self, request: provider_pb2.InvokeRequest, context: grpc.ServicerContext
    ) -> provider_pb2.InvokeResponse:
        self._store.log("invoke", f"::::::{request.tok}")
        response = provider_pb2.InvokeResponse()
        getattr(response, "return").CopyFrom(_struct({"echo": _read(request.args)}))
        return response

    def Cancel(self, request: empty_pb2.Empty, context: grpc.ServicerContext) -> empty_pb2.Empty:
        return empty_pb2.Empty()


def _linger(properties: dict[str, Any]) -> None:
    """Take as long as the resource asks for, so that a kill can meet the call."""
    time.sleep(min(float(properties.get("lingerSeconds") or 0), 1.0))
    if gate := properties.get("waitFor"):
        deadline = time.monotonic() + _GATE_SECONDS
        path = Path(os.environ["COMPARE_STORE"]) / gate
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.02)


def _fail_initialization(
    context: grpc.ServicerContext, identity: str, outputs: dict[str, Any], reason: str
) -> None:
    failure = provider_pb2.ErrorResourceInitFailed(
        id=identity, properties=_struct(outputs), reasons=[reason]
    )
    detail = any_pb2.Any()
    detail.Pack(failure)
    status = status_pb2.Status(
        code=int(grpc.StatusCode.UNKNOWN.value[0]), message=reason, details=[detail]
    )
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    context.abort(grpc.StatusCode.UNKNOWN, reason)


def _end_with_the_engine() -> None:
    """End where the engine was killed and could not end this plugin."""
    engine = os.getppid()
    while os.getppid() == engine:
        time.sleep(0.5)
    os._exit(1)


def main() -> None:
    """Serve until killed; the first line of output is the port."""
    store = Store(Path(os.environ["COMPARE_STORE"]))
    server = grpc.server(futures.ThreadPoolExecutor(16))
    provider_pb2_grpc.add_ResourceProviderServicer_to_server(ComparePlugin(store), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    threading.Thread(target=_end_with_the_engine, daemon=True).start()
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    server.wait_for_termination()
