"""The stand-in cloudflare plugin against the sandbox's DNS API."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.sandbox.dns import DnsSandbox
from tests.sandbox.plugins.client import Created, PluginCallError, PluginCalls
from tests.sandbox.plugins.cloudflare.dns_records import TOKEN as LIST
from tests.sandbox.plugins.cloudflare.plugin import CloudflarePlugin
from tests.sandbox.plugins.serve import start
from tests.sandbox.plugins.values import UNKNOWN, Secret

RECORD = "cloudflare:index/dnsRecord:DnsRecord"
TOKEN = "token-of-this-test-with-40-characters-00"
ZONE = "example.org"


@dataclass(frozen=True)
class World:
    """A plugin with its configuration, and the API it talks to."""

    plugin: PluginCalls
    api: DnsSandbox

    def inputs(self, **changes: Any) -> dict[str, Any]:
        """Return the checked inputs of a record."""
        given = {
            "zoneId": self.api.zone_id(ZONE),
            "name": "hub.example.org",
            "type": "A",
            "ttl": 1,
            "content": "203.0.113.7",
            **changes,
        }
        return self.plugin.check(RECORD, {k: v for k, v in given.items() if v is not None})

    def make(self, **changes: Any) -> Created:
        """Create a record."""
        return self.plugin.create(RECORD, self.inputs(**changes))


@pytest.fixture
def world() -> Iterator[World]:
    server, port = start(CloudflarePlugin())
    calls = PluginCalls(port, "cloudflare")
    with DnsSandbox([ZONE, "other.test"], token=TOKEN) as api:
        calls.configure({"apiToken": TOKEN, "baseUrl": api.api_url})
        yield World(calls, api)
    calls.close()
    server.stop(None)


def test_a_record_is_made_read_and_deleted(world: World) -> None:
    made = world.make(comment="the hub")
    (record,) = world.api.zones.records()
    assert (made.id, record.name, record.content) == (record.id, "hub.example.org", "203.0.113.7")
    assert made.properties["proxied"] is False
    assert made.properties["createdOn"] == made.properties["modifiedOn"] == record.created_on
    assert made.properties["meta"] == "{}"
    assert "proxied" not in made.inputs
    seen = world.plugin.read(RECORD, made.id, made.properties, made.inputs)
    assert seen.properties == made.properties
    assert seen.inputs == made.inputs
    world.plugin.delete(RECORD, made.id, made.properties)
    assert world.api.zones.records() == []
    assert world.plugin.read(RECORD, made.id, made.properties, made.inputs).id == ""


def test_an_unchanged_record_has_no_difference(world: World) -> None:
    made = world.make(proxied=False, tags=["b:1", "a:2"])
    news = world.inputs(proxied=False, tags=["a:2", "b:1"])
    assert not world.plugin.diff(RECORD, made.id, made.properties, news).changes


@pytest.mark.parametrize(
    "change",
    [
        {"content": "203.0.113.8"},
        {"ttl": 120},
        {"proxied": True},
        {"comment": "new"},
        {"name": "other.example.org"},
        {"tags": ["a:b"]},
    ],
)
def test_a_change_is_made_in_place(world: World, change: dict[str, Any]) -> None:
    made = world.make()
    news = world.inputs(**change)
    answer = world.plugin.diff(RECORD, made.id, made.properties, news)
    assert (answer.changes, answer.replaces, answer.detailed) == (True, (), {})
    updated = world.plugin.update(RECORD, made.id, made.properties, news)
    (record,) = world.api.zones.records()
    assert record.id == made.id
    (key,) = change
    assert record.as_json()[key] == change[key] == updated.properties[key]
    assert updated.properties["modifiedOn"] > made.properties["modifiedOn"]
    assert updated.properties["createdOn"] == made.properties["createdOn"]


@pytest.mark.parametrize(("key", "value"), [("zoneId", "f" * 32), ("type", "AAAA")])
def test_another_zone_or_type_replaces(world: World, key: str, value: str) -> None:
    made = world.make()
    news = {**made.inputs, key: value}
    answer = world.plugin.diff(RECORD, made.id, made.properties, news)
    assert answer.replaces == (key,)
    assert not answer.delete_before_replace


def test_a_relative_name_is_the_full_name_that_the_api_returns(world: World) -> None:
    made = world.make(name="hub")
    assert made.properties["name"] == "hub"
    seen = world.plugin.read(RECORD, made.id, made.properties, made.inputs)
    assert seen.properties["name"] == "hub.example.org"
    again = world.plugin.diff(RECORD, made.id, seen.properties, world.inputs(name="hub"))
    assert not again.changes


def test_a_record_changed_behind_the_stack_is_repaired(world: World) -> None:
    made = world.make()
    (record,) = world.api.zones.records()
    world.api.zones.patch(record.zone_id, record.id, {"content": "198.51.100.1"})
    seen = world.plugin.read(RECORD, made.id, made.properties, made.inputs)
    assert seen.properties["content"] == seen.inputs["content"] == "198.51.100.1"
    assert world.plugin.diff(RECORD, made.id, seen.properties, made.inputs).changes
    world.plugin.update(RECORD, made.id, seen.properties, made.inputs)
    assert world.api.zones.records()[0].content == "203.0.113.7"


def test_a_preview_tells_what_it_can_and_calls_nothing(world: World) -> None:
    inputs = world.inputs()
    previewed = world.plugin.create(RECORD, inputs, preview=True)
    assert previewed.properties["id"] is UNKNOWN
    assert previewed.properties["createdOn"] is UNKNOWN
    assert previewed.properties["content"] == "203.0.113.7"
    assert world.api.requests_log == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"content": "nonsense"}, "Content for A record must be a valid IPv4 address."),
        ({"ttl": 5}, "TTL must be between 60 and 86400 seconds, or 1 for Automatic."),
        ({"zoneId": "f" * 32}, "perhaps your object identifier is invalid"),
        ({"proxied": True, "ttl": 300}, "ttl must be set to 1 when `proxied` is true"),
    ],
)
def test_what_the_api_refuses_is_told(world: World, change: dict[str, Any], message: str) -> None:
    with pytest.raises(PluginCallError) as refused:
        world.make(**change)
    assert message in str(refused.value)
    assert world.api.zones.records() == []


def test_a_twin_is_refused_and_a_second_address_is_not(world: World) -> None:
    world.make()
    with pytest.raises(PluginCallError, match="An identical record already exists"):
        world.make()
    world.make(content="203.0.113.8")
    world.make(type="AAAA", content="2001:db8::7")
    assert len(world.api.zones.records()) == 3


def test_deleting_what_is_gone_fails_as_with_the_real_plugin(world: World) -> None:
    made = world.make()
    world.api.zones.delete(world.api.zone_id(ZONE), made.id)
    with pytest.raises(PluginCallError, match=r"404 .*Record does not exist\."):
        world.plugin.delete(RECORD, made.id, made.properties)


def test_the_token_is_a_secret_and_a_wrong_one_is_told(world: World) -> None:
    checked = world.plugin.check_config({"apiToken": TOKEN, "baseUrl": world.api.api_url})
    assert checked == {"apiToken": Secret(TOKEN), "baseUrl": world.api.api_url}
    world.plugin.configure({"apiToken": "wrong", "baseUrl": world.api.api_url})
    with pytest.raises(PluginCallError, match="Invalid access token") as refused:
        world.make()
    assert "wrong" not in str(refused.value)


@pytest.mark.parametrize("token", ["short", TOKEN + " ", f"Bearer {TOKEN}", "x" * 81, "ä" * 40])
def test_a_token_of_another_form_is_refused_before_any_call_and_not_repeated(
    world: World, token: str
) -> None:
    with pytest.raises(PluginCallError, match="API tokens must only contain") as refused:
        world.plugin.check_config({"apiToken": token})
    assert token not in str(refused.value)
    assert world.api.requests_log == []


def test_an_import_reads_a_record_that_then_shows_no_change(world: World) -> None:
    zone = world.api.zone_id(ZONE)
    record = world.api.zones.create(
        zone, {"name": "hub", "type": "A", "content": "203.0.113.7", "ttl": 300, "comment": "mine"}
    )
    seen = world.plugin.read(RECORD, f"{zone}/{record.id}", {}, {})
    assert seen.id == record.id
    assert seen.inputs == {
        "zoneId": zone,
        "name": "hub.example.org",
        "type": "A",
        "ttl": 300,
        "content": "203.0.113.7",
        "comment": "mine",
        "__defaults": [],
    }
    news = world.inputs(ttl=300, comment="mine", proxied=False)
    assert not world.plugin.diff(RECORD, seen.id, seen.properties, news).changes
    changed = world.inputs(ttl=60, comment="mine")
    assert world.plugin.diff(RECORD, seen.id, seen.properties, changed).changes
    assert world.plugin.read(RECORD, seen.id, seen.properties, seen.inputs).inputs == seen.inputs


@pytest.mark.parametrize(
    ("identity", "message"),
    [
        ("{record}", r'expected urlencoded segments "<zone_id>/<dns_record_id>"'),
        ("{zone}/{record}/x", "expected urlencoded segments"),
        ("{zone}/absent", r"404 .*Record does not exist\."),
        ("{other}/{record}", r"404 .*Record does not exist\."),
    ],
)
def test_an_import_of_anything_else_is_refused(world: World, identity: str, message: str) -> None:
    made = world.make()
    other = world.api.zone_id("other.test")
    wanted = identity.format(zone=world.api.zone_id(ZONE), record=made.id, other=other)
    with pytest.raises(PluginCallError, match=message):
        world.plugin.read(RECORD, wanted, {}, {})


def test_records_are_listed_by_name_and_type(world: World) -> None:
    zone = world.api.zone_id(ZONE)
    for number in range(250):
        record = {"name": "hub", "type": "A", "content": f"203.0.113.{number}", "ttl": 1}
        world.api.zones.create(zone, record)
    world.make(type="AAAA", content="2001:db8::7")
    world.make(name="other.example.org")

    def contents(**query: Any) -> list[str]:
        answer = world.plugin.invoke(LIST, {"zoneId": zone, **query})
        return [record["content"] for record in answer["results"]]

    assert len(contents()) == 252
    assert len(contents(name={"exact": "hub.example.org"})) == 251
    assert contents(name={"exact": "hub.example.org"}, type="AAAA") == ["2001:db8::7"]
    assert contents(name={"exact": "none.example.org"}) == []
    assert contents(maxItems=2) == ["203.0.113.0", "203.0.113.1"]
    with pytest.raises(PluginCallError, match="search is not supported"):
        contents(search="hub")


def test_an_unreachable_api_is_told_with_the_remedy(world: World) -> None:
    world.api.stop()
    with pytest.raises(PluginCallError, match="check the provider's baseUrl and the network"):
        world.make()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"type": "NONSENSE"}, "doesn't match the pattern"),
        ({"name": None}, 'The argument "name" is required'),
        ({"data": {"flags": 0}}, "data is not supported by the sandbox's stand-in plugin"),
    ],
)
def test_wrong_inputs_are_refused_by_name(
    world: World, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(PluginCallError) as refused:
        world.inputs(**change)
    assert message in str(refused.value)


def test_configuration_that_is_not_supported_is_refused_by_name(world: World) -> None:
    with pytest.raises(PluginCallError, match="apiKey is not supported"):
        world.plugin.check_config({"apiKey": "k"})
