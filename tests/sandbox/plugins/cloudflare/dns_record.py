"""`cloudflare:index/dnsRecord:DnsRecord` against Cloudflare's REST API, version 4.

Which changes replace is what terraform-provider-cloudflare 5.22 says, which pulumi-cloudflare
6.x wraps (internal/services/dns_record/schema.go): the plan modifier RequiresReplace stands at
`zone_id` and `type` only, so a changed name, content, TTL, proxied or comment is an update in
place (`PUT …/dns_records/ID`), and pulumi-cloudflare's resources.go asks for no delete before
the replacement. A relative name is the same as the full name that the API returns (custom.go).
An import wants `<zone_id>/<dns_record_id>` (resource.go, ImportState).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from typing_extensions import override

from tests.sandbox.plugins.cloudflare.api import CloudflareApi
from tests.sandbox.plugins.conversion import State
from tests.sandbox.plugins.resource import Handler, PlainError
from tests.sandbox.plugins.schema import Attribute, Fields, Kind, ResourceSchema, matching
from tests.sandbox.plugins.values import UNKNOWN

_TYPES = "A|AAAA|CNAME|MX|NS|OPENPGPKEY|PTR|TXT|CAA|CERT|DNSKEY|DS|HTTPS|LOC|NAPTR|SMIMEA|SRV"
_TYPES += "|SSHFP|SVCB|TLSA|URI"
_AUTOMATIC_TTL = 1


def _same_name(recorded: Any, given: Any) -> bool:
    if not recorded or not given:
        return False
    full, name = str(recorded).rstrip("."), str(given).rstrip(".")
    return name == "@" if "." in full and name == "@" else full.startswith(f"{name}.")


_FIELDS: Fields = {
    "zone_id": Attribute(Kind.STRING, required=True, forced=True),
    "name": Attribute(Kind.STRING, required=True, equivalent=_same_name),
    "type": Attribute(
        Kind.STRING, required=True, forced=True, validate=matching(f"^(?i:{_TYPES})$")
    ),
    "ttl": Attribute(Kind.INT, required=True),
    "content": Attribute(Kind.STRING, computed=True),
    "comment": Attribute(Kind.STRING),
    "priority": Attribute(Kind.INT),
    "proxied": Attribute(Kind.BOOL, default=False),
    "tags": Attribute(Kind.SET, computed=True),
    "data": Attribute(Kind.MAP, supported=False),
    "settings": Attribute(Kind.MAP, computed=True, supported=False),
    "include_shadow_metadata": Attribute(Kind.BOOL, supported=False),
    "private_routing": Attribute(Kind.BOOL, supported=False),
    "comment_modified_on": Attribute(Kind.STRING, output_only=True, renewed_by=("comment",)),
    "created_on": Attribute(Kind.STRING, output_only=True),
    "modified_on": Attribute(Kind.STRING, output_only=True, renewed_by=("*",)),
    "proxiable": Attribute(Kind.BOOL, output_only=True),
    "tags_modified_on": Attribute(Kind.STRING, output_only=True, renewed_by=("tags",)),
    "meta": Attribute(Kind.STRING, output_only=True),
}

DNS_RECORD = ResourceSchema(
    token="cloudflare:index/dnsRecord:DnsRecord",
    terraform="cloudflare_dns_record",
    fields=_FIELDS,
    version=500,
)

_SENT = ("name", "type", "ttl", "content", "comment", "priority", "proxied", "tags")
_SEEN = (
    *("type", "ttl", "content", "comment", "priority", "proxied", "proxiable", "tags"),
    *("comment_modified_on", "created_on", "modified_on", "tags_modified_on"),
)


class DnsRecordHandler(Handler):
    """The DNS records that an API token may edit."""

    schema = DNS_RECORD

    def __init__(self, api: CloudflareApi) -> None:
        self._api = api

    @override
    def create(self, planned: State) -> str:
        """Create a record."""
        if planned["proxied"] and planned["ttl"] != _AUTOMATIC_TTL:
            raise PlainError(
                "ttl must be set to 1 when `proxied` is true: When a DNS record is marked as "
                "`proxied` the TTL must be 1 as Cloudflare will control the TTL internally."
            )
        made = self._api.call("POST", _path(planned), _body(planned))
        return str(made["id"])

    @override
    def read(self, identity: str, state: State) -> tuple[str, State] | None:
        """Return what the API tells of the record, or None when it is gone."""
        seen = self._api.find(_path(state, identity))
        if seen is None:
            return None
        created_now = state["created_on"] is UNKNOWN
        view = _view(seen)
        # A create keeps the name as it was given; a refresh takes the full name of the API.
        return identity, view if created_now else {**view, "name": seen["name"]}

    @override
    def imported(self, identity: str) -> tuple[str, State]:
        """Return what the API tells of a record that no state has."""
        zone, separator, record = identity.partition("/")
        if not separator or "/" in record:
            raise PlainError(
                'invalid ID: expected urlencoded segments "<zone_id>/<dns_record_id>", '
                f'got "{identity}"'
            )
        zone, record = unquote(zone), unquote(record)
        seen = self._api.call("GET", _path({"zone_id": zone}, record))
        return record, {**_view(seen), "zone_id": zone, "name": seen["name"]}

    @override
    def update(self, identity: str, prior: State, planned: State) -> tuple[str, State] | None:
        """Change the record in place."""
        seen = self._api.call("PUT", _path(planned, identity), _body(planned))
        return identity, _view(seen)

    @override
    def delete(self, identity: str, state: State) -> None:
        """Delete the record; one that is gone already is an error here, as in the real plugin."""
        self._api.call("DELETE", _path(state, identity))


def _path(state: Mapping[str, Any], identity: str = "") -> str:
    path = f"zones/{state['zone_id']}/dns_records"
    return f"{path}/{identity}" if identity else path


def _body(planned: Mapping[str, Any]) -> dict[str, Any]:
    values = {name: planned[name] for name in _SENT}
    return {key: v for key, v in values.items() if v is not None and v is not UNKNOWN}


def _view(seen: Mapping[str, Any]) -> State:
    view: State = {name: seen.get(name) for name in _SEEN}
    view["tags"] = seen.get("tags") or []
    meta = seen.get("meta") or {}
    view["meta"] = json.dumps(meta, sort_keys=True, separators=(",", ":"))
    return view
