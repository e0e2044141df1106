"""The DNS records of a mirror: set by Cloudflare, or told as an output."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import pulumi

from components.naming import Naming
from components.settings.model import DnsSettings, PublicAddressSettings

RecordType: TypeAlias = Literal["A", "AAAA"]
WILDCARD: Final = "*"


@dataclass(frozen=True)
class Record:
    """One DNS record; name: fully qualified, without the last dot."""

    name: str
    type: RecordType
    content: str
    ttl: int


@dataclass(frozen=True)
class DnsConfig:
    """bootstrap: whether a bootstrap server runs here. api_token: null takes the environment's.

    after: what must have succeeded before a record is set.
    """

    naming: Naming
    dns: DnsSettings
    addresses: PublicAddressSettings
    bootstrap: bool
    api_token: pulumi.Output[str] | None
    after: tuple[pulumi.Resource, ...]


def wanted_records(config: DnsConfig) -> list[Record]:
    """Return the records that lead to the mirror: by name, then type, then as the settings list."""
    naming = config.naming
    if config.dns.kind == "wildcard":
        names = [f"{WILDCARD}.{naming.domain}"]
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
    """

    records: Sequence[Record]

    def __init__(
        self, name: str, config: DnsConfig, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("gridhub:index:Dns", name, None, opts)
        self.records = wanted_records(config)
        if config.dns.provider == "cloudflare":
            self._set(name, config)
        self.register_outputs({"records": told(self.records)})

    def _set(self, name: str, config: DnsConfig) -> None:
        # Seconds to load; a stack that sets no records need not wait for it.
        import pulumi_cloudflare as cloudflare

        provider = cloudflare.Provider(
            f"{name}-cloudflare",
            api_token=config.api_token,
            base_url=config.dns.api_url,
            opts=pulumi.ResourceOptions(parent=self),
        )
        counts: dict[str, int] = {}
        for record in self.records:
            label = record.name.removesuffix(f".{config.naming.domain}").replace("*", "wildcard")
            slot = f"{name}-{label}-{record.type.lower()}"
            counts[slot] = counts.get(slot, 0) + 1
            # By number, not by address: a changed address is an update of its record.
            suffix = "" if counts[slot] == 1 else f"-{counts[slot]}"
            cloudflare.DnsRecord(
                f"{slot}{suffix}",
                zone_id=str(config.dns.zone_id),
                name=record.name,
                type=record.type,
                content=record.content,
                ttl=record.ttl,
                proxied=config.dns.proxied,
                comment=f"gridhub stack {config.naming.stack}",
                opts=pulumi.ResourceOptions(
                    parent=self,
                    provider=provider,
                    depends_on=list(config.after),
                    delete_before_replace=True,
                ),
            )


def told(records: Sequence[Record]) -> list[dict[str, str | int]]:
    """Return the records as a stack's output tells them."""
    return [
        {"name": record.name, "type": record.type, "content": record.content, "ttl": record.ttl}
        for record in records
    ]
