"""Combinations of settings that cannot be: each rule yields the keys, the reason, the remedy.

A rule takes the top-level settings that it reads as arguments of their names, and runs when every
one of them is right by itself.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from ipaddress import ip_address
from itertools import count
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit

from pydantic.alias_generators import to_camel

from components.settings.capacity import (
    LEAST_CONNECTIONS,
    LEAST_PACKER_MB,
    asked_for,
    clients_that_fit,
)
from components.settings.limits import LimitSettings
from components.settings.model import (
    AcmeSettings,
    BindSettings,
    BootstrapSettings,
    DnsSettings,
    EdgeSettings,
    FlistsSettings,
    HostSettings,
    HubSettings,
    ImageSettings,
    KernelsSettings,
    Mode,
    NetworkSettings,
    PortSettings,
    PublicAddressSettings,
    SourceSettings,
    UsersSettings,
    ZdbSettings,
)
from components.settings.problems import Problem
from sync.contract import job_memory
from sync.contract.status import Ready

# Cloudflare's own words: 1 is automatic, else 60 to 86400 (30 in an Enterprise zone, which nothing
# here can tell from others).
AUTOMATIC_TTL: Final = 1
SHORTEST_TTL_SECONDS: Final = 60
# The key, the reason, the remedy of each problem.
Found: TypeAlias = Iterator[tuple[str, str, str]]
_RULES: Final[list[Callable[..., Found]]] = []


def _rule(rule: Callable[..., Found]) -> Callable[..., Found]:
    _RULES.append(rule)
    return rule


def combination_problems(right: Mapping[str, Any]) -> list[Problem]:
    """Return what the rules find; right: the settings (python names) that are right alone."""
    problems: list[Problem] = []
    for rule in _RULES:
        reads = inspect.signature(rule).parameters
        if reads.keys() <= right.keys():
            problems += [Problem(*found) for found in rule(**{name: right[name] for name in reads})]
    return problems


@_rule
def _ssh_needs_key_and_pin(host: HostSettings) -> Found:
    remote = host.docker.startswith("ssh://")
    for key, value in {
        "host.sshKeyPath": host.ssh_key_path,
        "host.knownHostsPath": host.known_hosts_path,
    }.items():
        if remote and value is None:
            remedy = f"`pulumi config set --path {key} /PATH`"
            yield key, "is required with an ssh:// host", remedy
        if not remote and value is not None:
            yield key, "has no use with a unix:// host", "remove it, or give an ssh:// host"


@_rule
def _listens_somewhere(bind: BindSettings) -> Found:
    if not bind.addresses:
        yield "bind", "names no address, so nothing would be served", "name at least one"


@_rule
def _addresses_once(bind: BindSettings, public_addresses: PublicAddressSettings) -> Found:
    for section, both in (("bind", bind), ("publicAddresses", public_addresses)):
        for family, addresses in both:
            for address in _repeated(addresses):
                yield f"{section}.{family}", f"names {address} twice", "name it once"
            anywhere = [address for address in addresses if ip_address(address).is_unspecified]
            if anywhere and len(addresses) > 1:
                reason = f"{anywhere[0]} already means every address"
                yield f"{section}.{family}", reason, "remove the others"


def _repeated(names: list[str]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1})


@_rule
def _public_addresses_exist(public_addresses: PublicAddressSettings) -> Found:
    if not public_addresses.addresses:
        remedy = "`pulumi config set --path 'publicAddresses.ipv4[0]' 203.0.113.10`"
        yield "publicAddresses", "names no address, so no DNS record can be set", remedy
    for family, addresses in public_addresses:
        for address in addresses:
            if ip_address(address).is_unspecified:
                reason = f"{address} is no host's address"
                yield f"publicAddresses.{family}", reason, "name the real one"


@_rule
def _families_agree(bind: BindSettings, public_addresses: PublicAddressSettings) -> Found:
    for (family, bound), (_, public) in zip(bind, public_addresses, strict=True):
        if public and not bound:
            reason = f"is empty although publicAddresses.{family} promises {public[0]}"
            remedy = "bind an address of that family, or do not publish one"
            yield f"bind.{family}", reason, remedy


@_rule
def _boot_media_need_ipv4(
    bind: BindSettings, public_addresses: PublicAddressSettings, bootstrap: BootstrapSettings
) -> Found:
    """Refuse IPv6 alone: the iPXE of boot media has none (ipxe: config/general.h)."""
    for key, section in (("bind", bind), ("publicAddresses", public_addresses)):
        if bootstrap.enabled and section.ipv6 and not section.ipv4:
            reason = "is empty, and boot media load their kernel over IPv4 only"
            remedy = "name an IPv4 address, or set bootstrap.enabled to false"
            yield f"{key}.ipv4", reason, remedy


@_rule
def _aliases_are_other_names(hub: HubSettings, domain: str) -> Found:
    own = {f"{name}.{domain}" for name in ("hub", "bootstrap", "unsecure.bootstrap")}
    for alias in sorted(own.intersection(hub.aliases)):
        yield "hub.aliases", f"{alias} is served anyway", "remove it"
    for alias in sorted(set(_repeated(hub.aliases)) - own):
        yield "hub.aliases", f"{alias} stands there twice", "remove it"


@_rule
def _ports_differ(ports: PortSettings) -> Found:
    seen: dict[int, str] = {}
    for key, port in ports:
        if port is not None and seen.setdefault(port, key) != key:
            yield f"ports.{key}", f"is {port}, as is ports.{seen[port]}", "give each its own port"


@_rule
def _cloudflare_is_whole(dns: DnsSettings, dns_api_token: str | None) -> Found:
    if dns.provider == "cloudflare":
        if not dns.zone_id:
            remedy = "`pulumi config set --path dns.zoneId ID` (the zone's overview page shows it)"
            yield "dns.zoneId", "is required with dns.provider cloudflare", remedy
        if AUTOMATIC_TTL < dns.ttl < SHORTEST_TTL_SECONDS:
            remedy = f"give {SHORTEST_TTL_SECONDS} or more, or {AUTOMATIC_TTL} (automatic)"
            yield "dns.ttl", f"is {dns.ttl}, which Cloudflare refuses", remedy
        return
    useless = "has no use with dns.provider none"
    for key, value in (("zoneId", dns.zone_id), ("apiUrl", dns.api_url), ("proxied", dns.proxied)):
        if value:
            yield f"dns.{key}", useless, "remove it, or set the provider"
    if dns_api_token:
        yield "dnsApiToken", useless, "`pulumi config rm dnsApiToken`"


@_rule
def _proxy_leaves_zdb_reachable(dns: DnsSettings, zdb: ZdbSettings, domain: str) -> Found:
    if not dns.proxied:
        return
    if dns.ttl != AUTOMATIC_TTL:
        yield "dns.ttl", "must be 1 (automatic) for proxied records", "set it to 1"
    if zdb.publish_host is None or zdb.publish_host.endswith(f".{domain}"):
        reason = "must be a name outside the proxied ones: the proxy does not carry 0-db"
        remedy = "set it to a name or address that leads to the host itself"
        yield "zdb.publishHost", reason, remedy


@_rule
def _certificates_have_a_contact(acme: AcmeSettings, *, production: bool) -> Found:
    if acme.ca != "internal" and acme.email is None:
        remedy = "`pulumi config set --path acme.email you@example.org`"
        yield "acme.email", f"is required with acme.ca {acme.ca}", remedy
    if production and acme.ca in {"internal", "letsencrypt-staging"}:
        reason = f"{acme.ca} is trusted by no client, so not for production"
        yield "acme.ca", reason, "use letsencrypt"


@_rule
def _production_keeps_data(*, production: bool, purge: bool) -> Found:
    if production and purge:
        reason = "contradicts production, which protects the data"
        yield "purge", reason, "turn one of them off"


@_rule
def _waiting_needs_a_mirror(mode: Mode, ready: Ready) -> Found:
    if mode != "mirror" and ready != "started":
        reason = f"{ready} waits for sync jobs, which mode {mode} does not have"
        yield "ready", reason, "set it to started"


@_rule
def _writable_options_need_a_writable_hub(mode: Mode, hub: HubSettings) -> Found:
    for key, value in (("guestAccess", hub.guest_access), ("usersMap", hub.users_map)):
        if mode == "mirror" and value:
            reason = "has no effect in mode mirror, which is read-only"
            yield f"hub.{key}", reason, "remove it"


@_rule
def _waiting_needs_running_jobs(
    mode: Mode,
    ready: Ready,
    users: UsersSettings,
    kernels: KernelsSettings,
    flists: FlistsSettings,
) -> Found:
    if mode != "mirror" or ready == "started":
        return
    jobs: dict[str, UsersSettings | KernelsSettings | FlistsSettings]
    jobs = {"users": users, "kernels": kernels, "flists": flists}
    for key in [key for key, job in jobs.items() if job.enabled and job.paused]:
        reason = f"a paused job never gets as far as ready {ready}"
        yield f"{key}.paused", reason, "resume it, or set ready to started"
    if not any(job.enabled for job in jobs.values()):
        yield "ready", f"{ready} waits for jobs, and none is enabled", "use started"


@_rule
def _kernels_need_bootstrap(
    bootstrap: BootstrapSettings, kernels: KernelsSettings, mode: Mode, images: ImageSettings
) -> Found:
    if bootstrap.enabled and images.bootstrap is None:
        remedy = "name one, or set bootstrap.enabled to false"
        yield "images.bootstrap", "is required and not set", remedy
    if mode == "mirror" and kernels.enabled and not bootstrap.enabled:
        reason = "kernels would be synced that no bootstrap server serves"
        yield "kernels.enabled", reason, "set it to false, or bootstrap.enabled to true"


@_rule
def _run_modes_agree(bootstrap: BootstrapSettings, kernels: KernelsSettings) -> Found:
    for mode in sorted(set(kernels.net_links) - set(kernels.run_modes)):
        reason = "is not one of kernels.runModes"
        yield f"kernels.netLinks.{mode}", reason, "add it there, or remove it"
    for mode in sorted(set(kernels.run_modes) - set(bootstrap.run_modes)):
        reason = f"{mode} is not offered by bootstrap.runModes"
        yield "kernels.runModes", reason, "add it there with a title, or remove it here"


@_rule
def _links_are_names_of_their_own(kernels: KernelsSettings) -> Found:
    for link in _repeated(kernels.links):
        yield "kernels.links", f"names {link} twice", "name it once"
    if "net" in kernels.links:
        remedy = "those follow kernels.runModes"
        yield "kernels.links", "net is the folder of the net links", remedy


@_rule
def _deletes_have_one_judge(flists: FlistsSettings, users: UsersSettings) -> Found:
    if flists.deletes_without_users and users.enabled:
        reason = "contradicts users.enabled: the users job says which chunks are needed"
        yield "flists.deletesWithoutUsers", reason, "remove it"


@_rule
def _foreign_chunks_stay_apart(users: UsersSettings, source: SourceSettings) -> Found:
    namespace = users.foreign_namespace
    if namespace in {"default", *(endpoint.namespace for endpoint in source.zdb)}:
        reason = f"{namespace} holds the master's chunks"
        yield "users.foreignNamespace", reason, "choose another name"


@_rule
def _not_its_own_master(
    mode: Mode, domain: str, source: SourceSettings, zdb: ZdbSettings, ports: PortSettings
) -> Found:
    if mode != "mirror":
        return
    for key, urls in (("hub", source.hub), ("bootstrap", source.bootstrap)):
        if any(urlsplit(url).hostname == f"{key}.{domain}" for url in urls):
            yield f"source.{key}", "is this mirror itself", "name the hub that it shall follow"
    published = (zdb.publish_host or f"hub.{domain}", zdb.publish_port or ports.zdb)
    if published in [(endpoint.host, endpoint.port) for endpoint in source.zdb]:
        yield "source.zdb", "is this mirror's own 0-db", "name the master's"


@_rule
def _clients_fit(edge: EdgeSettings, limits: LimitSettings, bootstrap: BootstrapSettings) -> Found:
    wanted = max(asked_for(edge), LEAST_CONNECTIONS)
    for key, room in clients_that_fit(limits, bootstrap).items():
        if room < wanted:
            reason = f"has room for {room} of {wanted} clients at once"
            yield key, reason, "raise it, or lower edge.connections"
    total, one = edge.connections, edge.connections_per_address
    if total is not None and one is not None and one > total:
        reason = f"is more than edge.connections, {total}"
        yield "edge.connectionsPerAddress", reason, "lower it"


@_rule
def _packer_has_memory(mode: Mode, hub: HubSettings, limits: LimitSettings) -> Found:
    given = limits.packer.memory_mb
    if (mode != "mirror" or hub.inspection) and given < LEAST_PACKER_MB:
        reason = f"{given} MB hold no four flists that are opened at a time"
        yield "limits.packer.memoryMb", reason, f"give {LEAST_PACKER_MB} or more"


@_rule
def _backoff_grows(users: UsersSettings, kernels: KernelsSettings, flists: FlistsSettings) -> Found:
    for key, job in (("users", users), ("kernels", kernels), ("flists", flists)):
        if job.backoff.longest_seconds < job.backoff.first_seconds:
            yield f"{key}.backoff.longestSeconds", "is shorter than firstSeconds", "make it longer"


@_rule
def _subnets_are_named_together(network: NetworkSettings) -> Found:
    derived = [key for key, subnet in network if subnet is None]
    if len(derived) == 1:
        key = f"network.{to_camel(derived[0])}"
        yield key, "is derived while the other is given", "give both, or neither"


@_rule
def _jobs_have_memory_for_what_comes(limits: LimitSettings, flists: FlistsSettings) -> Found:
    """Refuse what would be told by a killed process only."""
    fits = {"users": job_memory.users_fits, "kernels": job_memory.kernels_fits}
    for job, holds in fits.items():
        given = getattr(limits, job).memory_mb
        if not holds(given):
            least = next(mb for mb in count(given) if holds(mb))
            reason = f"{given} MB hold no usual hub beside the largest file"
            yield f"limits.{job}.memoryMb", reason, f"give {least} or more"
    given = limits.flists.memory_mb
    if not job_memory.flists_fits(flists, given):
        least = next(mb for mb in count(given) if job_memory.flists_fits(flists, mb))
        reason = f"{given} MB hold no chunk of the largest size beside the pages and batches"
        remedy = f"give {least} or more, or fewer flists.connections, scanners or batchBytes"
        yield "limits.flists.memoryMb", reason, remedy
