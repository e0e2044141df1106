"""The stand-in for the cloudflare plugin: its configuration and its resources."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from tests.sandbox.plugins.cloudflare.api import DEFAULT_URL, CloudflareApi
from tests.sandbox.plugins.cloudflare.dns_record import DnsRecordHandler
from tests.sandbox.plugins.cloudflare.dns_records import TOKEN, DnsRecordList
from tests.sandbox.plugins.provider import Plugin
from tests.sandbox.plugins.schema import Attribute, Fields, Kind

# The release of pulumi-cloudflare that this stands in for.
VERSION = "6.23.1"


def _api_token(value: Any) -> str | None:
    """Want what the provider's schema wants; the words do not repeat the token, as there."""
    if re.search(r"^[0-9A-Za-z\-_]{40,80}\Z", str(value)):
        return None
    return (
        "Attribute api_token API tokens must only contain characters a-z, A-Z, 0-9, hyphens and "
        "underscores"
    )


_CONFIG: Fields = {
    "api_token": Attribute(Kind.STRING, secret=True, validate=_api_token),
    "base_url": Attribute(Kind.STRING),
    "api_key": Attribute(Kind.STRING, secret=True, supported=False),
    "api_user_service_key": Attribute(Kind.STRING, secret=True, supported=False),
    "email": Attribute(Kind.STRING, supported=False),
    "user_agent_operator_suffix": Attribute(Kind.STRING, supported=False),
}


class CloudflarePlugin(Plugin):
    """DNS records, set and listed, with an API token."""

    # The real plugin's bridge names the changed properties only.
    detailed = False

    def __init__(self) -> None:
        super().__init__("cloudflare", VERSION, _CONFIG)
        self._api = CloudflareApi()
        handler = DnsRecordHandler(self._api)
        self.handlers = {handler.schema.token: handler}
        self.invokers = {TOKEN: DnsRecordList(self._api)}

    def configure(self, config: Mapping[str, Any]) -> None:
        """Take the token and the address, else those of the environment."""
        url = config.get("baseUrl") or os.environ.get("CLOUDFLARE_BASE_URL") or DEFAULT_URL
        token = config.get("apiToken") or os.environ.get("CLOUDFLARE_API_TOKEN") or ""
        self._api.configure(str(url), str(token))
