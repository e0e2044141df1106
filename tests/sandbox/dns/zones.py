"""Zones and records, with the checks that Cloudflare makes of them.

Codes and messages are those of Cloudflare's API, version 4 (the DNS records reference).
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import os
import threading
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

AUTOMATIC_TTL: Final = 1
_TTL_SECONDS: Final = range(60, 86401)
_TYPES: Final = ("A", "AAAA", "CNAME", "TXT", "CAA", "MX", "NS")
_NAME_LETTERS: Final = 253
_LABEL_LETTERS: Final = 63


class DnsRefusal(Exception):  # noqa: N818 - the API refuses, nothing failed
    """A request that Cloudflare refuses: HTTP status, code and message."""

    def __init__(self, status: int, code: int, message: str, *, validation: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.validation = validation


@dataclass(frozen=True)
class DnsRecord:
    """One record; `name` is the full name, `ttl` in seconds (1: automatic)."""

    id: str
    zone_id: str
    name: str
    type: str
    content: str
    ttl: int
    proxied: bool
    comment: str | None
    tags: tuple[str, ...]
    priority: int | None
    created_on: str
    modified_on: str

    def as_json(self) -> dict[str, Any]:
        """Return the record as the API shows it."""
        shown = asdict(self)
        del shown["zone_id"]
        shown["tags"] = list(self.tags)
        if self.priority is None:
            del shown["priority"]
        if self.comment:
            shown["comment_modified_on"] = self.modified_on
        proxiable = self.type in ("A", "AAAA", "CNAME")
        return {**shown, "proxiable": proxiable, "settings": {}, "meta": {}}


def zone_id(name: str) -> str:
    """Return a zone's id: it depends on the name only, so that a stack config can name it."""
    return hashlib.sha256(name.encode()).hexdigest()[:32]


class Zones:
    """All zones and records; safe for threads; kept in a file if one is given."""

    def __init__(self, names: Iterable[str] = (), state_file: Path | None = None) -> None:
        self._lock = threading.RLock()
        self._state_file = state_file
        self._names: dict[str, str] = {}
        self._records: dict[str, DnsRecord] = {}
        if state_file is not None and state_file.exists():
            self._load(json.loads(state_file.read_text(encoding="utf-8")))
        for name in names:
            self.add_zone(name)

    def add_zone(self, name: str) -> str:
        """Add a zone (or find it) and return its id."""
        name = name.rstrip(".").lower()
        with self._lock:
            self._names[zone_id(name)] = name
            self._save()
        return zone_id(name)

    def zones(self) -> dict[str, str]:
        """Return the names of all zones by id."""
        with self._lock:
            return dict(self._names)

    def records(self, zone: str | None = None) -> list[DnsRecord]:
        """All records, or those of the zone of this id, oldest first."""
        with self._lock:
            if zone is not None:
                self._zone_name(zone)
            return [r for r in self._records.values() if zone in (None, r.zone_id)]

    def record(self, zone: str, identity: str) -> DnsRecord:
        """One record; raises DnsRefusal."""
        with self._lock:
            self._zone_name(zone)
            found = self._records.get(identity)
            if found is None or found.zone_id != zone:
                raise DnsRefusal(404, 81044, "Record does not exist.")
            return found

    def create(self, zone: str, fields: Mapping[str, Any]) -> DnsRecord:
        """Add a record; raises DnsRefusal."""
        now = _now()
        with self._lock:
            made = DnsRecord(
                id=uuid.uuid4().hex,
                zone_id=zone,
                created_on=now,
                modified_on=now,
                **self._checked(zone, fields, None),
            )
            self._records[made.id] = made
            self._save()
        return made

    def update(self, zone: str, identity: str, fields: Mapping[str, Any]) -> DnsRecord:
        """Replace a record's fields (PUT); raises DnsRefusal."""
        with self._lock:
            old = self.record(zone, identity)
            checked = self._checked(zone, fields, identity)
            new = replace(old, **checked, modified_on=_now())
            self._records[identity] = new
            self._save()
        return new

    def patch(self, zone: str, identity: str, fields: Mapping[str, Any]) -> DnsRecord:
        """Change some of a record's fields (PATCH); raises DnsRefusal."""
        with self._lock:
            old = self.record(zone, identity).as_json()
            return self.update(zone, identity, {**old, **fields})

    def delete(self, zone: str, identity: str) -> None:
        """Remove a record; raises DnsRefusal."""
        with self._lock:
            self.record(zone, identity)
            del self._records[identity]
            self._save()

    def _zone_name(self, zone: str) -> str:
        name = self._names.get(zone)
        if name is None:
            raise DnsRefusal(
                404,
                7003,
                f"Could not route to /zones/{zone}, perhaps your object identifier is invalid?",
            )
        return name

    def _checked(
        self, zone: str, fields: Mapping[str, Any], identity: str | None
    ) -> dict[str, Any]:
        name = _full_name(str(fields.get("name", "")), self._zone_name(zone))
        kind = str(fields.get("type", "")).upper()
        proxied = bool(fields.get("proxied", False))
        checked = {
            "name": name,
            "type": kind,
            "content": _content(kind, fields.get("content")),
            "ttl": AUTOMATIC_TTL if proxied else _ttl(fields.get("ttl", AUTOMATIC_TTL)),
            "proxied": proxied,
            "comment": fields.get("comment") or None,
            "tags": tuple(fields.get("tags") or ()),
            "priority": fields.get("priority"),
        }
        self._refuse_conflicts(checked, identity)
        return checked

    def _refuse_conflicts(self, checked: Mapping[str, Any], identity: str | None) -> None:
        others = [
            r for r in self._records.values() if r.name == checked["name"] and r.id != identity
        ]
        for other in others:
            if (other.type, other.content) == (checked["type"], checked["content"]):
                raise DnsRefusal(400, 81058, "An identical record already exists.")
            if checked["type"] == "CNAME":
                raise DnsRefusal(
                    400, 81053, "An A, AAAA, or CNAME record with that host already exists."
                )
            if other.type == "CNAME":
                raise DnsRefusal(400, 81054, "A CNAME record with that host already exists.")

    def _save(self) -> None:
        if self._state_file is None:
            return
        state = {
            "zones": sorted(self._names.values()),
            "records": [asdict(record) for record in self._records.values()],
        }
        partial = self._state_file.with_suffix(".partial")
        partial.write_text(json.dumps(state, indent=1), encoding="utf-8")
        os.replace(partial, self._state_file)  # noqa: PTH105 - atomic, as Path.replace is

    def _load(self, state: Mapping[str, Any]) -> None:
        for name in state["zones"]:
            self._names[zone_id(name)] = name
        for fields in state["records"]:
            record = DnsRecord(**{**fields, "tags": tuple(fields["tags"])})
            self._records[record.id] = record


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _full_name(name: str, zone: str) -> str:
    name = name.rstrip(".").lower()
    if name in ("", "@"):
        name = zone if name == "@" else ""
    elif name != zone and not name.endswith(f".{zone}"):
        name = f"{name}.{zone}"
    labels = name.split(".")
    too_long = len(name) > _NAME_LETTERS or any(len(label) > _LABEL_LETTERS for label in labels)
    bad = any(not label or set(label) & set(" /\\") for label in labels)
    if not name or too_long or bad or "*" in "".join(labels[1:]):
        raise DnsRefusal(400, 9000, "DNS name is invalid.", validation=True)
    return name


def _address(check: Callable[[str], object], content: str, code: int, family: str) -> str:
    try:
        return str(check(content))
    except ValueError:
        kind = "A" if family == "IPv4" else "AAAA"
        raise DnsRefusal(
            400,
            code,
            f"Content for {kind} record must be a valid {family} address.",
            validation=True,
        ) from None


def _content(kind: str, content: Any) -> str:
    if kind not in _TYPES:
        raise DnsRefusal(400, 9004, f"Invalid or missing record type {kind!r}.", validation=True)
    if not isinstance(content, str) or not content:
        raise DnsRefusal(400, 9007, "DNS record content is required.", validation=True)
    if kind == "A":
        return _address(ipaddress.IPv4Address, content, 9005, "IPv4")
    if kind == "AAAA":
        return _address(ipaddress.IPv6Address, content, 9006, "IPv6")
    return content


def _ttl(value: Any) -> int:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or (value != AUTOMATIC_TTL and int(value) not in _TTL_SECONDS):
        raise DnsRefusal(
            400,
            9021,
            "TTL must be between 60 and 86400 seconds, or 1 for Automatic.",
            validation=True,
        )
    return int(value)
