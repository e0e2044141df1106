"""Combinations of settings that can not be: each rule names the keys, the reason, the remedy.

A rule runs when every top-level setting that it reads is right by itself.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit

from components.settings.model import Settings
from components.settings.problems import Problem

# Cloudflare's own words: 1 is automatic, else 60 to 86400 (30 in an Enterprise zone, which nothing
# here can tell from others).
AUTOMATIC_TTL: Final = 1
SHORTEST_TTL_SECONDS: Final = 60
Found: TypeAlias = Iterator[Problem]
RuleBody: TypeAlias = Callable[[Settings], Found]


@dataclass(frozen=True)
class _Rule:
    reads: tuple[str, ...]
    find: RuleBody


_RULES: Final[list[_Rule]] = []


def _rule(*reads: str) -> Callable[[RuleBody], RuleBody]:
    """Register a rule; reads: the settings (python names) that it looks at."""

    def register(body: RuleBody) -> RuleBody:
        _RULES.append(_Rule(reads, body))
        return body

    return register


def combination_problems(right: Mapping[str, Any]) -> list[Problem]:
    """Return what the rules find; right: the settings (python names) that are right alone."""
    settings = Settings.model_construct(**dict(right))
    problems: list[Problem] = []
    for rule in _RULES:
        if all(name in right for name in rule.reads):
            problems += rule.find(settings)
    return problems


@_rule("host")
def _ssh_needs_key_and_pin(settings: Settings) -> Found:
    host = settings.host
    remote = host.docker.startswith("ssh://")
    for key, value in (
        ("sshKeyPath", host.ssh_key_path),
        ("knownHostsPath", host.known_hosts_path),
    ):
        if remote and value is None:
            remedy = f"pulumi config set --path host.{key} /PATH"
            yield Problem(f"host.{key}", "is required with an ssh:// host", f"`{remedy}`")
        if not remote and value is not None:
            yield Problem(
                f"host.{key}", "has no use with a unix:// host", "remove it, or give an ssh:// host"
            )


@_rule("bind")
def _listens_somewhere(settings: Settings) -> Found:
    if not settings.bind.ipv4 and not settings.bind.ipv6:
        yield Problem("bind", "names no address, so nothing would be served", "name at least one")


@_rule("bind", "public_addresses")
def _addresses_once(settings: Settings) -> Found:
    for key, section in (("bind", settings.bind), ("publicAddresses", settings.public_addresses)):
        for family, addresses in (("ipv4", section.ipv4), ("ipv6", section.ipv6)):
            yield from _repeated(f"{key}.{family}", addresses)


def _repeated(key: str, addresses: list[str]) -> Found:
    for address in sorted({a for a in addresses if addresses.count(a) > 1}):
        yield Problem(key, f"names {address} twice", "name it once")
    anywhere = [a for a in addresses if ip_address(a).is_unspecified]
    if anywhere and len(addresses) > 1:
        yield Problem(key, f"{anywhere[0]} already means every address", "remove the others")


@_rule("public_addresses")
def _public_addresses_exist(settings: Settings) -> Found:
    public = settings.public_addresses
    if not public.ipv4 and not public.ipv6:
        yield Problem(
            "publicAddresses",
            "names no address, so no DNS record can be told",
            "`pulumi config set --path 'publicAddresses.ipv4[0]' 203.0.113.10`",
        )
    for family, addresses in (("ipv4", public.ipv4), ("ipv6", public.ipv6)):
        for address in addresses:
            if ip_address(address).is_unspecified:
                yield Problem(
                    f"publicAddresses.{family}",
                    f"{address} is no host's address",
                    "name the real one",
                )


@_rule("bind", "public_addresses")
def _families_agree(settings: Settings) -> Found:
    for family in ("ipv4", "ipv6"):
        public = getattr(settings.public_addresses, family)
        if public and not getattr(settings.bind, family):
            yield Problem(
                f"bind.{family}",
                f"is empty although publicAddresses.{family} promises {public[0]}",
                "bind an address of that family, or do not publish one",
            )


@_rule("bind", "public_addresses", "bootstrap")
def _boot_media_need_ipv4(settings: Settings) -> Found:
    """Refuse IPv6 alone: the iPXE of boot media has none (ipxe: config/general.h)."""
    if not settings.bootstrap.enabled:
        return
    for key, section in (("bind", settings.bind), ("publicAddresses", settings.public_addresses)):
        if section.ipv6 and not section.ipv4:
            yield Problem(
                f"{key}.ipv4",
                "is empty, and boot media load their kernel over IPv4 only",
                "name an IPv4 address, or set bootstrap.enabled to false",
            )


@_rule("hub", "domain", "bootstrap")
def _aliases_are_other_names(settings: Settings) -> Found:
    own = {f"{name}.{settings.domain}" for name in ("hub", "bootstrap", "unsecure.bootstrap")}
    aliases = settings.hub.aliases
    for alias in sorted({name for name in aliases if name in own or aliases.count(name) > 1}):
        reason = "is served anyway" if alias in own else "stands there twice"
        yield Problem("hub.aliases", f"{alias} {reason}", "remove it")


@_rule("ports")
def _ports_differ(settings: Settings) -> Found:
    seen: dict[int, str] = {}
    for key in ("http", "https", "zdb", "metrics"):
        port = getattr(settings.ports, key)
        if port is not None and port in seen:
            yield Problem(
                f"ports.{key}", f"is {port}, as is ports.{seen[port]}", "give each its own port"
            )
        elif port is not None:
            seen[port] = key


@_rule("dns", "dns_api_token")
def _cloudflare_is_whole(settings: Settings) -> Found:
    dns = settings.dns
    if dns.provider == "cloudflare":
        if not dns.zone_id:
            yield Problem(
                "dns.zoneId",
                "is required with dns.provider cloudflare",
                "`pulumi config set --path dns.zoneId ID` (the zone's overview page shows it)",
            )
        if AUTOMATIC_TTL < dns.ttl < SHORTEST_TTL_SECONDS:
            yield Problem(
                "dns.ttl",
                f"is {dns.ttl}, which Cloudflare refuses",
                f"give {SHORTEST_TTL_SECONDS} or more, or {AUTOMATIC_TTL} (automatic)",
            )
        return
    for key, value in (("zoneId", dns.zone_id), ("apiUrl", dns.api_url), ("proxied", dns.proxied)):
        if value:
            yield Problem(
                f"dns.{key}", "has no use with dns.provider none", "remove it, or set the provider"
            )
    if settings.dns_api_token:
        yield Problem(
            "dnsApiToken", "has no use with dns.provider none", "`pulumi config rm dnsApiToken`"
        )


@_rule("dns", "zdb", "domain")
def _proxy_leaves_zdb_reachable(settings: Settings) -> Found:
    if not settings.dns.proxied:
        return
    if settings.dns.ttl != AUTOMATIC_TTL:
        yield Problem("dns.ttl", "must be 1 (automatic) for proxied records", "set it to 1")
    zdb_host = settings.zdb.publish_host
    if zdb_host is None or zdb_host.endswith(f".{settings.domain}"):
        yield Problem(
            "zdb.publishHost",
            "must be a name outside the proxied ones: the proxy does not carry 0-db",
            "set it to a name or address that leads to the host itself",
        )


@_rule("acme", "production")
def _certificates_have_a_contact(settings: Settings) -> Found:
    acme = settings.acme
    if acme.ca != "internal" and acme.email is None:
        yield Problem(
            "acme.email",
            f"is required with acme.ca {acme.ca}",
            "`pulumi config set --path acme.email you@example.org`",
        )
    if settings.production and acme.ca in {"internal", "letsencrypt-staging"}:
        yield Problem(
            "acme.ca",
            f"{acme.ca} is trusted by no client, so not for production",
            "use letsencrypt",
        )


@_rule("production", "purge")
def _production_keeps_data(settings: Settings) -> Found:
    if settings.production and settings.purge:
        yield Problem(
            "purge", "contradicts production, which protects the data", "turn one of them off"
        )


@_rule("mode", "ready")
def _waiting_needs_a_mirror(settings: Settings) -> Found:
    if settings.mode != "mirror" and settings.ready != "started":
        yield Problem(
            "ready",
            f"{settings.ready} waits for sync jobs, which mode {settings.mode} does not have",
            "set it to started",
        )


@_rule("mode", "hub")
def _writable_options_need_a_writable_hub(settings: Settings) -> Found:
    if settings.mode != "mirror":
        return
    hub = settings.hub
    for key, value in (("guestAccess", hub.guest_access), ("usersMap", hub.users_map)):
        if value:
            yield Problem(
                f"hub.{key}", "has no effect in mode mirror, which is read-only", "remove it"
            )


@_rule("mode", "ready", "users", "kernels", "flists")
def _waiting_needs_running_jobs(settings: Settings) -> Found:
    if settings.mode != "mirror" or settings.ready == "started":
        return
    jobs = {"users": settings.users, "kernels": settings.kernels, "flists": settings.flists}
    for key, job in jobs.items():
        if job.enabled and job.paused:
            yield Problem(
                f"{key}.paused",
                f"a paused job never gets as far as ready {settings.ready}",
                "resume it, or set ready to started",
            )
    if not any(job.enabled for job in jobs.values()):
        yield Problem(
            "ready", f"{settings.ready} waits for jobs, and none is enabled", "use started"
        )


@_rule("bootstrap", "kernels", "mode", "images")
def _kernels_need_bootstrap(settings: Settings) -> Found:
    if settings.bootstrap.enabled and settings.images.bootstrap is None:
        yield Problem(
            "images.bootstrap",
            "is required and not set",
            "name one, or set bootstrap.enabled to false",
        )
    if settings.mode == "mirror" and settings.kernels.enabled and not settings.bootstrap.enabled:
        yield Problem(
            "kernels.enabled",
            "kernels would be synced that no bootstrap server serves",
            "set it to false, or bootstrap.enabled to true",
        )


@_rule("bootstrap", "kernels")
def _run_modes_agree(settings: Settings) -> Found:
    kernels = settings.kernels
    for mode in sorted(set(kernels.net_links) - set(kernels.run_modes)):
        yield Problem(
            f"kernels.netLinks.{mode}",
            "is not one of kernels.runModes",
            "add it there, or remove it",
        )
    for mode in sorted(set(kernels.run_modes) - set(settings.bootstrap.run_modes)):
        yield Problem(
            "kernels.runModes",
            f"{mode} is not offered by bootstrap.runModes",
            "add it there with a title, or remove it here",
        )


@_rule("kernels")
def _links_are_names_of_their_own(settings: Settings) -> Found:
    links = settings.kernels.links
    for link in sorted({link for link in links if links.count(link) > 1}):
        yield Problem("kernels.links", f"names {link} twice", "name it once")
    if "net" in links:
        yield Problem(
            "kernels.links", "net is the folder of the net links", "those follow kernels.runModes"
        )


@_rule("flists", "users")
def _deletes_have_one_judge(settings: Settings) -> Found:
    if settings.flists.deletes_without_users and settings.users.enabled:
        yield Problem(
            "flists.deletesWithoutUsers",
            "contradicts users.enabled: the users job says which chunks are needed",
            "remove it",
        )


@_rule("users", "source")
def _foreign_chunks_stay_apart(settings: Settings) -> Found:
    local = {"default", *(endpoint.namespace for endpoint in settings.source.zdb)}
    if settings.users.foreign_namespace in local:
        yield Problem(
            "users.foreignNamespace",
            f"{settings.users.foreign_namespace} holds the master's chunks",
            "choose another name",
        )


@_rule("mode", "domain", "source", "zdb", "ports")
def _not_its_own_master(settings: Settings) -> Found:
    if settings.mode != "mirror":
        return
    own = {"hub": f"hub.{settings.domain}", "bootstrap": f"bootstrap.{settings.domain}"}
    for key, name in own.items():
        urls: list[str] = getattr(settings.source, key)
        if any(urlsplit(url).hostname == name for url in urls):
            yield Problem(
                f"source.{key}", "is this mirror itself", "name the hub that it shall follow"
            )
    publish_host = settings.zdb.publish_host or own["hub"]
    publish_port = settings.zdb.publish_port or settings.ports.zdb
    masters = [(endpoint.host, endpoint.port) for endpoint in settings.source.zdb]
    if (publish_host, publish_port) in masters:
        yield Problem("source.zdb", "is this mirror's own 0-db", "name the master's")


@_rule("users", "kernels", "flists")
def _backoff_grows(settings: Settings) -> Found:
    for key in ("users", "kernels", "flists"):
        backoff = getattr(settings, key).backoff
        if backoff.longest_seconds < backoff.first_seconds:
            yield Problem(
                f"{key}.backoff.longestSeconds", "is shorter than firstSeconds", "make it longer"
            )


@_rule("network")
def _subnets_are_named_together(settings: Settings) -> Found:
    network = settings.network
    if (network.ipv4_subnet is None) != (network.ipv6_subnet is None):
        missing = "ipv4Subnet" if network.ipv4_subnet is None else "ipv6Subnet"
        yield Problem(
            f"network.{missing}", "is derived while the other is given", "give both, or neither"
        )
