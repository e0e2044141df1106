"""The three things that a stack asks of Pulumi's plugin for Cloudflare.

Its Python SDK, pulumi_cloudflare, declares them as well, but can only be imported whole: 780
modules and 3.5 s of a processor's time in every preview, against 1 s for all the rest of the
program. What is asked here is what that SDK asks (its dns_record.py, provider.py and
get_dns_records.py), which tests/program/test_cloudflare_sdk.py compares. The installed SDK still
says which plugin is used.
"""

import importlib.metadata
from collections.abc import Mapping
from typing import Any, Final

import pulumi

from components.dns_adoption import Found

RECORD_KIND: Final = "cloudflare:index/dnsRecord:DnsRecord"
# The name of the resource type before the SDK's release 6.
_FORMER_KIND: Final = "cloudflare:index/record:Record"
_VERSION: Final = importlib.metadata.version("pulumi-cloudflare")


class Provider(pulumi.ProviderResource):
    """How the plugin reaches Cloudflare. api_token: None takes the environment's."""

    def __init__(
        self,
        name: str,
        api_token: pulumi.Input[str] | None,
        base_url: str | None,
        opts: pulumi.ResourceOptions,
    ) -> None:
        secret = pulumi.ResourceOptions(
            version=_VERSION,
            additional_secret_outputs=["apiKey", "apiToken", "apiUserServiceKey"],
        )
        token = pulumi.Output.secret(api_token) if api_token else None
        inputs = {"apiToken": token, "baseUrl": base_url}
        super().__init__("cloudflare", name, inputs, pulumi.ResourceOptions.merge(secret, opts))


class DnsRecord(pulumi.CustomResource):
    """A record of a zone. inputs: zoneId, name, type, content, ttl, proxied and comment."""

    def __init__(self, name: str, inputs: Mapping[str, Any], opts: pulumi.ResourceOptions) -> None:
        former = pulumi.ResourceOptions(
            version=_VERSION, aliases=[pulumi.Alias(type_=_FORMER_KIND)]
        )
        super().__init__(
            RECORD_KIND, name, dict(inputs), pulumi.ResourceOptions.merge(opts, former)
        )


def dns_records(provider: Provider, zone_id: str | None, name: str) -> list[Found]:
    """Return every record that the zone has under a name.

    Raises Exception where the zone cannot be read: the SDK raises nothing more particular.
    """
    answer = pulumi.runtime.invoke(
        "cloudflare:index/getDnsRecords:getDnsRecords",
        {"zoneId": zone_id, "name": {"exact": name}},
        opts=pulumi.InvokeOptions(provider=provider, version=_VERSION),
    )
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
        for entry in answer.value.get("results") or ()
    ]
