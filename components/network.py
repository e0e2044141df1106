"""The stack's Docker network and its two subnets."""

import hashlib
from ipaddress import IPv4Network, IPv6Network

import pulumi
import pulumi_docker as docker

from components.naming import DockerNames
from components.settings.model import NetworkSettings


class Network(pulumi.ComponentResource):
    """The stack's one Docker network, with both families.

    It isolates the stack's services from other stacks; it does not keep them from the Internet,
    which the sync jobs need.
    """

    def __init__(
        self,
        name: str,
        network: NetworkSettings,
        names: pulumi.Output[DockerNames],
        after: list[pulumi.Resource],
        opts: pulumi.ResourceOptions,
    ) -> None:
        super().__init__("gridhub:index:Network", name, None, opts)
        self.ipv4_subnet = names.apply(lambda own: network.ipv4_subnet or ipv4_subnet(own.stack))
        self.ipv6_subnet = names.apply(lambda own: network.ipv6_subnet or ipv6_subnet(own.stack))
        bridge = docker.Network(
            f"{name}-bridge",
            name=names.apply(lambda own: own.prefix),
            driver="bridge",
            internal=False,
            ipv6=True,
            ipam_configs=[
                docker.NetworkIpamConfigArgs(subnet=subnet)
                for subnet in (self.ipv4_subnet, self.ipv6_subnet)
            ],
            labels=names.apply(
                lambda own: [
                    docker.NetworkLabelArgs(label=key, value=value)
                    for key, value in sorted(own.labels.items())
                ]
            ),
            # The name is taken until the old one is gone.
            opts=pulumi.ResourceOptions(parent=self, depends_on=after, delete_before_replace=True),
        )
        self.network_name = bridge.name
        self.register_outputs({"networkName": self.network_name})


def ipv4_subnet(stack: str) -> str:
    """Return a /24 of 10.0.0.0/8, the same for the same stack name, else another."""
    first, second = _digest(stack)[:2]
    return str(IPv4Network(f"10.{first}.{second}.0/24"))


def ipv6_subnet(stack: str) -> str:
    """Return a /64 of fd00::/8 (RFC 4193), the same for the same stack name, else another."""
    words = _digest(stack)[2:9].hex()
    address = f"fd{words[:2]}:{words[2:6]}:{words[6:10]}:{words[10:14]}::/64"
    return str(IPv6Network(address))


def _digest(stack: str) -> bytes:
    return hashlib.sha256(f"gridhub network {stack}".encode()).digest()
