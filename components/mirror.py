"""The whole mirror: what a stack declares, in the order in which it comes to be."""

import pulumi
import pulumi_docker as docker

from components.bootstrap import Bootstrap
from components.dns import Dns
from components.edge import Edge
from components.gate import Gate
from components.host import DataRoot, Placement, ssh_options
from components.hub import Hub
from components.images import Images
from components.naming import DockerNames, Stack
from components.network import Network
from components.preflight import declare_preflight
from components.sync_jobs import Agents
from components.zdb import Zdb
from sync.providers.resources import ModeGuard, StackSecrets


class Mirror(pulumi.ComponentResource):
    """A hub mirror on one host, with its DNS records.

    One stack is one mirror; it does not know of others, and a fleet is many stacks.
    """

    def __init__(self, name: str, stack: Stack, opts: pulumi.ResourceOptions | None = None) -> None:
        settings = stack.settings
        engine, ssh = settings.host.docker, ssh_options(settings.host)
        provider = docker.Provider("docker", host=engine, ssh_opts=ssh)
        providers = pulumi.ResourceOptions(providers=[provider])
        super().__init__(
            "gridhub:index:Mirror", name, None, pulumi.ResourceOptions.merge(opts, providers)
        )
        self.stack = stack
        child = pulumi.ResourceOptions(parent=self)
        protected = pulumi.ResourceOptions(parent=self, protect=settings.production)
        # First of all: a record of others in the way ends the program before anything is changed.
        self.dns = Dns("dns", stack, child)
        self.guard = ModeGuard(
            "mode",
            stack=stack.name,
            mode=settings.mode,
            confirmation=settings.mode_confirmation,
            opts=protected,
        )
        self.names = self.guard.stack.apply(DockerNames)
        rotation = settings.rotation.model_dump(by_alias=True)
        self.secrets = StackSecrets(
            "secrets", stack=self.guard.stack, rotation=rotation, opts=protected
        )
        # Before the images: faults on the way to the host are reported here, in words, and a host
        # that does not meet the requirements pulls nothing but the image that checks it.
        guarded = pulumi.ResourceOptions(parent=self, depends_on=[self.guard])
        preflight = declare_preflight(stack, self.names, guarded)
        checked: list[pulumi.Resource] = [self.guard, preflight]
        images = Images("images", settings, checked, child)
        data_root = DataRoot("data-root", settings, checked, child)
        self.network = Network("network", settings.network, self.names, checked, child)
        placement = Placement(
            stack=stack,
            names=self.names,
            secrets=self.secrets,
            images=images.ids,
            network_name=self.network.network_name,
            after=[*checked, data_root.directories],
        )
        zdb = Zdb("zdb", placement, child).container
        Hub("hub", placement, zdb, child)
        if settings.bootstrap.enabled:
            Bootstrap("bootstrap", placement, child)
        caddy = Edge("edge", placement, child).container
        Gate("gate", placement, caddy, child)
        self.syncs = Agents("sync", placement, zdb, child).syncs if stack.jobs else {}
        self.dns.set_records(after=checked)
        self.register_outputs({})
