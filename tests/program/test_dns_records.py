"""What stands in the zone already: adopted where it says just what the stack wants, else named."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pulumi
import pytest

from components.dns_records import Found, Ours, Record, Verdict, Wanted, judge
from tests.program.declared import DNS_RECORD, declare, production

HUB = Record("hub.grid.test", "A", "203.0.113.10", 60)
HUB6 = Record("hub.grid.test", "AAAA", "2001:db8::10", 60)
WANTED = Wanted("prod", {"dns-hub-a": HUB, "dns-hub-aaaa": HUB6})
SAME = Found("id1", "hub.grid.test", "A", "203.0.113.10", 60)
OTHER = replace(SAME, id="id2", content="198.51.100.9")
ALIAS = replace(SAME, id="id3", type="CNAME", content="old.example.org")

# name: (what the zone has, what is adopted, the obstacles: (id, who may take it, refused by it))
SITUATIONS: dict[str, tuple[list[Found], dict[str, str], list[tuple[str, str | None, bool]]]] = {
    "an empty zone": ([], {}, []),
    "the same": ([SAME], {"dns-hub-a": "id1"}, []),
    "the same, written otherwise": (
        [replace(SAME, type="AAAA", content="2001:DB8:0:0::10", name="Hub.grid.test.")],
        {"dns-hub-aaaa": "id1"},
        [],
    ),
    "the same, left by a run that was cut off": (
        [replace(SAME, comment="gridhub stack prod")],
        {"dns-hub-a": "id1"},
        [],
    ),
    "the same, of another stack": (
        [replace(SAME, comment="gridhub stack other")],
        {},
        [("id1", "dns-hub-a", True)],
    ),
    "the same, with a note": ([replace(SAME, comment="Bob's")], {}, [("id1", "dns-hub-a", True)]),
    "the same, with tags": ([replace(SAME, tags=("a:b",))], {}, [("id1", "dns-hub-a", True)]),
    "another ttl": ([replace(SAME, ttl=300)], {}, [("id1", "dns-hub-a", True)]),
    "proxied": ([replace(SAME, proxied=True)], {}, [("id1", "dns-hub-a", True)]),
    "another content": ([OTHER], {}, [("id2", "dns-hub-a", False)]),
    "the same and another": ([OTHER, SAME], {"dns-hub-a": "id1"}, [("id2", None, False)]),
    "two others": (
        [OTHER, replace(OTHER, id="id4", content="198.51.100.8")],
        {},
        [("id2", "dns-hub-a", False), ("id4", None, False)],
    ),
    "another ttl, and another content": (
        [OTHER, replace(SAME, ttl=300)],
        {},
        [("id1", "dns-hub-a", True), ("id2", None, False)],
    ),
    "an alias": ([ALIAS], {}, [("id3", None, True)]),
    "a delegation": ([replace(ALIAS, type="NS")], {}, [("id3", None, True)]),
    "a text": ([replace(SAME, type="TXT", content="203.0.113.10")], {}, []),
    "another name": ([replace(SAME, name="www.grid.test")], {}, []),
}


def _obstacles(verdict: Verdict) -> list[tuple[str, str | None, bool]]:
    return [(o.record.id, o.resource, o.refused) for o in verdict.obstacles]


@pytest.mark.parametrize("name", SITUATIONS)
def test_what_stands_there_is_adopted_or_named(name: str) -> None:
    found, adopted, obstacles = SITUATIONS[name]
    verdict = judge(WANTED, found, {})
    assert (verdict.adopted, _obstacles(verdict), verdict.gone) == (adopted, obstacles, ())
    assert all(len(obstacle.reason) > 10 for obstacle in verdict.obstacles)


def test_every_difference_is_told() -> None:
    odd = replace(SAME, ttl=1, proxied=True, comment="mine", tags=("x",))
    (obstacle,) = judge(WANTED, [odd], {}).obstacles
    for word in ("ttl 1 (the stack's: 60)", "proxied true", "'mine'", "tags x"):
        assert word in obstacle.reason


OURS = {"dns-hub-a": Ours("id1", "hub.grid.test"), "dns-hub-aaaa": Ours("id9", "hub.grid.test")}
THERE = [SAME, Found("id9", "hub.grid.test", "AAAA", "2001:db8::10", 60)]


@pytest.mark.parametrize(
    "drift",
    [
        {},
        {"comment": ""},
        {"comment": "somebody's"},
        {"ttl": 300},
        {"content": "198.51.100.9"},
        {"proxied": True},
    ],
)
def test_a_record_in_the_state_is_the_stacks_whatever_it_says(drift: dict[str, Any]) -> None:
    assert judge(WANTED, [replace(SAME, **drift), THERE[1]], OURS) == Verdict()


def test_a_record_made_later_beside_the_stacks_own_is_left_alone() -> None:
    assert judge(WANTED, [*THERE, OTHER], OURS) == Verdict()


def test_a_record_that_the_stacks_own_is_to_become_is_named_for_deletion() -> None:
    moved = [replace(SAME, content="203.0.113.9"), THERE[1], replace(SAME, id="id5")]
    assert _obstacles(judge(WANTED, moved, OURS)) == [("id5", None, True)]


def test_a_record_deleted_by_hand_is_told_and_one_of_a_former_name_is_not() -> None:
    assert judge(WANTED, THERE[1:], OURS).gone == ("dns-hub-a",)
    former = {**OURS, "dns-hub-a": Ours("id1", "hub.old.test")}
    assert judge(WANTED, THERE[1:], former) == Verdict()


TOKEN = {"CLOUDFLARE_API_TOKEN": "t" * 40}
ZONE = "0123456789abcdef0123456789abcdef"
DOMAIN = "grid.example.org"


def _config(**more: Any) -> dict[str, Any]:
    dns = {"provider": "cloudflare", "zoneId": ZONE, "ttl": 60}
    return {**production(), "gridhub:dns": dns, **{f"gridhub:{k}": v for k, v in more.items()}}


def _entry(**fields: Any) -> dict[str, Any]:
    entry = {"id": "id1", "name": f"hub.{DOMAIN}", "type": "A", "content": "203.0.113.10"}
    return {**entry, "ttl": 60.0, "proxied": False, "comment": None, "tags": [], **fields}


def _recorded(**fields: Any) -> dict[str, Any]:
    outputs = {"id": "id1", "name": f"hub.{DOMAIN}", "zoneId": ZONE, **fields}
    urn = f"urn:pulumi:prod::gridhub::gridhub:index:Dns${DNS_RECORD}::dns-hub-a"
    return {urn: {"type": DNS_RECORD, "outputs": outputs}}


def _imports(**arguments: Any) -> dict[str, str]:
    records = declare(_config(), "prod", TOKEN, **arguments).of_type(DNS_RECORD)
    return {r.name: r.options["importId"] for r in records if r.options["importId"]}


def test_the_program_imports_an_identical_record_until_it_is_in_the_state() -> None:
    zone = [_entry()]
    assert _imports(zone=zone) == {"dns-hub-a": f"{ZONE}/id1"}
    assert _imports(zone=zone, state=_recorded()) == {}
    assert _imports(zone=[_entry(comment=None)], state=_recorded()) == {}
    assert _imports(zone=zone, state=_recorded(zoneId="another")) == {"dns-hub-a": f"{ZONE}/id1"}


def test_the_program_names_every_record_in_the_way_and_declares_nothing_else() -> None:
    zone = [_entry(ttl=300), _entry(id="id2", name=f"bootstrap.{DOMAIN}", content="198.51.100.9")]
    with pytest.raises(pulumi.RunError, match="2 DNS records stand in the way") as refused:
        declare(_config(), "prod", TOKEN, zone=zone)
    said = str(refused.value)
    assert "nothing was changed" in said
    for resource, identity in (("dns-hub-a", "id1"), ("dns-bootstrap-a", "id2")):
        assert f"pulumi import {DNS_RECORD} {resource} {ZONE}/{identity} --stack prod " in said


def test_a_neighbour_may_be_allowed_and_what_the_zone_refuses_may_not() -> None:
    allowed = _config(preflight={"ignore": ["records"]})
    other = _entry(content="198.51.100.9")
    assert declare(allowed, "prod", TOKEN, zone=[other]).of_type(DNS_RECORD)
    with pytest.raises(pulumi.RunError, match="stands in the way"):
        declare(allowed, "prod", TOKEN, zone=[_entry(ttl=300)])


def test_the_command_fetches_a_token_of_the_stack_file_and_never_shows_it() -> None:
    token = "canary-token-0123456789-abcdefghijklmnop"
    config = _config(dnsApiToken=token)
    with pytest.raises(pulumi.RunError, match="stands in the way") as refused:
        declare(config, "prod", secret_keys=("gridhub:dnsApiToken",), zone=[_entry(ttl=300)])
    said = str(refused.value)
    assert '`CLOUDFLARE_API_TOKEN="$(pulumi config get dnsApiToken --stack prod)" pulumi im' in said
    assert token not in said
