"""The three things that a stack asks of Pulumi's plugin for Cloudflare.

Its Python SDK, pulumi_cloudflare, declares them as well, but can only be imported whole: 780
modules and 3.5 s of a processor's time in every preview, against 1 s for all the rest of the
program. What is asked here is what that SDK asks (its dns_record.py, provider.py and
get_dns_records.py), which tests/program/test_cloudflare_sdk.py compares. The installed SDK still
says which plugin is used.
"""

import importlib.metadata
from collections.abc import Mapping
from functools import cache
from typing import Any, Final

import pulumi

RECORD_KIND: Final = "cloudflare:index/dnsRecord:DnsRecord"
# The name of the resource type before the SDK's release 6.
_FORMER_KIND: Final = "cloudflare:index/record:Record"


@cache
def _version() -> str:
    return importlib.metadata.version("pulumi-cloudflare")


class Provider(pulumi.ProviderResource):
    """How the plugin reaches Cloudflare. api_token: None takes the environment's."""

    def __init__(
        self,
        name: str,
        api_token: pulumi.Output[str] | None,
        base_url: str | None,
        opts: pulumi.ResourceOptions,
    ) -> None:
        secret = pulumi.ResourceOptions(
            version=_version(),
            additional_secret_outputs=["apiKey", "apiToken", "apiUserServiceKey"],
        )
        token: pulumi.Output[str] | None
        token = None if api_token is None else pulumi.Output.secret(api_token)
        inputs = {"apiToken": token, "baseUrl": base_url}
        super().__init__("cloudflare", name, inputs, pulumi.ResourceOptions.merge(secret, opts))


class DnsRecord(pulumi.CustomResource):
    """A record of a zone. inputs: zoneId, name, type, content, ttl, proxied and comment."""

    def __init__(self, name: str, inputs: Mapping[str, Any], opts: pulumi.ResourceOptions) -> None:
        former = pulumi.ResourceOptions(
            version=_version(), aliases=[pulumi.Alias(type_=_FORMER_KIND)]
        )
        super().__init__(
            RECORD_KIND, name, dict(inputs), pulumi.ResourceOptions.merge(opts, former)
        )


def dns_records(provider: Provider, zone_id: str | None, name: str) -> list[dict[str, Any]]:
    """Return what the zone has under a name: id, name, type, content, ttl, proxied, comment, tags.

    Raises Exception where the zone cannot be read: the SDK raises nothing more particular.
    """
    answer = pulumi.runtime.invoke(
        "cloudflare:index/getDnsRecords:getDnsRecords",
        {"zoneId": zone_id, "name": {"exact": name}},
        opts=pulumi.InvokeOptions(provider=provider, version=_version()),
    )
    return list(answer.value.get("results") or ())
