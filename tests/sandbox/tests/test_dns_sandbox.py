"""The sandbox's DNS: Cloudflare's API for records, and a server that answers from them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dns.message
import dns.query
import dns.rcode
import dns.rdatatype
import pytest
import requests

from tests.sandbox.dns import DnsSandbox

ROOT = Path(__file__).parents[3]
TOKEN = "token-of-this-test-with-40-characters-00"
ZONE = "example.org"


@pytest.fixture
def sandbox() -> Iterator[DnsSandbox]:
    with DnsSandbox([ZONE, "other.test"], token=TOKEN) as started:
        yield started


class Api:
    """A client of the REST API."""

    def __init__(self, sandbox: DnsSandbox, token: str | None = TOKEN) -> None:
        self._base = sandbox.api_url
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.records = f"/zones/{sandbox.zone_id(ZONE)}/dns_records"

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, dict[str, Any]]:
        response = requests.request(
            method, self._base + path, json=body, headers=self._headers, timeout=10
        )
        return response.status_code, response.json()

    def add(self, name: str, kind: str, content: str, **more: Any) -> dict[str, Any]:
        body = {"name": name, "type": kind, "content": content, "ttl": 1, **more}
        status, answer = self.call("POST", self.records, body)
        assert status == 200, answer
        return dict(answer["result"])


def look_up(sandbox: DnsSandbox, name: str, kind: str = "A") -> tuple[str, list[str]]:
    """Return the response code and what the answers of that type say."""
    address, port = sandbox.dns_endpoint
    query = dns.message.make_query(name, kind)
    answer = dns.query.udp(query, address, port=port, timeout=5)
    found = [
        record.to_text()
        for rrset in answer.answer
        if rrset.rdtype == dns.rdatatype.from_text(kind)
        for record in rrset
    ]
    return dns.rcode.to_text(answer.rcode()), sorted(found)


def test_a_record_lives_through_create_read_update_list_and_delete(sandbox: DnsSandbox) -> None:
    api = Api(sandbox)
    made = api.add("hub", "A", "203.0.113.7", comment="the hub", proxied=False)
    assert (made["name"], made["ttl"], made["proxiable"]) == ("hub.example.org", 1, True)
    path = f"{api.records}/{made['id']}"
    assert api.call("GET", path)[1]["result"] == made
    body = {**made, "content": "203.0.113.8", "ttl": 120}
    status, changed = api.call("PUT", path, body)
    assert (status, changed["result"]["content"], changed["result"]["ttl"]) == (
        200,
        "203.0.113.8",
        120,
    )
    assert changed["result"]["created_on"] == made["created_on"]
    assert api.call("PATCH", path, {"comment": None})[1]["result"]["content"] == "203.0.113.8"
    listed = api.call("GET", f"{api.records}?name=hub.example.org&type=A")[1]
    assert [record["id"] for record in listed["result"]] == [made["id"]]
    assert listed["result_info"]["total_count"] == 1
    assert api.call("GET", f"{api.records}?type=AAAA")[1]["result"] == []
    assert api.call("DELETE", path)[1]["result"] == {"id": made["id"]}
    status, gone = api.call("GET", path)
    assert (status, gone["errors"][0]["code"]) == (404, 81044)


def test_zones_are_listed_by_an_id_that_their_name_decides(sandbox: DnsSandbox) -> None:
    api = Api(sandbox)
    zones = api.call("GET", f"/zones?name={ZONE}")[1]["result"]
    assert [(zone["id"], zone["name"]) for zone in zones] == [(sandbox.zone_id(ZONE), ZONE)]
    assert api.call("GET", f"/zones/{zones[0]['id']}")[1]["result"]["status"] == "active"
    assert len(api.call("GET", "/zones")[1]["result"]) == 2
    status, answer = api.call("GET", f"/zones/{'0' * 32}/dns_records")
    assert (status, answer["errors"][0]["code"]) == (404, 7003)
    assert api.call("GET", "/accounts")[1]["errors"][0]["code"] == 7000


@pytest.mark.parametrize(("token", "status", "code"), [(None, 400, 9106), ("wrong", 403, 9109)])
def test_without_the_token_nothing_is_told_or_changed(
    sandbox: DnsSandbox, token: str | None, status: int, code: int
) -> None:
    api = Api(sandbox, token)
    for method in ("GET", "POST"):
        answered, body = api.call(method, api.records, {} if method == "POST" else None)
        assert (answered, body["success"], body["errors"][0]["code"]) == (status, False, code)
    assert sandbox.zones.records() == []
    assert Api(sandbox).call("GET", "/user/tokens/verify")[1]["result"]["status"] == "active"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"content": "300.1.1.1"}, 9005),
        ({"type": "AAAA"}, 9006),
        ({"content": ""}, 9007),
        ({"type": "LOC"}, 9004),
        ({"ttl": 30}, 9021),
        ({"ttl": "soon"}, 9021),
        ({"name": "a..b"}, 9000),
        ({"name": ""}, 9000),
        ({"name": "x" * 64}, 9000),
        ({"name": "a.*.b"}, 9000),
    ],
)
def test_wrong_records_are_refused_in_cloudflares_format(
    sandbox: DnsSandbox, change: dict[str, Any], code: int
) -> None:
    api = Api(sandbox)
    body = {"name": "hub", "type": "A", "content": "203.0.113.7", "ttl": 1, **change}
    status, answer = api.call("POST", api.records, body)
    assert (status, answer["success"], answer["result"]) == (400, False, None)
    assert answer["errors"][0]["code"] == 1004
    assert answer["errors"][0]["error_chain"][0]["code"] == code
    assert sandbox.zones.records() == []


def test_records_that_exclude_each_other_are_refused(sandbox: DnsSandbox) -> None:
    api = Api(sandbox)
    api.add("hub", "A", "203.0.113.7")
    api.add("hub", "A", "203.0.113.8")
    twin = {"name": "hub.example.org", "type": "A", "content": "203.0.113.7", "ttl": 1}
    assert api.call("POST", api.records, twin)[1]["errors"][0]["code"] == 81058
    alias = {"name": "hub", "type": "CNAME", "content": "b.example.org", "ttl": 1}
    assert api.call("POST", api.records, alias)[1]["errors"][0]["code"] == 81053
    twin["ttl"], twin["proxied"] = 300, True
    assert api.call("POST", api.records, twin)[1]["errors"][0]["code"] == 81058
    api.add("www", "CNAME", "hub.example.org")
    address = {"name": "www", "type": "A", "content": "203.0.113.7", "ttl": 1}
    assert api.call("POST", api.records, address)[1]["errors"][0]["code"] == 81054
    second = {"name": "www", "type": "CNAME", "content": "b.example.org", "ttl": 1}
    assert api.call("POST", api.records, second)[1]["errors"][0]["code"] == 81053


def test_records_are_found_by_parts_of_what_they_say(sandbox: DnsSandbox) -> None:
    api = Api(sandbox)
    api.add("hub", "A", "203.0.113.7", comment="of the hub")
    api.add("www", "CNAME", "hub.example.org")
    for query, names in (
        ("name.exact=hub.example.org", ["hub.example.org"]),
        ("name.exact=hub", []),
        ("name.endswith=example.org", ["hub.example.org", "www.example.org"]),
        ("name.startswith=w&type=CNAME", ["www.example.org"]),
        ("comment.contains=the+hub", ["hub.example.org"]),
        ("content.contains=hub", ["www.example.org"]),
    ):
        listed = api.call("GET", f"{api.records}?{query}")[1]["result"]
        assert [record["name"] for record in listed] == names, query


def test_a_body_that_is_no_object_is_refused(sandbox: DnsSandbox) -> None:
    api = Api(sandbox)
    assert api.call("POST", api.records, ["a"])[1]["errors"][0]["code"] == 9207


def test_names_resolve_over_both_families_and_the_apex(sandbox: DnsSandbox) -> None:
    api = Api(sandbox)
    api.add("@", "A", "203.0.113.1")
    api.add("hub", "A", "203.0.113.7")
    api.add("hub", "A", "203.0.113.8")
    api.add("hub", "AAAA", "2001:db8::7")
    assert look_up(sandbox, "hub.example.org") == ("NOERROR", ["203.0.113.7", "203.0.113.8"])
    assert look_up(sandbox, "HUB.Example.org", "AAAA") == ("NOERROR", ["2001:db8::7"])
    assert look_up(sandbox, "example.org") == ("NOERROR", ["203.0.113.1"])
    assert look_up(sandbox, "example.org", "AAAA") == ("NOERROR", [])
    assert look_up(sandbox, "none.example.org") == ("NXDOMAIN", [])
    assert look_up(sandbox, "example.net") == ("REFUSED", [])


def test_a_wildcard_answers_for_what_has_no_record_of_its_own(sandbox: DnsSandbox) -> None:
    api = Api(sandbox)
    api.add("*", "A", "203.0.113.9")
    api.add("hub", "AAAA", "2001:db8::7")
    api.add("deep.below", "A", "203.0.113.5")
    assert look_up(sandbox, "bootstrap.example.org") == ("NOERROR", ["203.0.113.9"])
    assert look_up(sandbox, "a.b.example.org") == ("NOERROR", ["203.0.113.9"])
    assert look_up(sandbox, "hub.example.org") == ("NOERROR", [])
    assert look_up(sandbox, "below.example.org") == ("NOERROR", [])
    assert look_up(sandbox, "other.below.example.org") == ("NXDOMAIN", [])


def test_aliases_are_followed_inside_the_zone(sandbox: DnsSandbox) -> None:
    api = Api(sandbox)
    api.add("hub", "A", "203.0.113.7")
    api.add("www", "CNAME", "hub.example.org")
    api.add("round", "CNAME", "round.example.org")
    api.add("text", "TXT", "hello")
    assert look_up(sandbox, "www.example.org") == ("NOERROR", ["203.0.113.7"])
    assert look_up(sandbox, "www.example.org", "CNAME") == ("NOERROR", ["hub.example.org."])
    assert look_up(sandbox, "round.example.org") == ("NOERROR", [])
    assert look_up(sandbox, "text.example.org", "TXT") == ("NOERROR", ['"hello"'])


def test_records_outlive_the_sandbox_with_a_state_file(tmp_path: Path) -> None:
    state = tmp_path / "dns.json"
    with DnsSandbox([ZONE], token=TOKEN, state_file=state) as first:
        Api(first).add("hub", "A", "203.0.113.7", tags=["a:b"])
    with DnsSandbox(token=TOKEN, state_file=state) as second:
        assert look_up(second, "hub.example.org") == ("NOERROR", ["203.0.113.7"])
        assert second.zones.records()[0].tags == ("a:b",)


def test_it_runs_as_a_process_and_ends_when_told(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(f"{TOKEN}\n")
    command = [sys.executable, "-m", "tests.sandbox.dns", "serve", "--zone", ZONE]
    command += ["--token-file", str(token), "--state", str(tmp_path / "state.json")]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        answer = requests.get(
            f"{ready['apiUrl']}/zones/{ready['zones'][ZONE]}/dns_records",
            headers={"Authorization": f"Bearer {TOKEN}"},
            timeout=10,
        )
        assert answer.json()["result"] == []
        process.terminate()
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait(20)
        if process.stdout:
            process.stdout.close()


def test_an_endpoint_is_told_only_while_it_serves() -> None:
    idle = DnsSandbox([ZONE], token=TOKEN)
    with pytest.raises(RuntimeError, match="call start"):
        _ = idle.api_url
    with pytest.raises(RuntimeError, match="call start"):
        _ = idle.dns_endpoint
