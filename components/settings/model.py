"""The settings: one field per key of the stack file, with type, default and effect.

Keys are camelCase in the stack file. Sizes are in the unit that the key ends with (Mb, Gb: powers
of 1024; Bytes; Seconds; Days). What an operator may set of a job is declared with its spec, in
sync/contract/spec.py. The descriptions are the only ones: `docs/configuration.md` is written from
them.
"""

from typing import Literal, TypeAlias

from pydantic import Field

from components.settings.limits import LimitSettings
from components.settings.values import (
    CertificateAuthority,
    DataRoot,
    DockerHost,
    Domain,
    Email,
    ImageReference,
    Ipv4,
    Ipv4Subnet,
    Ipv6,
    Ipv6Subnet,
    SourceEndpoints,
    SourceUrls,
    SshPath,
)
from sync.contract.addresses import Host, HttpUrl, Port
from sync.contract.preflight import Check
from sync.contract.sections import Count, PlainName, Section
from sync.contract.spec import FlistsOptions, KernelsOptions, UsersOptions, ZdbEndpoint
from sync.contract.status import Ready

Mode: TypeAlias = Literal["mirror", "detached", "standalone"]


class HostSettings(Section):
    """The machine that the mirror runs on."""

    docker: DockerHost = Field(
        "unix:///var/run/docker.sock",
        description="Docker Engine: `unix:///PATH`, or `ssh://USER@HOST[:PORT]` for a remote one; "
        "unset: DOCKER_HOST of the environment, else the local socket.",
    )
    ssh_key_path: SshPath | None = Field(
        None, description="Private key file for `ssh://`; its path is kept, never its content."
    )
    known_hosts_path: SshPath | None = Field(
        None, description="The known_hosts file that pins the host's key; checking is never off."
    )


class NetworkSettings(Section):
    """The stack's own Docker network; both families, each with a subnet of its own."""

    ipv4_subnet: Ipv4Subnet | None = Field(
        None, description="Private IPv4 subnet, /16 to /28; derived from the stack's name if unset."
    )
    ipv6_subnet: Ipv6Subnet | None = Field(
        None, description="IPv6 subnet, /48 to /112; a ULA derived from the stack's name if unset."
    )


class _Addresses(Section):
    ipv4: list[Ipv4]
    ipv6: list[Ipv6]

    @property
    def addresses(self) -> list[str]:
        """Those of both families, IPv4 first."""
        return [*self.ipv4, *self.ipv6]


class BindSettings(_Addresses):
    """The host's addresses that the public ports are bound to."""

    ipv4: list[Ipv4] = Field(["0.0.0.0"], description="IPv4 addresses to listen on.")  # noqa: S104
    ipv6: list[Ipv6] = Field(["::"], description="IPv6 addresses to listen on.")


class PortSettings(Section):
    """The public ports."""

    http: Port = Field(80, description="Plain HTTP: what booting nodes ask; the rest redirects.")
    https: Port = Field(443, description="HTTPS for hub and bootstrap.")
    zdb: Port = Field(9900, description="0-db, read-only for all without the admin password.")
    metrics: Port | None = Field(
        None, description="Prometheus metrics of the edge, on the host's loopback; unset: none."
    )


class PublicAddressSettings(_Addresses):
    """The addresses under which the world reaches the host: what DNS records will say."""

    ipv4: list[Ipv4] = Field([], description="For A records.")
    ipv6: list[Ipv6] = Field([], description="For AAAA records.")


class DnsSettings(Section):
    """Who sets the DNS records, and which."""

    provider: Literal["none", "cloudflare"] = Field(
        "none",
        description="`cloudflare` sets the records; `none`: the output `dnsRecords` lists them.",
    )
    kind: Literal["individual", "wildcard"] = Field(
        "individual",
        description="`hub.`, `bootstrap.` and `unsecure.bootstrap.` of the domain, or one `*.` for "
        "all (a wildcard covers names of several labels, RFC 4592).",
    )
    zone_id: str | None = Field(None, description="Cloudflare's id of the zone.")
    ttl: int = Field(
        1,
        ge=1,
        le=86400,
        description="Seconds that resolvers may keep a record; 1: automatic. Cloudflare takes no 2 "
        "to 59.",
    )
    proxied: bool = Field(
        default=False,
        description="Cloudflare's proxy in front of HTTP; 0-db then needs another name.",
    )
    api_url: HttpUrl | None = Field(
        None, description="Another API endpoint (tests); unset: Cloudflare's."
    )


class AcmeSettings(Section):
    """Where the certificates come from."""

    email: Email | None = Field(
        None, description="Contact of the ACME account; required unless `ca` is `internal`."
    )
    ca: CertificateAuthority = Field(
        "letsencrypt",
        description="`letsencrypt`, `letsencrypt-staging`, an ACME directory's https URL, or "
        "`internal`: a CA of the edge's own, which no client knows (sandbox).",
    )


class ImageSettings(Section):
    """The service images, each pinned: by digest, or, if built on the host, by image id."""

    zdb: ImageReference = Field(description="0-db: has /bin/zdb, /bin/sh and busybox.")
    hub: ImageReference = Field(description="0-hub: serves port 5555, reads /hub/src/config.py.")
    bootstrap: ImageReference | None = Field(
        None, description="0-bootstrap: port 5555, reads /bootstrap/config.py."
    )
    caddy: ImageReference = Field(description="Caddy 2.6 or later, with busybox.")
    python: ImageReference = Field(description="Python 3.11: runs the sync agents.")


class EdgeSettings(Section):
    """What clients may hold of the edge at once, by HTTP and HTTPS."""

    connections: int | None = Field(
        None,
        ge=100,
        le=8000,
        description="Connections of all clients; unset: as many as the limits of gate, caddy, hub "
        "and bootstrap have room for, up to 4000. Where one too many comes, the one that was "
        "silent longest goes.",
    )
    connections_per_address: int | None = Field(
        None,
        ge=10,
        le=8000,
        description="Connections of one IPv4 address or one IPv6 /64; unset: 1000, or all where "
        "there are fewer. Nodes of a farm that share an address have 4 each at most while they "
        "boot.",
    )


class SourceSettings(Section):
    """The master: any hub, bootstrap and 0-db, also those of another mirror, each by its names."""

    hub: SourceUrls = Field(
        ["https://hub.threefold.me", "https://hub.grid.tf"],
        description="Base URLs of the master's hub, the preferred one first; a single one may be "
        "given without a list. All are names of one master: one that dies is skipped and tried "
        "again later; one that turns out to lead to another master stops the job.",
    )
    bootstrap: SourceUrls = Field(
        ["https://bootstrap.grid.tf"],
        description="Base URLs of the master's bootstrap server, as for `source.hub`.",
    )
    zdb: SourceEndpoints = Field(
        [ZdbEndpoint(host="hub.threefold.me"), ZdbEndpoint(host="hub.grid.tf")],
        description="The master's chunks, as for `source.hub`; a single 0-db may be given as an "
        "object. All must lead to the very same 0-db: a mirror of it has another order.",
    )


class ZdbSettings(Section):
    """The mirror's own 0-db."""

    publish_host: Host | None = Field(
        None, description="Name that flists give to nodes for it; unset: `hub.` of the domain."
    )
    publish_port: Port | None = Field(
        None, description="Port that flists give to nodes; unset: `ports.zdb`."
    )
    datasize_mb: int = Field(
        256, ge=1, le=4095, description="Size at which 0-db starts another data file."
    )


class HubSettings(Section):
    """0-hub: what its own configuration says."""

    official_repositories: list[PlainName] = Field(
        [
            "tf-official-apps",
            "tf-dockers",
            "tf-autobuilder",
            "tf-bootable",
            "tf-zos",
            "tf-solutions",
            "tf-elevated",
            "tf-official-vms",
        ],
        description="Repositories shown on top of the hub's page.",
    )
    aliases: list[Domain] = Field(
        [],
        description="Further names of the hub, answered on plain HTTP only: `hub.grid.tf` where a "
        "farm's DNS leads that name here. Their HTTPS cannot work: the certificate is another's.",
    )
    inspection: bool = Field(
        default=False,
        description="Mode mirror: also answer the pages and API calls that show what is in a flist "
        "(contents, `/metadata`, `.md`, `.txt`, `/search`, `/listen`). No node and no slave asks "
        "them, and they start zflist on files that strangers packed, so a `packer` then runs it, "
        "without secrets. Writable modes answer them anyway.",
    )
    guest_access: bool = Field(
        default=False, description="Writable modes: accept the generated guest token as user guest."
    )
    users_map: dict[PlainName, str] = Field(
        {}, description="Writable modes: repository to the ThreeFold Connect account that owns it."
    )


class BootstrapSettings(Section):
    """0-bootstrap: the bootstrap server."""

    enabled: bool = Field(
        default=True, description="Whether it runs here; if not, no kernels are synced either."
    )
    builds: int | None = Field(
        None,
        ge=1,
        le=16,
        description="Boot media that are built at the same time; others wait in turn. Unset: 2, or "
        "1 where `limits.bootstrap.memoryMb` is below 664: each takes 150 MB.",
    )
    run_modes: dict[PlainName, str] = Field(
        {"prod": "production", "test": "testing", "dev": "development", "qa": "qa network"},
        description="Run modes it offers, with their titles in the boot menu.",
    )


class PreflightSettings(Section):
    """Preflight: what the host must have before anything is changed."""

    cores: int = Field(2, ge=0, description="Processor cores.")
    memory_mb: int = Field(
        8192, ge=0, description="Memory; most of it is 0-db's (see `limits.zdb.memoryMb`)."
    )
    free_space_gb: float = Field(
        850,
        ge=0,
        description="Free space at the data root; a disk sold as 1 TB offers 870 with ext4.",
    )
    data_root_is_mount: bool = Field(
        default=False,
        description="Refuse a data root that is no mount point itself, at every `up`.",
    )
    check_source: bool = Field(
        default=True,
        description="Refuse when a service of the master answers by none of its names; that one of "
        "several does not is a warning.",
    )
    check_dns: bool = Field(
        default=True, description="Look whether the DNS names lead to this host."
    )
    docker_version: str = Field(
        "20.10", pattern=r"^[0-9]+(\.[0-9]+)*$", description="Oldest Docker Engine."
    )
    ignore: list[Check] = Field([], description="Checks whose errors count as warnings.")


class RotationSettings(Section):
    """Generated secrets: raise a counter by one and the next `up` makes that one anew."""

    zdb_admin: Count = Field(0, description="0-db's admin password; restarts 0-db and its users.")
    hub_key: Count = Field(0, description="The hub's x25519 key; restarts the hub.")
    hub_seed: Count = Field(
        0, description="Seed of the hub's API tokens, which all end; restarts the hub."
    )
    bootstrap_token: Count = Field(0, description="Bootstrap's API token; restarts bootstrap.")
    guest_token: Count = Field(0, description="The hub's guest token; restarts the hub.")


class _JobSwitch(Section):
    enabled: bool = Field(default=True, description="Whether the job runs; its data stays if not.")


class UsersSettings(UsersOptions, _JobSwitch):
    """The users job: repositories, flists, links and tags."""

    rewrite_backend: bool = Field(
        default=True,
        description="Published flists name this mirror's 0-db instead of the master's.",
    )


class KernelsSettings(KernelsOptions, _JobSwitch):
    """The kernels job: kernels, and the links that a booting node follows."""


class FlistsSettings(FlistsOptions, _JobSwitch):
    """The flists job: every chunk of the master's 0-db namespace."""


class Settings(Section):
    """Everything under `gridhub:` in a stack file."""

    domain: Domain = Field(
        description="The mirror's domain: serves `hub.DOMAIN` and `bootstrap.DOMAIN`."
    )
    mode: Mode = Field(
        "mirror",
        description="`mirror` follows a master, read-only; `detached` keeps what was mirrored, "
        "ends the sync and accepts uploads; `standalone` is an own hub from the start.",
    )
    mode_confirmation: Count = Field(
        0,
        description="Raise by one to allow, once, the way back to `mirror`, which can lose local "
        "uploads.",
    )
    production: bool = Field(
        default=False,
        description="Protects what holds data from deletion, and refuses settings for trying out.",
    )
    data_root: DataRoot = Field(
        "/srv",
        description="Folder on the host with all of the stack's data; one stack, one root. Another "
        "one begins as it is found there: nothing is moved.",
    )
    host: HostSettings = HostSettings()
    network: NetworkSettings = NetworkSettings()
    bind: BindSettings = BindSettings()
    ports: PortSettings = PortSettings()
    public_addresses: PublicAddressSettings
    dns: DnsSettings = DnsSettings()
    dns_api_token: str | None = Field(
        None,
        description="Cloudflare API token that may edit the zone's DNS, 40 to 80 characters; "
        "unset: CLOUDFLARE_API_TOKEN of the environment, which then stays out of the state.",
        json_schema_extra={"secret": True},
    )
    acme: AcmeSettings = AcmeSettings()
    images: ImageSettings
    limits: LimitSettings = LimitSettings()
    edge: EdgeSettings = EdgeSettings()
    source: SourceSettings = SourceSettings()
    zdb: ZdbSettings = ZdbSettings()
    hub: HubSettings = HubSettings()
    bootstrap: BootstrapSettings = BootstrapSettings()
    users: UsersSettings = UsersSettings()
    kernels: KernelsSettings = KernelsSettings()
    flists: FlistsSettings = FlistsSettings()
    ready: Ready = Field(
        "started",
        description="What `up` waits for: jobs `started`; something `bootable`; a complete "
        "`first-pass`; `in-sync`.",
    )
    ready_timeout_seconds: int = Field(
        300, ge=1, le=86400, description="How long `up` waits for `ready`."
    )
    health_interval_seconds: int = Field(
        10, ge=1, le=59, description="Time between two health checks of a container."
    )
    preflight: PreflightSettings = PreflightSettings()
    rotation: RotationSettings = RotationSettings()
    purge: bool = Field(
        default=False,
        description="`destroy` also deletes the data below the data root; as of the last `up`.",
    )

    @property
    def writable(self) -> bool:
        """Whether the hub takes uploads, and therefore follows no master."""
        return self.mode != "mirror"

    @property
    def inspects(self) -> bool:
        """Whether the hub opens flists for who asks, and therefore has a packer to open them."""
        return self.writable or self.hub.inspection
