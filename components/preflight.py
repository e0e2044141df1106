"""What the host is checked for before the first change, by the stack's settings."""

from typing import Any
from urllib.parse import urlsplit

import pulumi

from components.host import connection
from components.naming import DockerNames, Stack
from components.settings import Settings
from sync.providers.resources import Preflight


def declare_preflight(
    stack: Stack, names: pulumi.Output[DockerNames], opts: pulumi.ResourceOptions
) -> Preflight:
    """Declare the check."""
    settings, limits = stack.settings, stack.settings.preflight
    return Preflight(
        "preflight",
        host=connection(settings),
        root=settings.data_root,
        limits={
            "cores": limits.cores,
            "memoryBytes": limits.memory_mb << 20,
            "freeBytes": int(limits.free_space_gb * (1 << 30)),
            "dockerVersion": limits.docker_version,
            "zdbMemoryBytes": settings.limits.zdb.memory_mb << 20,
        },
        ports=_listening_ports(settings),
        addresses=settings.bind.addresses,
        public_addresses=settings.public_addresses.addresses,
        # Behind Cloudflare's proxy a name leads to the proxy, wherever that sends it.
        names=_dns_names(stack) if limits.check_dns and not settings.dns.proxied else [],
        upstream=_masters(settings) if limits.check_source else [],
        own_containers=names.apply(lambda names: names.containers),
        root_is_mount=limits.data_root_is_mount,
        dns_managed=settings.dns.provider == "cloudflare",
        ignore=limits.ignore,
        opts=opts,
    )


def _listening_ports(settings: Settings) -> list[dict[str, Any]]:
    """Return every address and port that the stack binds on the host."""
    ports = settings.ports
    public = (ports.http, ports.https, ports.zdb)
    wanted = [(address, port) for address in settings.bind.addresses for port in public]
    if ports.metrics is not None:
        wanted += [("127.0.0.1", ports.metrics), ("::1", ports.metrics)]
    return [{"address": address, "port": port} for address, port in sorted(wanted)]


def _dns_names(stack: Stack) -> list[dict[str, Any]]:
    """Return the names that should resolve to the public addresses."""
    addresses = stack.settings.public_addresses.addresses
    return [
        {"name": name, "addresses": addresses, "bootMedia": name != stack.hub}
        for name in stack.hosts
    ]


def _masters(settings: Settings) -> list[dict[str, Any]]:
    """Return the services of the master that the enabled jobs need, by each of their names.

    namespace: of a 0-db that is copied whole, and therefore asked how many keys it holds.
    """
    users, flists, source = settings.users, settings.flists, settings.source
    if settings.writable:
        return []
    found: list[dict[str, Any]] = []
    if settings.kernels.enabled:
        found += [{"name": "bootstrap", **_endpoint(url)} for url in source.bootstrap]
    if users.enabled:
        found += [{"name": "hub", **_endpoint(url)} for url in source.hub]
    for zdb in source.zdb if users.enabled or flists.enabled else []:
        namespace = {"namespace": zdb.namespace} if flists.enabled else {}
        found.append({"name": "zdb", "host": zdb.host, "port": zdb.port, **namespace})
    return found


def _endpoint(url: str) -> dict[str, Any]:
    parts = urlsplit(url)
    default = {"http": 80, "https": 443}[parts.scheme]
    return {"host": str(parts.hostname), "port": parts.port or default}
