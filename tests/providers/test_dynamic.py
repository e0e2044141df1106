"""Our providers through Pulumi's own dynamic provider server, as the engine calls it."""

import asyncio
import base64
import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import struct_pb2
from pulumi.dynamic import ResourceProvider
from pulumi.dynamic.dynamic import PROVIDER_KEY, serialize_provider
from pulumi.runtime import rpc
from pulumi.runtime.proto import provider_pb2, provider_pb2_grpc

from sync.contract import spec as contract
from sync.providers.agent_bundle import AgentBundleProvider
from sync.providers.host.directories import HostDirectoriesProvider
from sync.providers.host.files import HostFilesProvider
from sync.providers.jobs.provider import JobProvider
from sync.providers.mode_guard import ModeGuardProvider
from sync.providers.preflight.provider import PreflightProvider
from sync.providers.stack_secrets import StackSecretProvider

PROJECT = Path(__file__).resolve().parents[2]
PROVIDERS: list[type[ResourceProvider]] = [
    AgentBundleProvider,
    HostDirectoriesProvider,
    HostFilesProvider,
    JobProvider,
    ModeGuardProvider,
    PreflightProvider,
    StackSecretProvider,
]
# What a state of an earlier release names: its modules and classes, which must go on loading.
FORMER: list[tuple[str, type[ResourceProvider]]] = [
    ("sync.providers.agent_bundle", AgentBundleProvider),
    ("sync.providers.host_directories", HostDirectoriesProvider),
    ("sync.providers.host_files", HostFilesProvider),
    ("sync.providers.jobs", JobProvider),
    ("sync.providers.mode_guard", ModeGuardProvider),
    ("sync.providers.preflight", PreflightProvider),
    ("sync.providers.stack_secrets", StackSecretProvider),
]
# Where an input differs the engine looks itself which, and shows no other.
ENGINE_COMPARES = provider_pb2.DiffResponse.DIFF_UNKNOWN


class Server:
    """`python -m pulumi.dynamic`, and the calls of an engine on it."""

    def __init__(self, port: int) -> None:
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        self._stub = provider_pb2_grpc.ResourceProviderStub(self._channel)

    def close(self) -> None:
        self._channel.close()

    def check(self, olds: dict[str, Any], news: dict[str, Any]) -> Any:
        request = provider_pb2.CheckRequest(olds=_struct(olds), news=_struct(news))
        return self._stub.Check(request, timeout=60)

    def diff(self, olds: dict[str, Any], news: dict[str, Any]) -> Any:
        request = provider_pb2.DiffRequest(id="id", olds=_struct(olds), news=_struct(news))
        return self._stub.Diff(request, timeout=60)

    def create(self, props: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        request = provider_pb2.CreateRequest(properties=_struct(props))
        reply = self._stub.Create(request, timeout=120)
        return reply.id, _props(reply.properties)

    def update(self, olds: dict[str, Any], news: dict[str, Any]) -> dict[str, Any]:
        request = provider_pb2.UpdateRequest(id="id", olds=_struct(olds), news=_struct(news))
        return _props(self._stub.Update(request, timeout=120).properties)

    def read(self, id_: str, props: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        request = provider_pb2.ReadRequest(id=id_, properties=_struct(props))
        reply = self._stub.Read(request, timeout=60)
        return reply.id, _props(reply.properties)

    def delete(self, id_: str, props: dict[str, Any]) -> None:
        self._stub.Delete(provider_pb2.DeleteRequest(id=id_, properties=_struct(props)), timeout=60)


def _struct(props: dict[str, Any]) -> struct_pb2.Struct:
    return asyncio.run(rpc.serialize_properties(props, {}))


def _props(struct: struct_pb2.Struct) -> dict[str, Any]:
    return dict(rpc.deserialize_properties(struct))


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "pulumi.dynamic", "127.0.0.1:1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=PROJECT,
    )
    try:
        assert process.stdout is not None
        made = Server(int(process.stdout.readline()))
        yield made
        made.close()
    finally:
        process.terminate()
        process.wait(10)


def _with(provider: ResourceProvider, **props: Any) -> dict[str, Any]:
    return {PROVIDER_KEY: serialize_provider(provider), **props}


@pytest.mark.parametrize("kind", PROVIDERS, ids=lambda kind: str(kind.__name__))
def test_a_provider_is_stored_by_its_name_and_always_the_same(
    kind: type[ResourceProvider],
) -> None:
    stored = serialize_provider(kind())
    pickled = base64.b64decode(stored)
    assert stored == serialize_provider(kind())
    assert kind.__module__.encode() in pickled
    assert len(pickled) < 200


def _former(module: str, kind: type[ResourceProvider]) -> str:
    """Return a provider as an earlier release has pickled it: a class by reference, no state."""
    names = (module.encode(), kind.__name__.encode())
    both = b"\x94".join(b"\x8c" + bytes([len(name)]) + name for name in names)
    body = both + b"\x94\x93\x94)\x81\x94."
    return base64.b64encode(b"\x80\x04\x95" + len(body).to_bytes(8, "little") + body).decode()


@pytest.mark.parametrize(("module", "kind"), FORMER, ids=[module for module, _ in FORMER])
def test_a_provider_of_an_earlier_state_is_todays(
    module: str, kind: type[ResourceProvider]
) -> None:
    # In a process of its own, as the engine starts it: nothing has imported our modules there.
    script = (
        "import base64, sys, dill; found = dill.loads(base64.b64decode(sys.argv[1])); "
        "print(type(found).__module__, type(found).__name__)"
    )
    argv = [sys.executable, "-c", script, _former(module, kind)]
    printed = subprocess.run(argv, check=True, capture_output=True, text=True, cwd=PROJECT)
    assert printed.stdout.split() == [kind.__module__, kind.__name__]


HOST = {"dockerHost": "unix:///x", "sshKeyPath": "", "knownHostsPath": "", "helperImage": "x"}
ROOT = {"host": HOST, "root": "/srv"}
SPEC = contract.KernelsSpec(stack="test", sources=["http://127.0.0.1:1"])
OWNED = {"path": "config", "uid": 0, "mode": 0o640}
# What the program gives, and what the state of an earlier release has besides (files: instead).
STATES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "sync.providers.agent_bundle": (
        {**ROOT, "digest": "0123", "path": "/srv/agent/0123"},
        {"platform": "amd64", "drift": []},
    ),
    "sync.providers.host_directories": (
        {**ROOT, "directories": [OWNED], "mustBeMount": False, "purge": False},
        {"drift": []},
    ),
    "sync.providers.host_files": (
        {**ROOT, "files": [{**OWNED, "content": "x"}]},
        {
            "written": [OWNED],
            "digests": {"config": hashlib.sha256(b"x").hexdigest()},
            "drift": [],
        },
    ),
    "sync.providers.jobs": (
        {
            **ROOT,
            "job": "kernels",
            "spec": SPEC.model_dump(mode="json"),
            "agentVersion": "0123",
            "containerName": "kernels",
            "ready": "started",
            "readyTimeoutSeconds": 120,
            "purge": False,
        },
        {
            "readyState": "started: reached",
            "specDrift": "",
            "healthy": True,
            "reason": "",
            "summary": "idle, 3 of 3 kernels",
            "runningAgent": "0123",
            "refused": {"count": 0, "names": []},
            "broken": {"count": 0, "names": []},
            "__record": {"phase": "idle", "done": {"items": 3, "bytes": 1}},
        },
    ),
    "sync.providers.mode_guard": (
        {"stack": "test", "mode": "mirror", "confirmation": 0},
        {"history": ["mirror"]},
    ),
    "sync.providers.preflight": (
        {
            **ROOT,
            "limits": {"cores": 2, "memoryBytes": 8 << 30, "freeBytes": 1, "dockerVersion": "20"},
            "ports": [{"address": "127.0.0.1", "port": 80}],
            "addresses": ["127.0.0.1"],
            "publicAddresses": [],
            "names": [{"name": "x", "addresses": ["127.0.0.1"], "bootMedia": False}],
            "upstream": [{"name": "hub", "host": "h", "port": 443}],
            "ownContainers": ["zdb"],
            "rootIsMount": False,
            "dnsManaged": False,
            "ignore": [],
        },
        {"findings": []},
    ),
    "sync.providers.stack_secrets": (
        {"stack": "test", "kind": "hubSeed", "rotation": 0},
        {"value": "a seed"},
    ),
}


@pytest.mark.parametrize(("module", "kind"), FORMER, ids=[module for module, _ in FORMER])
def test_an_earlier_state_previews_as_unchanged(
    server: Server, module: str, kind: type[ResourceProvider]
) -> None:
    inputs, outputs = STATES[module]
    state = {key: value for key, value in inputs.items() if key != "files"} | outputs
    olds = {PROVIDER_KEY: _former(module, kind), **state}
    for provider in (_former(module, kind), serialize_provider(kind())):
        news = {PROVIDER_KEY: provider, **inputs}
        assert list(server.check(news, news).failures) == []
        answer = server.diff(olds, news)
        assert answer.changes == provider_pb2.DiffResponse.DIFF_NONE
        assert list(answer.replaces) == []


def test_a_secret_of_an_earlier_state_is_compared_refreshed_and_kept(server: Server) -> None:
    props = {"stack": "test", "kind": "hubSeed", "rotation": 0}
    former = _former("sync.providers.stack_secrets", StackSecretProvider)
    olds = {PROVIDER_KEY: former, **props, "value": "a seed"}
    news = {PROVIDER_KEY: serialize_provider(StackSecretProvider()), **props}
    assert server.diff(olds, news).changes == provider_pb2.DiffResponse.DIFF_NONE
    assert server.read("test/hubSeed", olds) == ("test/hubSeed", olds)
    assert server.update(olds, news)["value"] == "a seed"
    server.delete("test/hubSeed", olds)


def test_a_secret_through_its_whole_life(server: Server) -> None:
    inputs = _with(StackSecretProvider(), stack="test", kind="hubSeed", rotation=0)
    assert list(server.check({}, inputs).failures) == []
    id_, outs = server.create(inputs)
    assert id_ == "test/hubSeed"
    assert server.diff(outs, inputs).changes == provider_pb2.DiffResponse.DIFF_NONE
    assert server.read(id_, outs) == (id_, outs)
    rotated = {**inputs, "rotation": 1}
    assert server.diff(outs, rotated).changes == ENGINE_COMPARES
    assert server.update(outs, rotated)["value"] != outs["value"]
    server.delete(id_, outs)


@pytest.mark.docker
def test_files_through_their_whole_life(
    server: Server, local_host: dict[str, str], data_root: str
) -> None:
    Path(data_root).mkdir()
    file = {"path": "config", "uid": 0, "mode": 0o640, "content": "listen = 80"}
    inputs = _with(HostFilesProvider(), host=local_host, root=data_root, files=[file])
    id_, outs = server.create(inputs)
    assert (Path(data_root) / "config").read_text() == "listen = 80"
    assert "listen" not in str(outs)
    assert server.diff(outs, inputs).changes == provider_pb2.DiffResponse.DIFF_NONE
    (Path(data_root) / "config").write_text("listen = 81")
    _id, drifted = server.read(id_, outs)
    assert drifted["drift"] == ["config: changed on the host"]
    assert server.diff(drifted, inputs).changes == provider_pb2.DiffResponse.DIFF_SOME
    repaired = server.update(drifted, inputs)
    assert (Path(data_root) / "config").read_text() == "listen = 80"
    assert server.diff(repaired, inputs).changes == provider_pb2.DiffResponse.DIFF_NONE
    unknown = {**inputs, "files": [{**file, "content": rpc.UNKNOWN}]}
    assert server.diff(outs, unknown).changes == ENGINE_COMPARES
    former = {**outs, PROVIDER_KEY: _former("sync.providers.host_files", HostFilesProvider)}
    assert server.read(id_, former)[1] == former
    server.delete(id_, former)
    assert server.read(id_, former)[0] == ""


def test_a_job_with_an_unknown_spec_previews(server: Server) -> None:
    spec = contract.KernelsSpec(stack="test", sources=["http://127.0.0.1:1"]).model_dump(
        mode="json"
    )
    inputs = _with(
        JobProvider(),
        host={"dockerHost": "unix:///nonexistent.sock"},
        root="/srv",
        job="kernels",
        spec={**spec, "source": rpc.UNKNOWN},
        agentVersion=rpc.UNKNOWN,
        containerName="kernels",
        ready="started",
        readyTimeoutSeconds=1,
        purge=False,
    )
    assert list(server.check({}, inputs).failures) == []
    olds = {**inputs, "spec": spec, "agentVersion": "one"}
    answer = server.diff(olds, inputs)
    assert answer.changes == ENGINE_COMPARES
    assert list(answer.replaces) == []


def test_a_host_that_cannot_be_reached_is_an_error_with_its_remedy(server: Server) -> None:
    host = {"dockerHost": "ssh://root@127.0.0.1:1", "knownHostsPath": "/none", "helperImage": "x"}
    directory = {"path": "data", "uid": 0, "mode": 0o755}
    inputs = _with(
        HostDirectoriesProvider(), host=host, root="/srv", directories=[directory], purge=False
    )
    with pytest.raises(grpc.RpcError) as refused:
        server.create(inputs)
    message = str(refused.value.details())
    assert "see the host's fingerprint and pin it with" in message
    # Pulumi's own frames and one of ours: no cause, nothing of paramiko.
    assert message.count("  File ") <= 3
    assert message.count("Traceback") == 1
