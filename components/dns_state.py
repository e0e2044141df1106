"""The stack's state, as far as it is about DNS records, and the command that puts one into it."""

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import pulumi
import stamina

from components.cloudflare import RECORD_KIND
from components.dns_adoption import Obstacle, Ours
from components.naming import Stack


@dataclass(frozen=True)
class DnsState:
    """What the state records, {URN: {type, outputs}}. component: the name of the stack's `Dns`."""

    component: str
    stack: Stack
    entries: Mapping[str, Any]

    @classmethod
    @stamina.retry(on=Exception, attempts=6, timeout=5, wait_initial=0.05, wait_max=0.5)
    def read(cls, component: str, stack: Stack) -> Self:
        """Read it; of a new stack it is empty.

        The engine's own function, on which `pulumi.StackReference` stands too. It is the only way
        to know what is the stack's already: a comment in the zone can be changed by anyone. Tried
        again, as a `file://` backend is not readable in the moment in which `up` writes it.
        """
        name = f"{pulumi.get_organization()}/{pulumi.get_project()}/{stack.name}"
        function = "pulumi:pulumi:readStackResourceOutputs"
        answer = pulumi.runtime.invoke(function, {"stackName": name}).value
        return cls(component, stack, dict(answer["outputs"]))

    def records(self) -> tuple[dict[str, Ours], list[str]]:
        """Return the records of the stack's zone by resource name; and which are incomplete."""
        ours: dict[str, Ours] = {}
        partial: list[str] = []
        for urn, entry in self.entries.items():
            if entry.get("type") != RECORD_KIND:
                continue
            resource = urn.rpartition("::")[2]
            outputs = entry.get("outputs") or {}
            fields: dict[str, Any] = {
                key: outputs.get(key) for key in ("zoneId", "id", "name", "type", "content")
            }
            if not all(value and isinstance(value, str) for value in fields.values()):
                partial.append(resource)
            elif fields.pop("zoneId") == self.stack.settings.dns.zone_id:
                ours[resource] = Ours(**fields)
        return ours, partial

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
        command = self.import_command(resource, record.id)
        return f"{there}; delete it in the zone, or have the stack take and change it: `{command}`"

    def import_command(self, resource: str, identity: str) -> str:
        """Return the `pulumi import` of a record for a POSIX shell."""
        words = ["pulumi", "import", RECORD_KIND, resource]
        words += [f"{self.stack.settings.dns.zone_id}/{identity}", "--stack", self.stack.name]
        parent = self._urn("gridhub:index:Dns", self.component)
        provider = self._urn("pulumi:providers:cloudflare", f"{self.component}-cloudflare")
        if parent and provider:
            words += ["--parent", f"{self.component}={parent}"]
            words += ["--provider", f"{self.component}-cloudflare={provider}"]
        # Without these the CLI protects the record and prints a program of its own.
        words += ["--protect=false", "--generate-code=false"]
        variables = () if provider else self._variables()
        return " ".join([*variables, shlex.join(words)])

    def _variables(self) -> Iterator[str]:
        """Yield what the CLI's own provider needs where the stack has none yet."""
        settings = self.stack.settings
        if settings.dns_api_token:
            words = ["pulumi", "config", "get", "dnsApiToken", "--stack", self.stack.name]
            yield f'CLOUDFLARE_API_TOKEN="$({shlex.join(words)})"'
        if settings.dns.api_url is not None:
            yield f"CLOUDFLARE_BASE_URL={shlex.quote(settings.dns.api_url)}"

    def _urn(self, kind: str, name: str) -> str:
        ends = f"{kind}::{name}"
        return next((urn for urn in self.entries if urn.endswith(ends)), "")
