"""The DNS records of a mirror: set by Cloudflare, or shown as an output."""

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Final, TypeVar

import pulumi

from components.cloudflare import DnsRecord, Provider, dns_records
from components.dns_adoption import (
    ExistingRecordsError,
    Obstacle,
    Ours,
    Record,
    RecordType,
    Wanted,
    address_of,
    judge,
)
from components.dns_state import DnsState
from components.naming import Stack

_Answer = TypeVar("_Answer")
_NUMBER: Final = re.compile(r"(-[0-9]+)?")


def wanted_records(stack: Stack) -> list[Record]:
    """Return the records that lead to the mirror: by name, then type, then as the settings list."""
    dns, public = stack.settings.dns, stack.settings.public_addresses
    names = [f"*.{stack.settings.domain}"] if dns.kind == "wildcard" else sorted(stack.hosts)
    addresses: list[tuple[RecordType, str]] = [("A", value) for value in public.ipv4]
    addresses += [("AAAA", value) for value in public.ipv6]
    return [Record(name, kind, content, dns.ttl) for name in names for kind, content in addresses]


class Dns(pulumi.ComponentResource):
    """The mirror's records; `records` is what they say, whoever sets them.

    With provider `none` nothing is set: an operator takes the records from the stack's output.
    Else the zone is read here, and `set_records` sets them: construct it before all that changes
    anything. Raises ExistingRecordsError where records of others stand in the way.
    """

    def __init__(self, name: str, stack: Stack, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("gridhub:index:Dns", name, None, opts)
        self.stack, self.records = stack, wanted_records(stack)
        self._cloudflare: Provider | None = None
        if stack.settings.dns.provider == "cloudflare":
            self._cloudflare = Provider(
                f"{name}-cloudflare",
                stack.settings.dns_api_token,
                stack.settings.dns.api_url,
                pulumi.ResourceOptions(parent=self),
            )
            self._wanted, self._adopted = self._judged(self._cloudflare)
        self.register_outputs({"records": [asdict(record) for record in self.records]})

    def _judged(self, provider: Provider) -> tuple[Wanted, Mapping[str, str]]:
        """Return the records to set, and the ids of those that are adopted.

        Nothing is adopted, and nothing refused, where the state or the zone cannot be read.
        """
        name, stack, dns = self.pulumi_resource_name, self.stack, self.stack.settings.dns
        state = self._tried(
            lambda: DnsState.read(name, stack),
            "the stack's state could not be read ({}), so nobody knows which DNS records are its "
            "own: `pulumi up` may stop at one that is there already",
        )
        ours, partial = state.records() if state else ({}, [])
        records = assigned(_by_stem(name, stack, self.records), ours)
        wanted = Wanted(stack.name, records, dns.proxied)
        if partial:
            self._warn(
                f"the stack's state has {', '.join(partial)} only in part, so the DNS zone was not "
                "looked at; `pulumi refresh` completes it"
            )
        if state is None or partial:
            return wanted, {}
        names = sorted({record.name for record in self.records})
        found = self._tried(
            lambda: [one for name in names for one in dns_records(provider, dns.zone_id, name)],
            "the DNS zone could not be looked at ({}); a record that stands in the way there will "
            "first show when `pulumi up` sets its own",
        )
        if found is None:
            return wanted, {}
        verdict = judge(wanted, found, ours)
        # First: an obstacle ends the program, and may be there because a record is gone.
        self._report_gone(wanted, {resource: ours[resource] for resource in verdict.gone})
        self._refuse(verdict.obstacles, state)
        for resource in verdict.adopted:
            record = records[resource]
            pulumi.log.info(
                f"{record.name} {record.type} {record.content} is in the zone already and becomes "
                f"the stack's ({resource}); `pulumi destroy` will delete it",
                self,
            )
        return wanted, verdict.adopted

    def _warn(self, message: str) -> None:
        pulumi.log.warn(message, self)

    def _tried(self, ask: Callable[[], _Answer], otherwise: str) -> _Answer | None:
        try:
            return ask()
        except Exception as error:  # noqa: BLE001 - the SDK raises nothing more particular
            self._warn(otherwise.format(error))
            return None

    def _report_gone(self, wanted: Wanted, gone: Mapping[str, Ours]) -> None:
        for resource, own in gone.items():
            then, else_fails = (
                ("sets it again", "a change of it")
                if resource in wanted.records
                else ("drops it", "its removal")
            )
            self._warn(
                f"{own.name} {own.type} ({resource}) is not in the zone any more: `pulumi up "
                f"--refresh` {then}; without --refresh {else_fails} fails, and so does "
                "`pulumi destroy`"
            )

    def _refuse(self, obstacles: Sequence[Obstacle], state: DnsState) -> None:
        """Raise ExistingRecordsError, or warn of neighbours where the settings allow them."""
        lines = [state.remedy(obstacle) for obstacle in obstacles]
        refused = any(obstacle.refused for obstacle in obstacles)
        if lines and (refused or "records" not in self.stack.settings.preflight.ignore):
            raise ExistingRecordsError(lines)
        for line in lines:
            self._warn(line)

    def set_records(self, after: Sequence[pulumi.Resource]) -> None:
        """Set the records, if Cloudflare is to; after: what must have succeeded before."""
        if self._cloudflare is None:
            return
        dns = self.stack.settings.dns
        shared = {
            "zoneId": dns.zone_id,
            "proxied": dns.proxied,
            "comment": self._wanted.comment,
        }
        for resource, record in self._wanted.records.items():
            adopted = self._adopted.get(resource)
            DnsRecord(
                resource,
                {**asdict(record), **shared},
                pulumi.ResourceOptions(
                    parent=self,
                    provider=self._cloudflare,
                    depends_on=list(after),
                    delete_before_replace=True,
                    # Given in the one run that adopts it, and never again: for a record that is in
                    # the state under another import id the engine would delete it as replaced.
                    import_=f"{dns.zone_id}/{adopted}" if adopted else None,
                    # Where `pulumi import` puts it while the stack has no parent for it yet.
                    aliases=[pulumi.Alias(parent=pulumi.ROOT_STACK_RESOURCE)],
                ),
            )


def _by_stem(name: str, stack: Stack, records: Sequence[Record]) -> dict[str, list[Record]]:
    """Return the records by what their resources' names begin with: by name and type."""
    stems: dict[str, list[Record]] = {}
    for record in records:
        label = record.name.removesuffix(f".{stack.settings.domain}").replace("*", "wildcard")
        stems.setdefault(f"{name}-{label}-{record.type.lower()}", []).append(record)
    return stems


def assigned(stems: Mapping[str, Sequence[Record]], ours: Mapping[str, Ours]) -> dict[str, Record]:
    """Return the records by resource name: a stem for one, `STEM-2`, … for more of the same stem.

    stems: the records that share one, in the settings' order. What the state has keeps its number:
    the zone takes a content once, and the engine updates before it deletes. The others get the
    numbers that are left, of the state first: there a changed address is an update in place.
    """
    return {
        resource: record
        for stem, records in stems.items()
        for resource, record in _numbered(stem, records, ours)
    }


def _numbered(
    stem: str, records: Sequence[Record], ours: Mapping[str, Ours]
) -> Iterator[tuple[str, Record]]:
    there = [key for key in ours if key.startswith(stem) and _NUMBER.fullmatch(key, len(stem))]
    there.sort(key=lambda key: (len(key), key))
    holders = {address_of(ours[key].content): key for key in reversed(there)}
    contents = {address_of(record.content) for record in records}
    kept = {holders[content] for content in contents & holders.keys()}
    names = itertools.chain([stem], (f"{stem}-{number}" for number in itertools.count(2)))
    new = (key for key in names if key not in there)
    free = itertools.chain((key for key in there if key not in kept), new)
    for record in records:
        yield holders.get(address_of(record.content)) or next(free), record
