"""Every name on the host and in DNS, derived from the stack and its domain."""

import hashlib
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

PREFIX = "gridhub"


@dataclass(frozen=True)
class Naming:
    """Host names of one stack. stack: its present name, which Pulumi and DNS comments have."""

    stack: str
    domain: str

    @property
    def hub(self) -> str:
        """Host name of the hub."""
        return f"hub.{self.domain}"

    @property
    def bootstrap(self) -> str:
        """Host name of the bootstrap server."""
        return f"bootstrap.{self.domain}"

    @property
    def unsecure_bootstrap(self) -> str:
        """Host name of the bootstrap server for boot media that cannot speak TLS.

        It writes http:// URLs into what it makes where the Host header has `unsecure`
        (0-bootstrap: bootstrap.py, get_protocol).
        """
        return f"unsecure.{self.bootstrap}"


@dataclass(frozen=True)
class DockerNames:
    """Names of one stack's Docker objects; two stacks on one host share none.

    stack: the name that it had at its first `up` (ModeGuard keeps it): a renamed stack is the
    same mirror, whose containers would otherwise all be replaced for a name.
    """

    stack: str

    @property
    def prefix(self) -> str:
        """What every Docker object of the stack starts with; also the network's name."""
        return f"{PREFIX}-{self.stack}"

    def container(self, service: str) -> str:
        """Name of a service's container."""
        return f"{self.prefix}-{service}"

    def labels(self) -> dict[str, str]:
        """Labels of every Docker object of the stack."""
        return {"gridhub.stack": self.stack}

    def ipv4_subnet(self) -> str:
        """Return a /24 of 10.0.0.0/8, the same for the same stack name, else another."""
        first, second = _digest(self.stack)[:2]
        return str(IPv4Network(f"10.{first}.{second}.0/24"))

    def ipv6_subnet(self) -> str:
        """Return a /64 of fd00::/8 (RFC 4193), the same for the same stack name, else another."""
        words = _digest(self.stack)[2:9].hex()
        address = f"fd{words[:2]}:{words[2:6]}:{words[6:10]}:{words[10:14]}::/64"
        return str(IPv6Network(address))


def _digest(stack: str) -> bytes:
    return hashlib.sha256(f"{PREFIX} network {stack}".encode()).digest()
