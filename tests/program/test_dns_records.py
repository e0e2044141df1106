"""What stands in the zone already: adopted where it says just what the stack wants, else named."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pulumi
import pytest

from components.dns import assigned
from components.dns_adoption import (
    Found,
    Ours,
    Record,
    RecordType,
    Verdict,
    Wanted,
    judge,
)
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
    for word in ("ttl 1 (the stack's: 60)", "proxied true", "'mine'", "tags 'x'"):
        assert word in obstacle.reason


def test_what_others_wrote_in_the_zone_is_quoted() -> None:
    for content in ("a\x1b[2J\n@team", "fe80::1%\x1b[2J"):
        assert str(replace(ALIAS, content=content)) == f"hub.grid.test CNAME {content!r}"
    assert str(SAME) == "hub.grid.test A 203.0.113.10"
    (obstacle,) = judge(WANTED, [replace(SAME, tags=("a\x1b[2J",))], {}).obstacles
    assert obstacle.reason.isprintable()


OURS = {
    "dns-hub-a": Ours("id1", "hub.grid.test", "A", "203.0.113.10"),
    "dns-hub-aaaa": Ours("id9", "hub.grid.test", "AAAA", "2001:db8::10"),
}
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
    former = {**OURS, "dns-hub-a": replace(OURS["dns-hub-a"], name="hub.old.test")}
    assert judge(WANTED, THERE[1:], former) == Verdict()
    unwanted = {**OURS, "dns-hub-a-2": replace(OURS["dns-hub-a"], id="id8", content="192.0.2.1")}
    assert judge(WANTED, THERE, unwanted).gone == ("dns-hub-a-2",)


NOTE = replace(SAME, comment="Bob's")
# name: (what the zone has, the obstacles where the stack's record is at another name until now, and
# where it was deleted by hand: (id, who may take it, refused by the zone, only after a refresh))
_Way = tuple[str, str | None, bool, bool]
NOT_THERE: dict[str, tuple[list[Found], list[_Way], list[_Way]]] = {
    "nothing": ([], [], []),
    "the same": ([SAME], [("id1", None, True, False)], [("id1", "dns-hub-a", True, True)]),
    "a note": ([NOTE], [("id1", None, True, False)], [("id1", "dns-hub-a", True, True)]),
    "another": ([OTHER], [("id2", None, False, False)], [("id2", "dns-hub-a", False, True)]),
    "an alias": ([ALIAS], [("id3", None, True, False)], [("id3", None, True, False)]),
    "an alias, written otherwise": (
        [replace(ALIAS, name="HUB.grid.test.")],
        [("id3", None, True, False)],
        [("id3", None, True, False)],
    ),
    "the same and another": (
        [SAME, OTHER],
        [("id1", None, True, False), ("id2", None, False, False)],
        [("id1", "dns-hub-a", True, True), ("id2", None, False, False)],
    ),
}


@pytest.mark.parametrize("name", NOT_THERE)
def test_a_record_that_is_to_come_to_its_name_is_judged_as_a_new_one(name: str) -> None:
    found, moved, deleted = NOT_THERE[name]
    wanted = Wanted("prod", {"dns-hub-a": HUB})
    for own, obstacles, gone in (
        (Ours("id0", "hub.old.test", "A", HUB.content), moved, ()),
        (Ours("id0", "Hub.grid.test.", "A", HUB.content), deleted, ("dns-hub-a",)),
    ):
        verdict = judge(wanted, found, {"dns-hub-a": own})
        ways = [(o.record.id, o.resource, o.refused, o.after_refresh) for o in verdict.obstacles]
        assert (verdict.adopted, ways, verdict.gone) == ({}, obstacles, gone)


# name: (the last bytes of the addresses by number in the state, those wanted, those by number then)
NUMBERS: dict[str, tuple[dict[int, int], list[int], dict[int, int]]] = {
    "from empty": ({}, [10, 11], {1: 10, 2: 11}),
    "unchanged": ({1: 10, 2: 11}, [10, 11], {1: 10, 2: 11}),
    "swapped": ({1: 10, 2: 11}, [11, 10], {1: 10, 2: 11}),
    "the first removed": ({1: 10, 2: 11}, [11], {2: 11}),
    "the last removed": ({1: 10, 2: 11}, [10], {1: 10}),
    "the only one changed": ({1: 10}, [11], {1: 11}),
    "one changed": ({1: 10, 2: 11}, [12, 11], {1: 12, 2: 11}),
    "one changed and swapped": ({1: 10, 2: 11}, [11, 12], {1: 12, 2: 11}),
    "one added": ({1: 10}, [10, 11], {1: 10, 2: 11}),
    "one added before": ({1: 10}, [9, 10], {1: 10, 2: 9}),
    "one added where the first was removed": ({2: 11}, [11, 12], {1: 12, 2: 11}),
    "one changed where the first was removed": ({2: 11}, [12], {2: 12}),
    "one kept of a dozen": ({1: 1, 2: 2, 9: 9, 12: 12}, [12, 3, 4], {1: 3, 2: 4, 12: 12}),
    "by number, not by letter": ({2: 2, 10: 10}, [7], {2: 7}),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_an_address_keeps_its_resource_and_a_changed_one_takes_a_former_ones(name: str) -> None:
    state, wanted, expected = NUMBERS[name]
    kinds: dict[RecordType, str] = {"A": "192.0.2.", "AAAA": "fd00::"}
    for kind, network in kinds.items():
        stem = f"dns-hub-{kind.lower()}"
        # What is of another stem, and how an address is written, must not matter.
        ours = {"dns-hub": Ours("x", "x", "A", "x"), "dns-hub-a-b": Ours("y", "y", "A", "y")}
        for number, byte in state.items():
            content = f"{network}{byte}".replace("fd00::", "FD00:0::")
            ours[_resource(stem, number)] = Ours(f"id{number}", "hub.grid.test", kind, content)
        records = [Record("hub.grid.test", kind, f"{network}{byte}", 60) for byte in wanted]
        named = {key: record.content for key, record in assigned({stem: records}, ours).items()}
        assert named == {_resource(stem, n): f"{network}{byte}" for n, byte in expected.items()}


def _resource(stem: str, number: int) -> str:
    return stem if number == 1 else f"{stem}-{number}"


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
    outputs = {"id": "id1", "name": f"hub.{DOMAIN}", "zoneId": ZONE, "type": "A", **fields}
    outputs.setdefault("content", "203.0.113.10")
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


@pytest.mark.parametrize("lost", ["id", "name", "zoneId", "type", "content"])
def test_a_state_that_has_a_record_in_part_adopts_nothing_and_ends_nothing(
    lost: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert _imports(zone=[_entry()], state=_recorded(**{lost: None})) == {}
    assert "has dns-hub-a only in part" in caplog.text


def test_a_state_that_can_not_be_read_is_not_the_zone(caplog: pytest.LogCaptureFixture) -> None:
    assert _imports(zone=[_entry()], state=None) == {}
    said = caplog.text
    assert "the stack's state could not be read" in said
    assert "DNS zone" not in said


def test_a_state_that_up_is_just_writing_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    invoke, failures = pulumi.runtime.invoke, [OSError("failed to load checkpoint: EOF")]

    def fails_once(token: str, *rest: Any, **options: Any) -> Any:
        if token.endswith("readStackResourceOutputs") and failures:
            raise failures.pop()
        return invoke(token, *rest, **options)

    monkeypatch.setattr(pulumi.runtime, "invoke", fails_once)
    assert _imports(zone=[_entry()]) != {}
    assert failures == []


def test_a_record_that_is_gone_is_told_also_where_another_stands_in_the_way(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(pulumi.RunError, match="run `pulumi refresh`, which drops"):
        declare(_config(), "prod", TOKEN, zone=[_entry(id="id2")], state=_recorded())
    assert "(dns-hub-a) is not in the zone any more" in caplog.text


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
