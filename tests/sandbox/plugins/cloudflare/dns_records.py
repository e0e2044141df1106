"""`cloudflare:index/getDnsRecords:getDnsRecords`: the records of a zone, by name and type.

As terraform-provider-cloudflare 5.22 lists them (internal/services/dns_record/list_data_source.go):
filters go to the API as they are, `max_items` is 1,000 where none is given.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from tests.sandbox.plugins.cloudflare.api import CloudflareApi
from tests.sandbox.plugins.resource import PlainError
from tests.sandbox.plugins.schema import camel

TOKEN: Final = "cloudflare:index/getDnsRecords:getDnsRecords"
_SUPPORTED: Final = ("zoneId", "name", "type", "maxItems")
_MOST: Final = 1000
# What the real one fills in where nothing is given.
_COMPUTED: Final = {
    "direction": "asc",
    "includeShadowMetadata": False,
    "match": "all",
    "order": "type",
    "proxied": False,
    "tagMatch": "all",
}
_SHOWN: Final = (
    *("id", "name", "type", "content", "ttl", "proxied", "proxiable", "comment", "tags"),
    *("priority", "created_on", "modified_on", "comment_modified_on", "tags_modified_on"),
)


class DnsRecordList:
    """The function, over one API."""

    def __init__(self, api: CloudflareApi) -> None:
        self._api = api

    def __call__(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments, what was filled in, and the records as `results`."""
        given = {key: value for key, value in arguments.items() if value is not None}
        unknown = sorted(set(given) - set(_SUPPORTED))
        if unknown:
            raise PlainError(f"{unknown[0]} is not supported by the sandbox's stand-in plugin")
        query = {f"name.{how}": str(value) for how, value in given.get("name", {}).items() if value}
        query |= {"type": str(given["type"])} if "type" in given else {}
        path = f"zones/{given.get('zoneId', '')}/dns_records"
        found = self._api.listed(path, query, int(given.get("maxItems") or _MOST))
        return {**_COMPUTED, **given, "results": [_shown(record) for record in found]}


def _shown(record: Mapping[str, Any]) -> dict[str, Any]:
    return {camel(key): record.get(key) for key in _SHOWN}
