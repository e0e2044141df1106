"""Where a node connects: names lead where the caller says, and nowhere else.

No name is ever looked up in the DNS: one that the caller did not give is a way out of the mirror.
"""

import contextlib
import ipaddress
import socket
from dataclasses import dataclass, field

from tests.sandbox.node.report import NodeError

_TIMEOUT_SECONDS = 30.0


@dataclass
class Names:
    """Addresses by name and port; several where a name has them in both families."""

    known: dict[tuple[str, int], list[tuple[str, int]]] = field(default_factory=dict)

    def add(self, name: str, port: int, address: str) -> None:
        """Lead `name:port` to an address, or to `ADDRESS,PORT`, beside what it leads to already."""
        host, _, other = address.partition(",")
        place = (str(ipaddress.ip_address(host.strip("[]"))), int(other or port))
        self.known.setdefault((name.lower(), port), []).append(place)

    def addresses(self, name: str, port: int, family: int | None) -> list[tuple[str, int]]:
        """Return where to connect, in one family or in any; raises NodeError where there is none.

        An address instead of a name stands for itself.
        """
        found = self.known.get((name.lower(), port))
        if found is None:
            with contextlib.suppress(ValueError):
                found = [(str(ipaddress.ip_address(name)), port)]
        if found is None:
            raise NodeError(f"{name}:{port} is no name of this mirror: a node would leave it")
        fitting = [place for place in found if family in (None, _family(place[0]))]
        if not fitting:
            raise NodeError(f"{name}:{port} has no IPv{family} address")
        return fitting


def _family(address: str) -> int:
    return ipaddress.ip_address(address).version


@dataclass(frozen=True)
class Network:
    """A node's way out. family: 4, 6 or None (both)."""

    names: Names
    family: int | None = None
    timeout_seconds: float = _TIMEOUT_SECONDS

    def addresses(self, name: str, port: int) -> list[tuple[str, int]]:
        """Return where `name:port` is; raises NodeError."""
        return self.names.addresses(name, port, self.family)

    def connect(self, name: str, port: int) -> socket.socket:
        """Connect to the first address that takes it; raises NodeError."""
        last: OSError | None = None
        for place in self.addresses(name, port):
            try:
                return socket.create_connection(place, self.timeout_seconds)
            except OSError as error:
                last = error
        raise NodeError(f"{name}:{port} takes no connection: {last}")
