"""Runs the program against Pulumi's mocks and gives what it would register."""

import asyncio
import contextlib
import contextvars
import json
import os
import runpy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar
from unittest import mock

import pulumi
import yaml
from google.protobuf import json_format
from pulumi.runtime import Mocks, set_all_config, set_mocks
from pulumi.runtime.mocks import MockCallArgs, MockMonitor, MockResourceArgs
from pulumi.runtime.rpc import deserialize_properties

_Result = TypeVar("_Result")
PROJECT = Path(__file__).resolve().parents[2]
STACKS = PROJECT / "stacks"
CONTAINER = "docker:index/container:Container"
NETWORK = "docker:index/network:Network"
IMAGE = "docker:index/remoteImage:RemoteImage"
DNS_RECORD = "cloudflare:index/dnsRecord:DnsRecord"
SECRET = "pulumi-python:dynamic/gridhub:StackSecret"
GUARD = "pulumi-python:dynamic/gridhub:ModeGuard"
AGENT_DIGEST = "0123456789abcdef"
DIGEST = "sha256:" + "0123456789abcdef" * 4
# How Pulumi's wire format marks a secret value (pulumi: sdk/python/lib/pulumi/runtime/rpc.py).
_SECRET_MARK = "1b47061264138c4ac30d75fd1eb44270"
_SEED = "c2VlZC1zZWVkLXNlZWQtc2VlZC1zZWVkLXNlZWQtMDA="


@dataclass(frozen=True)
class Registration:
    """One resource as the program registers it.

    options: protect, parent, dependencies, …. raw: the inputs as sent, secrets marked.
    """

    type: str
    name: str
    inputs: dict[str, Any]
    options: dict[str, Any]
    raw: dict[str, Any]


@dataclass
class Declared:
    """What one run of the program registered, by resource name, and exported."""

    resources: dict[str, Registration] = field(default_factory=dict)
    outputs: dict[str, Any] = field(default_factory=dict)

    def of_type(self, kind: str) -> list[Registration]:
        """Return the resources of a type, in the order of their registration."""
        return [entry for entry in self.resources.values() if entry.type == kind]

    def containers(self) -> dict[str, dict[str, Any]]:
        """Return the containers' inputs by service."""
        return {entry.inputs["hostname"]: entry.inputs for entry in self.of_type(CONTAINER)}


class _Answers(Mocks):
    """What resources answer: their inputs, and what only their provider could know."""

    def new_resource(self, args: MockResourceArgs) -> tuple[str | None, dict[Any, Any]]:
        outputs = {key: value for key, value in _plain(args.inputs).items() if value is not None}
        if args.typ == IMAGE:
            outputs["imageId"] = f"sha256:{args.name}"
        if args.typ == GUARD and self._first_name is not None:
            outputs["stack"] = self._first_name
        if args.typ == SECRET:
            kind = outputs["kind"]
            value = _SEED if kind == "hubSeed" else f"canary-{kind}"
            outputs["value"] = pulumi.Output.secret(value)
        return f"{args.name}-id", outputs

    def __init__(
        self,
        zone: Sequence[Mapping[str, Any]],
        state: Mapping[str, Any],
        first_name: str | None,
    ) -> None:
        self._zone = zone
        self._state = state
        self._first_name = first_name

    def call(self, args: MockCallArgs) -> tuple[dict[Any, Any], list[tuple[str, str]] | None]:
        if args.token == "cloudflare:index/getDnsRecords:getDnsRecords":
            name = args.args["name"]["exact"]
            return {"results": [r for r in self._zone if r["name"] == name]}, []
        if args.token == "pulumi:pulumi:readStackResourceOutputs":
            return {"outputs": self._state}, []
        raise AssertionError(f"the program calls {args.token}: it must not ask the world anything")


class _Monitor(MockMonitor):
    """Writes down what is registered, options and all."""

    def __init__(self, declared: Declared, answers: _Answers) -> None:
        super().__init__(answers)
        self.declared = declared

    def RegisterResource(self, request: Any) -> Any:  # noqa: N802  gRPC's name
        if request.type != "pulumi:pulumi:Stack":
            if request.name in self.declared.resources:
                raise AssertionError(f"two resources named {request.name}")
            self.declared.resources[request.name] = _registration(request)
        return super().RegisterResource(request)  # type: ignore[no-untyped-call]


def _registration(request: Any) -> Registration:
    return Registration(
        type=request.type,
        name=request.name,
        inputs=_plain(deserialize_properties(request.object)),
        options={
            "protect": request.protect,
            "parent": _short(request.parent),
            "dependencies": sorted(_short(urn) for urn in request.dependencies),
            "importId": request.importId,
            "deleteBeforeReplace": request.deleteBeforeReplace,
            "replaceOnChanges": sorted(request.replaceOnChanges),
            "additionalSecretOutputs": sorted(request.additionalSecretOutputs),
        },
        raw=json_format.MessageToDict(request.object),
    )


def without_secrets(raw: Any) -> Any:
    """Return inputs as sent, without what is marked secret (as the state would encrypt it)."""
    if isinstance(raw, dict):
        if _SECRET_MARK in raw.values():
            return None
        return {key: without_secrets(value) for key, value in raw.items()}
    return [without_secrets(value) for value in raw] if isinstance(raw, list) else raw


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        if _SECRET_MARK in value.values():
            return _plain(value["value"])
        return {key: _plain(inner) for key, inner in value.items() if key != "__provider"}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return value


def _short(urn: str) -> str:
    return urn.rpartition("::")[2]


def declare(
    config: Mapping[str, Any],
    stack: str = "sandbox",
    environment: Mapping[str, str] | None = None,
    secret_keys: tuple[str, ...] = (),
    zone: Sequence[Mapping[str, Any]] = (),
    state: Mapping[str, Any] = MappingProxyType({}),
    first_name: str | None = None,
) -> Declared:
    """Run the program; config: as in a stack file (full keys). Raises pulumi.RunError.

    zone: the records that its DNS zone has. state: what the stack's state has, by URN. first_name:
    the one that the state has kept of a stack that was renamed since.

    Pulumi's settings are context variables: in a context of its own a run leaves nothing behind
    for the tests after it.
    """
    answers = _Answers(zone, state, first_name)
    return _apart(lambda: _declare(config, stack, environment or {}, secret_keys, answers))


def in_a_program(program: Callable[[], object], monitor: MockMonitor) -> None:
    """Run what declares resources against a monitor, as `declare` runs the whole program."""

    def run() -> None:
        set_mocks(monitor.mocks, project="gridhub", stack="sandbox", preview=False, monitor=monitor)
        pulumi.runtime.test(program)()  # type: ignore[no-untyped-call]

    _apart(run)


def _apart(run: Callable[[], _Result]) -> _Result:
    with _event_loop():
        return contextvars.copy_context().run(run)


@contextlib.contextmanager
def _event_loop() -> Iterator[None]:
    """Have a loop, as the SDK expects: one that another test has run by itself is gone."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        yield
    finally:
        asyncio.set_event_loop(None)
        loop.close()


def _declare(
    config: Mapping[str, Any],
    stack: str,
    environment: Mapping[str, str],
    secret_keys: tuple[str, ...],
    answers: _Answers,
) -> Declared:
    declared = Declared()
    monitor = _Monitor(declared, answers)
    set_mocks(monitor.mocks, project="gridhub", stack=stack, preview=False, monitor=monitor)
    set_all_config(as_pulumi_gives(config), list(secret_keys))

    def program() -> pulumi.Output[None]:
        exported: dict[str, Any] = {}
        with (
            mock.patch.object(pulumi, "export", exported.__setitem__),
            # The graph is what is tested here, whatever the agent's sources are at this moment.
            mock.patch("sync.providers.agent_bundle.agent_digest", return_value=AGENT_DIGEST),
        ):
            runpy.run_path(str(PROJECT / "__main__.py"), run_name="__main__")
        return pulumi.Output.from_input(exported).apply(declared.outputs.update)

    with _environment(environment):
        pulumi.runtime.test(program)()  # type: ignore[no-untyped-call]
    return declared


@contextlib.contextmanager
def _environment(extra: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    for name in ("DOCKER_HOST", "CLOUDFLARE_API_TOKEN", "CLOUDFLARE_BASE_URL", "PULUMI_CONFIG"):
        os.environ.pop(name, None)
    os.environ.update(extra)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def as_pulumi_gives(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the strings that Pulumi hands to a program: JSON for everything but text."""
    return {
        key: value if isinstance(value, str) else json.dumps(value) for key, value in config.items()
    }


def stack_file(name: str) -> dict[str, Any]:
    """Return the config of stacks/Pulumi.NAME.yaml."""
    return dict(yaml.safe_load((STACKS / f"Pulumi.{name}.yaml").read_text())["config"])


def pinned_images() -> dict[str, str]:
    """Return image references by digest, as `gridhub pin-images` writes them."""
    services = ("zdb", "hub", "bootstrap", "caddy", "python")
    return {service: f"ghcr.io/example/{service}:v1@{DIGEST}" for service in services}


def production() -> dict[str, Any]:
    """Return a production stack's config that sets nothing but what it must."""
    return {
        "gridhub:domain": "grid.example.org",
        "gridhub:publicAddresses": {"ipv4": ["203.0.113.10"], "ipv6": ["2001:db8::10"]},
        "gridhub:acme": {"email": "operator@example.org"},
        "gridhub:images": pinned_images(),
        "gridhub:production": True,
    }
