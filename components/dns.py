"""The DNS records of a mirror: set by Cloudflare, or shown as an output."""

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import pulumi
import stamina

from components.cloudflare import RECORD_KIND, DnsRecord, Provider, dns_records
from components.dns_records import (
    ExistingRecordsError,
    Found,
    Obstacle,
    Ours,
    Record,
    RecordType,
    Wanted,
    assigned,
    judge,
)
from components.naming import Naming
from components.settings.model import DnsSettings, PublicAddressSettings

_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class DnsConfig:
    """bootstrap: whether a bootstrap server runs here. api_token: null takes the environment's.

    neighbours_allowed: a foreign record that would be answered beside the stack's is a warning.
    """

    naming: Naming
    dns: DnsSettings
    addresses: PublicAddressSettings
    bootstrap: bool
    api_token: pulumi.Output[str] | None
    neighbours_allowed: bool = False


def wanted_records(config: DnsConfig) -> list[Record]:
    """Return the records that lead to the mirror: by name, then type, then as the settings list."""
    naming = config.naming
    if config.dns.kind == "wildcard":
        names = [f"*.{naming.domain}"]
    else:
        names = [naming.hub]
        names += [naming.bootstrap, naming.unsecure_bootstrap] if config.bootstrap else []
    addresses: list[tuple[RecordType, str]] = [("A", value) for value in config.addresses.ipv4]
    addresses += [("AAAA", value) for value in config.addresses.ipv6]
    return [
        Record(name, kind, content, config.dns.ttl)
        for name in sorted(names)
        for kind, content in addresses
    ]


class Dns(pulumi.ComponentResource):
    """The mirror's records; `records` is what they say, whoever sets them.

    With provider `none` nothing is set: an operator takes the records from the stack's output.
    Else the zone is read here, and `set_records` sets them: construct it before all that changes
    anything. Raises ExistingRecordsError where records of others stand in the way.
    """

    records: Sequence[Record]

    def __init__(
        self, name: str, config: DnsConfig, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("gridhub:index:Dns", name, None, opts)
        self.config = config
        self.records = wanted_records(config)
        self._cloudflare: Provider | None = None
        if config.dns.provider == "cloudflare":
            self._cloudflare = Provider(
                f"{name}-cloudflare",
                config.api_token,
                config.dns.api_url,
                pulumi.ResourceOptions(parent=self),
            )
            self._wanted, self._adopted = self._judged(self._cloudflare)
        self.register_outputs({"records": as_output(self.records)})

    def _judged(self, provider: Provider) -> tuple[Wanted, Mapping[str, str]]:
        """Return the records to set, and the ids of those that are adopted.

        Nothing is adopted, and nothing refused, where the state or the zone cannot be read.
        """
        config = self.config
        state = self._tried(
            lambda: _state(config.naming.stack),
            "the stack's state could not be read ({}), so nobody knows which DNS records are its "
            "own: `pulumi up` may stop at one that is there already",
        )
        ours, partial = _ours(state or {}, str(config.dns.zone_id))
        records = assigned(_by_stem(self.pulumi_resource_name, config, self.records), ours)
        wanted = Wanted(config.naming.stack, records, config.dns.proxied)
        if partial:
            self._warn(
                f"the stack's state has {', '.join(partial)} only in part, so the DNS zone was not "
                "looked at; `pulumi refresh` completes it"
            )
        if state is None or partial:
            return wanted, {}
        found = self._tried(
            lambda: _found(provider, config, self.records),
            "the DNS zone could not be looked at ({}); a record that stands in the way there will "
            "first show when `pulumi up` sets its own",
        )
        if found is None:
            return wanted, {}
        verdict = judge(wanted, found, ours)
        # First: an obstacle ends the program, and may be there because a record is gone.
        self._report_gone(wanted, {resource: ours[resource] for resource in verdict.gone})
        self._refuse(verdict.obstacles, _Importing(self.pulumi_resource_name, config, state))
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

    def _refuse(self, obstacles: Sequence[Obstacle], importing: "_Importing") -> None:
        """Raise ExistingRecordsError, or warn of neighbours where the settings allow them."""
        lines = [importing.remedy(obstacle) for obstacle in obstacles]
        refused = any(obstacle.refused for obstacle in obstacles)
        if lines and (refused or not self.config.neighbours_allowed):
            raise ExistingRecordsError(lines)
        for line in lines:
            self._warn(line)

    def set_records(self, after: Sequence[pulumi.Resource]) -> None:
        """Set the records, if Cloudflare is to; after: what must have succeeded before."""
        if self._cloudflare is None:
            return
        zone = str(self.config.dns.zone_id)
        for resource, record in self._wanted.records.items():
            adopted = self._adopted.get(resource)
            inputs = {
                **asdict(record),
                "zoneId": zone,
                "proxied": self.config.dns.proxied,
                "comment": self._wanted.comment,
            }
            DnsRecord(
                resource,
                inputs,
                pulumi.ResourceOptions(
                    parent=self,
                    provider=self._cloudflare,
                    depends_on=list(after),
                    delete_before_replace=True,
                    # Given in the one run that adopts it, and never again: for a record that is in
                    # the state under another import id the engine would delete it as replaced.
                    import_=f"{zone}/{adopted}" if adopted else None,
                    # Where `pulumi import` puts it while the stack has no parent for it yet.
                    aliases=[pulumi.Alias(parent=pulumi.ROOT_STACK_RESOURCE)],
                ),
            )


def _by_stem(name: str, config: DnsConfig, records: Sequence[Record]) -> dict[str, list[Record]]:
    """Return the records by what their resources' names begin with: by name and type."""
    stems: dict[str, list[Record]] = {}
    for record in records:
        label = record.name.removesuffix(f".{config.naming.domain}").replace("*", "wildcard")
        stems.setdefault(f"{name}-{label}-{record.type.lower()}", []).append(record)
    return stems


@stamina.retry(on=Exception, attempts=6, timeout=5, wait_initial=0.05, wait_max=0.5)
def _state(stack: str) -> Mapping[str, Any]:
    """Return what the stack's state records, {URN: {type, outputs}}; of a new stack nothing.

    The engine's own function, on which `pulumi.StackReference` stands too. It is the only way to
    know what is the stack's already: a comment in the zone can be changed by anyone. Tried again,
    as a `file://` backend is not readable in the moment in which `up` writes it.
    """
    name = f"{pulumi.get_organization()}/{pulumi.get_project()}/{stack}"
    answer = pulumi.runtime.invoke(
        "pulumi:pulumi:readStackResourceOutputs", {"stackName": name}
    ).value
    return dict(answer["outputs"])


def _ours(state: Mapping[str, Any], zone: str) -> tuple[dict[str, Ours], list[str]]:
    """Return the records of this zone in the state, by resource name; and which are incomplete."""
    ours: dict[str, Ours] = {}
    partial: list[str] = []
    for urn, entry in state.items():
        if entry.get("type") != RECORD_KIND:
            continue
        resource = urn.rpartition("::")[2]
        outputs = entry.get("outputs") or {}
        fields: dict[str, Any] = {
            key: outputs.get(key) for key in ("zoneId", "id", "name", "type", "content")
        }
        if not all(value and isinstance(value, str) for value in fields.values()):
            partial.append(resource)
        elif fields.pop("zoneId") == zone:
            ours[resource] = Ours(**fields)
    return ours, partial


def _found(provider: Provider, config: DnsConfig, records: Sequence[Record]) -> list[Found]:
    """Return every record of the zone that has the name of one of ours."""
    return [
        Found(
            id=entry["id"],
            name=entry["name"],
            type=entry["type"],
            content=entry.get("content") or "",
            ttl=int(entry["ttl"]),
            proxied=bool(entry.get("proxied")),
            comment=entry.get("comment") or "",
            tags=tuple(entry.get("tags") or ()),
        )
        for name in sorted({record.name for record in records})
        for entry in dns_records(provider, config.dns.zone_id, name)
    ]


@dataclass(frozen=True)
class _Importing:
    """Writes the command that takes an existing record into the stack as it is now."""

    name: str
    config: DnsConfig
    state: Mapping[str, Any]

    def remedy(self, obstacle: Obstacle) -> str:
        """Return a sentence: what there is, why it is in the way, what to do."""
        record, resource = obstacle.record, obstacle.resource
        there = f"{record} (id {record.id}) exists already and {obstacle.reason}"
        if resource is None:
            return f"{there}; delete it in the zone"
        if obstacle.after_refresh:
            return (
                f"{there}; delete it in the zone, or run `pulumi refresh`, which drops the "
                f"stack's own ({resource}) that is gone: then the same record is adopted, "
                "and of another the preview names how to take it"
            )
        command = self.command(resource, record.id)
        return f"{there}; delete it in the zone, or have the stack take and change it: `{command}`"

    def command(self, resource: str, identity: str) -> str:
        """Return the `pulumi import` of a record for a POSIX shell."""
        stack = self.config.naming.stack
        words = ["pulumi", "import", RECORD_KIND, resource]
        words += [f"{self.config.dns.zone_id}/{identity}", "--stack", stack]
        parent = self._urn("gridhub:index:Dns", self.name)
        provider = self._urn("pulumi:providers:cloudflare", f"{self.name}-cloudflare")
        if parent and provider:
            words += ["--parent", f"{self.name}={parent}"]
            words += ["--provider", f"{self.name}-cloudflare={provider}"]
        # Without these the CLI protects the record and prints a program of its own.
        words += ["--protect=false", "--generate-code=false"]
        variables = () if provider else self._variables(stack)
        return " ".join([*variables, shlex.join(words)])

    def _variables(self, stack: str) -> Iterator[str]:
        """Yield what the CLI's own provider needs where the stack has none yet."""
        if self.config.api_token is not None:
            get = shlex.join(["pulumi", "config", "get", "dnsApiToken", "--stack", stack])
            yield f'CLOUDFLARE_API_TOKEN="$({get})"'
        if self.config.dns.api_url is not None:
            yield f"CLOUDFLARE_BASE_URL={shlex.quote(self.config.dns.api_url)}"

    def _urn(self, kind: str, name: str) -> str:
        ends = f"{kind}::{name}"
        return next((urn for urn in self.state if urn.endswith(ends)), "")


def as_output(records: Sequence[Record]) -> list[dict[str, str | int]]:
    """Return the records as the stack's output shows them: name, type, content, ttl."""
    return [asdict(record) for record in records]
