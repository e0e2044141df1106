"""The whole mirror: what a stack declares, in the order in which it comes to be."""

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pulumi

from components import host
from components.agents import Agents, AgentsConfig
from components.bootstrap import Bootstrap, BootstrapConfig
from components.caddyfile import CaddyfileConfig
from components.container import Placement
from components.dns import Dns, DnsConfig
from components.edge import Edge, EdgeConfig
from components.hub import Hub, HubConfig
from components.naming import DockerNames, Naming
from components.settings import Settings
from components.specs import SERVICES, job_specs, published_zdb
from components.zdb import Zdb, ZdbConfig
from sync.contract.layout import JOBS
from sync.providers import ModeGuard, Preflight, StackSecrets


@dataclass(frozen=True)
class MirrorConfig:
    """naming: of the stack. agent_digest: of the agent's sources and lock."""

    naming: Naming
    settings: Settings
    agent_digest: str

    @property
    def rotation(self) -> dict[str, int]:
        """Counters of the generated secrets, by the names that StackSecrets uses."""
        return self.settings.rotation.model_dump(by_alias=True)

    @property
    def listen(self) -> list[str]:
        """Every address of the host that public ports are bound to, IPv4 first."""
        return [*self.settings.bind.ipv4, *self.settings.bind.ipv6]

    def url(self, host: str) -> str:
        """HTTPS URL of a host name of the stack, as the outside sees it."""
        port = self.settings.ports.https
        return f"https://{host}" if port == 443 else f"https://{host}:{port}"  # noqa: PLR2004


class Mirror(pulumi.ComponentResource):
    """A hub mirror on one host, with its DNS records.

    One stack is one mirror; it does not know of others, and a fleet is many stacks.
    """

    def __init__(
        self, name: str, config: MirrorConfig, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        settings = config.settings
        provider = host.docker_provider("docker", settings.host)
        providers = pulumi.ResourceOptions(providers=[provider])
        super().__init__(
            "gridhub:index:Mirror", name, None, pulumi.ResourceOptions.merge(opts, providers)
        )
        self.config = config
        self._settings = settings
        self._naming = config.naming
        self._connection = host.connection(settings.host, settings.images.python)
        self._child = pulumi.ResourceOptions(parent=self)
        # First of all: a record of others in the way ends the program before anything is changed.
        self.dns = self._dns()
        self.guard = self._guard()
        self.names = self.guard.stack.apply(DockerNames)
        self.secrets = self._secrets()
        self.preflight = self._preflight()
        self._checked = (self.guard, self.preflight)
        self.images = self._images()
        self.data_root = self._data_root()
        self.network = self._network()
        self.placement = self._placement()
        self.zdb = self._zdb()
        self.hub = self._hub()
        self.bootstrap = self._bootstrap() if settings.bootstrap.enabled else None
        self.edge = self._edge()
        self.agents = self._agents()
        self.dns.set_records(after=self._checked)
        self.register_outputs({})

    def _guard(self) -> ModeGuard:
        return ModeGuard(
            "mode",
            stack=self._naming.stack,
            mode=self._settings.mode,
            confirmation=self._settings.mode_confirmation,
            opts=pulumi.ResourceOptions(parent=self, protect=self._settings.production),
        )

    def _secrets(self) -> StackSecrets:
        return StackSecrets(
            "secrets",
            stack=self.guard.stack,
            rotation=self.config.rotation,
            opts=pulumi.ResourceOptions(parent=self, protect=self._settings.production),
        )

    def _preflight(self) -> Preflight:
        settings, limits = self._settings, self._settings.preflight
        public = settings.public_addresses
        return Preflight(
            "preflight",
            host=self._connection,
            root=settings.data_root,
            limits={
                "cores": limits.cores,
                "memoryBytes": limits.memory_mb << 20,
                "freeBytes": int(limits.free_space_gb * (1 << 30)),
                "dockerVersion": limits.docker_version,
                "zdbMemoryBytes": settings.limits.zdb.memory_mb << 20,
            },
            ports=listening_ports(self.config),
            addresses=self.config.listen,
            public_addresses=[*public.ipv4, *public.ipv6],
            # Behind Cloudflare's proxy a name leads to the proxy, wherever that sends it.
            names=dns_names(self.config) if limits.check_dns and not settings.dns.proxied else [],
            upstream=masters(self.config) if limits.check_source else [],
            own_containers=self.names.apply(container_names),
            root_is_mount=limits.data_root_is_mount,
            dns_managed=settings.dns.provider == "cloudflare",
            ignore=limits.ignore,
            # Before the images: faults on the way to the host are reported here, in words, and a
            # host that does not meet the requirements pulls nothing but the image that checks it.
            opts=pulumi.ResourceOptions(parent=self, depends_on=[self.guard]),
        )

    def _images(self) -> host.Images:
        enabled = self._settings.bootstrap.enabled
        config = host.ImagesConfig(self._settings.images, bootstrap=enabled, after=self._checked)
        return host.Images("images", config, self._child)

    def _data_root(self) -> host.DataRoot:
        settings = self._settings
        config = host.DataRootConfig(
            connection=self._connection,
            root=settings.data_root,
            hub_writes=settings.mode != "mirror",
            must_be_mount=settings.preflight.data_root_is_mount,
            purge=settings.purge,
            protect=settings.production,
            after=self._checked,
        )
        return host.DataRoot("data-root", config, self._child)

    def _network(self) -> host.Network:
        config = host.NetworkConfig(self.names, self._settings.network, self._checked)
        return host.Network("network", config, self._child)

    def _placement(self) -> Placement:
        return Placement(
            names=self.names,
            connection=self._connection,
            root=self._settings.data_root,
            network_name=self.network.network_name,
            images=self.images.ids,
            limits=self._settings.limits,
            health_interval_seconds=self._settings.health_interval_seconds,
            after=(*self._checked, self.data_root.directories),
        )

    def _zdb(self) -> Zdb:
        config = ZdbConfig(
            placement=self.placement,
            settings=self._settings.zdb,
            addresses=self.config.listen,
            port=self._settings.ports.zdb,
            admin_password=self.secrets.zdb_admin_password,
            rotation=self.config.rotation["zdbAdmin"],
        )
        return Zdb("zdb", config, self._child)

    def _hub(self) -> Hub:
        published = published_zdb(self._naming, self._settings)
        config = HubConfig(
            placement=self.placement,
            settings=self._settings.hub,
            mode=self._settings.mode,
            public_url=self.config.url(self._naming.hub),
            zdb_public=(published.host, published.port),
            secrets=self.secrets,
            rotation=self.config.rotation,
            zdb=self.zdb.container,
        )
        return Hub("hub", config, self._child)

    def _bootstrap(self) -> Bootstrap:
        config = BootstrapConfig(
            placement=self.placement,
            settings=self._settings.bootstrap,
            public_url=self.config.url(self._naming.bootstrap),
            api_token=self.secrets.bootstrap_api_token,
            rotation=self.config.rotation["bootstrapToken"],
        )
        return Bootstrap("bootstrap", config, self._child)

    def _edge(self) -> Edge:
        settings = self._settings
        text = CaddyfileConfig(
            naming=self._naming,
            bootstrap=settings.bootstrap.enabled,
            https_port=settings.ports.https,
            ca=settings.acme.ca,
            email=settings.acme.email,
            uploads=settings.mode != "mirror",
            hub_aliases=tuple(settings.hub.aliases),
        )
        config = EdgeConfig(self.placement, self.config.listen, settings.ports, text)
        return Edge("edge", config, self._child)

    def _agents(self) -> Agents | None:
        settings = self._settings
        specs = job_specs(self._naming, settings)
        if not specs:
            return None
        config = AgentsConfig(
            placement=self.placement,
            jobs=specs,
            digest=self.config.agent_digest,
            admin_password=self.secrets.zdb_admin_password,
            rotation=self.config.rotation["zdbAdmin"],
            ready=settings.ready,
            ready_timeout_seconds=settings.ready_timeout_seconds,
            purge=settings.purge,
            zdb=self.zdb.container,
        )
        return Agents("sync", config, self._child)

    def _dns(self) -> Dns:
        settings = self._settings
        token = settings.dns_api_token
        config = DnsConfig(
            naming=self._naming,
            dns=settings.dns,
            addresses=settings.public_addresses,
            bootstrap=settings.bootstrap.enabled,
            api_token=pulumi.Output.secret(token) if token else None,
            neighbours_allowed="records" in settings.preflight.ignore,
        )
        return Dns("dns", config, self._child)


def listening_ports(config: MirrorConfig) -> list[dict[str, Any]]:
    """Return every address and port that the stack binds on the host."""
    ports = config.settings.ports
    wanted = [
        (address, port)
        for address in config.listen
        for port in (ports.http, ports.https, ports.zdb)
    ]
    if ports.metrics is not None:
        wanted += [("127.0.0.1", ports.metrics), ("::1", ports.metrics)]
    return [{"address": address, "port": port} for address, port in sorted(wanted)]


def dns_names(config: MirrorConfig) -> list[dict[str, Any]]:
    """Return the names that should resolve to the public addresses."""
    naming, settings = config.naming, config.settings
    media = [naming.bootstrap, naming.unsecure_bootstrap] if settings.bootstrap.enabled else []
    public = settings.public_addresses
    addresses = [*public.ipv4, *public.ipv6]
    return [
        {"name": name, "addresses": addresses, "bootMedia": name in media}
        for name in [naming.hub, *media]
    ]


def masters(config: MirrorConfig) -> list[dict[str, Any]]:
    """Return the services of the master that the enabled jobs need, by each of their names.

    namespace: of a 0-db that is copied whole, and therefore asked how many keys it holds.
    """
    settings, source = config.settings, config.settings.source
    if settings.mode != "mirror":
        return []
    found: list[dict[str, Any]] = []
    if settings.kernels.enabled:
        found += [{"name": "bootstrap", **_endpoint(url)} for url in source.bootstrap]
    if settings.users.enabled:
        found += [{"name": "hub", **_endpoint(url)} for url in source.hub]
    for zdb in source.zdb if settings.users.enabled or settings.flists.enabled else []:
        namespace = {"namespace": zdb.namespace} if settings.flists.enabled else {}
        found.append({"name": "zdb", "host": zdb.host, "port": zdb.port, **namespace})
    return found


def _endpoint(url: str) -> dict[str, Any]:
    parts = urlsplit(url)
    default = {"http": 80, "https": 443}[parts.scheme]
    return {"host": str(parts.hostname), "port": parts.port or default}


def container_names(names: DockerNames) -> list[str]:
    """Return the names of all containers that a stack may have."""
    return sorted(names.container(service) for service in (*SERVICES, *JOBS))
