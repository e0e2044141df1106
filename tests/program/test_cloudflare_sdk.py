"""What the program asks of Cloudflare's plugin is what the plugin's own SDK would ask."""

import importlib
from collections.abc import Callable
from typing import Any

import pulumi
import pytest
from google.protobuf import json_format
from pulumi.runtime import Mocks
from pulumi.runtime.mocks import MockCallArgs, MockMonitor, MockResourceArgs

from components import cloudflare
from tests.program.declared import in_a_program

# What the SDK says of parts of its own.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:pulumi_cloudflare")
RECORD = {
    "zoneId": "z",
    "name": "hub.grid.test",
    "type": "A",
    "content": "203.0.113.10",
    "ttl": 300,
    "proxied": False,
    "comment": "gridhub stack one",
}
ENTRY = {**RECORD, "id": "i", "tags": ["a:b"], "settings": {}}


class Answers(Mocks):
    def new_resource(self, args: MockResourceArgs) -> tuple[str | None, dict[Any, Any]]:
        return f"{args.name}-id", dict(args.inputs)

    def call(self, _args: MockCallArgs) -> tuple[dict[Any, Any], list[tuple[str, str]] | None]:
        return {"results": [ENTRY]}, []


class Listening(MockMonitor):
    """Notes every request as it would be sent."""

    def __init__(self) -> None:
        super().__init__(Answers())
        self.requests: list[Any] = []

    def RegisterResource(self, request: Any) -> Any:  # noqa: N802 - gRPC's name
        if request.type != "pulumi:pulumi:Stack":
            self._note(request)
        return super().RegisterResource(request)  # type: ignore[no-untyped-call]

    def Invoke(self, request: Any) -> Any:  # noqa: N802 - gRPC's name
        self._note(request)
        return super().Invoke(request)  # type: ignore[no-untyped-call]

    def _note(self, request: Any) -> None:
        sent = json_format.MessageToDict(request)
        # Where the program calls from, and for which classes of the SDK.
        for ours in ("sourcePosition", "stackTrace", "packageRef"):
            sent.pop(ours, None)
        self.requests.append(sent)


@pytest.fixture(scope="module")
def sdk() -> Any:
    return importlib.import_module("pulumi_cloudflare")


def options(provider: pulumi.ProviderResource) -> pulumi.ResourceOptions:
    return pulumi.ResourceOptions(provider=provider, delete_before_replace=True, import_="z/i")


def requests_of(program: Callable[[], object]) -> list[Any]:
    listening = Listening()
    in_a_program(program, listening)
    return listening.requests


def test_a_provider_and_a_record_are_registered_as_by_the_sdk(sdk: Any) -> None:
    def ours() -> None:
        provider = cloudflare.Provider(
            "p", pulumi.Output.secret("t"), "http://api", pulumi.ResourceOptions()
        )
        cloudflare.DnsRecord("r", RECORD, options(provider))

    def theirs() -> None:
        provider = sdk.Provider("p", api_token=pulumi.Output.secret("t"), base_url="http://api")
        inputs = {"zone_id" if key == "zoneId" else key: value for key, value in RECORD.items()}
        sdk.DnsRecord("r", opts=options(provider), **inputs)

    assert len(requests_of(ours)) == 2
    assert requests_of(ours) == requests_of(theirs)


def test_records_are_asked_for_as_by_the_sdk_and_read_as_it_reads_them(sdk: Any) -> None:
    found: list[Any] = []

    def ours() -> None:
        provider = cloudflare.Provider("p", None, None, pulumi.ResourceOptions())
        found.extend(cloudflare.dns_records(provider, "z", "hub.grid.test"))

    def theirs() -> None:
        opts = pulumi.InvokeOptions(provider=sdk.Provider("p"))
        answer = sdk.get_dns_records(zone_id="z", name={"exact": "hub.grid.test"}, opts=opts)
        found.extend(answer.results)

    assert requests_of(ours) == requests_of(theirs)
    mine, other = found
    for key in ("id", "name", "type", "content", "ttl", "proxied", "comment", "tags"):
        theirs_has = getattr(other, key)
        assert getattr(mine, key) == (tuple(theirs_has) if key == "tags" else theirs_has)
