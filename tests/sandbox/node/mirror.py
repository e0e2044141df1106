"""Where a mirror is: the names and ports that a node asks, and how they are reached here."""

import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from tests.sandbox.flist import Backend
from tests.sandbox.node.network import Names


@dataclass(frozen=True)
class Mirror:
    """Base URLs without a slash at the end.

    hub, bootstrap: https in production. plain_hub: what workloads name (http, port 80). unsecure:
    base URL of `unsecure.bootstrap.DOMAIN`, plain too. storage: 0-db of zos-config's `hub_storage`.
    default_store: where flists without a backend lead; None: to the master, which is a failure.
    """

    hub: str
    plain_hub: str | None = None
    bootstrap: str | None = None
    unsecure: str | None = None
    storage: Backend | None = None
    default_store: Backend | None = None
    names: Names = field(default_factory=Names)
    ca_file: Path | None = None

    @classmethod
    def of_domain(
        cls,
        domain: str,
        addresses: Sequence[str],
        *,
        https: int = 443,
        http: int = 80,
        zdb: int = 9900,
        ca_file: Path | None = None,
    ) -> "Mirror":
        """Return the mirror of a domain whose ports are all reached at `addresses`."""
        hub, bootstrap = f"hub.{domain}", f"bootstrap.{domain}"
        names = Names()
        for address in addresses:
            for name in (hub, bootstrap):
                names.add(name, https, address)
                names.add(name, http, address)
            names.add(f"unsecure.{bootstrap}", http, address)
            names.add(hub, zdb, address)
        return cls(
            hub=f"https://{hub}{_port(https, 443)}",
            plain_hub=f"http://{hub}{_port(http, 80)}",
            bootstrap=f"https://{bootstrap}{_port(https, 443)}",
            unsecure=f"http://unsecure.{bootstrap}{_port(http, 80)}",
            storage=Backend(hub, zdb),
            names=names,
            ca_file=ca_file,
        )

    @cached_property
    def tls(self) -> ssl.SSLContext:
        """What programs of today use: TLS 1.2 and later, the given authority only."""
        return ssl.create_default_context(cafile=self.ca_file)


def _port(port: int, usual: int) -> str:
    return "" if port == usual else f":{port}"
