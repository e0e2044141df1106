"""The world around a mirror: a network with the master's address, the master, the DNS API.

The master and the DNS API are processes on this machine. Containers reach the master at the
gateway address of a Docker network of its own, so that nothing leaves the machine.
"""

import secrets
import sys
from dataclasses import dataclass
from http import HTTPStatus
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

import docker
import requests
from docker.errors import APIError, NotFound
from docker.types import IPAMConfig, IPAMPool

from tests.sandbox.host.dockerd import SANDBOX
from tests.sandbox.host.processes import Background, wait_until

_START_SECONDS = 60


@dataclass(frozen=True)
class Wan:
    """A Docker network whose gateway address is where the master answers."""

    name: str
    ipv4: IPv4Network
    ipv6: IPv6Network

    @property
    def gateway(self) -> str:
        """IPv4 address of this machine on the network."""
        return str(next(self.ipv4.hosts()))

    def create(self, url: str) -> None:
        """Create the network on the engine at `url`, unless it is there."""
        client = docker.DockerClient(base_url=url, timeout=60)
        try:
            if client.networks.list(names=[f"^{self.name}$"]):
                return
            pools = [
                IPAMPool(subnet=str(self.ipv4), gateway=self.gateway),
                IPAMPool(subnet=str(self.ipv6)),
            ]
            client.networks.create(
                self.name,
                driver="bridge",
                enable_ipv6=True,
                ipam=IPAMConfig(pool_configs=pools),
                labels={"gridhub.sandbox": "wan"},
            )
        except APIError as error:
            raise RuntimeError(
                f"cannot create the Docker network {self.name} ({self.ipv4}, {self.ipv6}): "
                f"{error.explanation}; free these subnets, or remove the network in the way"
            ) from error
        finally:
            client.close()

    def remove(self, url: str) -> None:
        """Remove the network if it is there."""
        client = docker.DockerClient(base_url=url, timeout=60)
        try:
            client.networks.get(self.name).remove()
        except NotFound:
            return
        finally:
            client.close()


@dataclass(frozen=True)
class Ports:
    """TCP ports of the newcomer's sandbox, as stacks/Pulumi.sandbox.yaml has them."""

    master_hub: int = 18080
    master_bootstrap: int = 18081
    master_zdb: int = 19900
    master_control: int = 18090
    dns_api: int = 18053
    dns: int = 15353


WAN = Wan("gridhub-sandbox-wan", IPv4Network("172.31.250.0/24"), IPv6Network("fd00:31:250::/64"))
PORTS = Ports()
ZONE = "gridhub.test"
RUN = SANDBOX / "run"
DNS_TOKEN = SANDBOX / "dns-token"
# Below a data root: the certificate of the authority that `acme.ca: internal` makes.
AUTHORITY = "caddy/data/gridhub/pki/authorities/local/root.crt"


def master() -> Background:
    """Return the master stand-in's process."""
    return Background("master", RUN)


def dns() -> Background:
    """Return the process of the DNS API and its responder."""
    return Background("dns", RUN)


def start(url: str) -> None:
    """Start what is not running yet; raises TimeoutError with a log's end when it fails."""
    WAN.create(url)
    token = _token(DNS_TOKEN)
    dns().start(
        [
            *(sys.executable, "-m", "tests.sandbox.dns", "serve"),
            *("--api-port", str(PORTS.dns_api), "--dns-port", str(PORTS.dns)),
            *("--token-file", str(DNS_TOKEN), "--state", str(SANDBOX / "dns.json")),
            *("--zone", ZONE),
        ]
    )
    master().start(
        [
            *(sys.executable, "-m", "tests.sandbox.upstream", "serve"),
            *("--address", WAN.gateway, "--hub-port", str(PORTS.master_hub)),
            *("--bootstrap-port", str(PORTS.master_bootstrap)),
            *("--zdb-port", str(PORTS.master_zdb), "--control-port", str(PORTS.master_control)),
        ]
    )
    zones = f"http://127.0.0.1:{PORTS.dns_api}/client/v4/zones"
    headers = {"Authorization": f"Bearer {token}"}
    wait_until(lambda: _answers(zones, headers), "the DNS API", _START_SECONDS, dns().log)
    listing = f"http://{WAN.gateway}:{PORTS.master_hub}/api/repositories"
    wait_until(lambda: _answers(listing, {}), "the master", _START_SECONDS, master().log)


def stop(url: str | None) -> None:
    """End the processes and remove the network (where the engine at `url` still answers)."""
    master().stop()
    dns().stop()
    if url is not None:
        WAN.remove(url)


def _token(path: Path) -> str:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        # 40 characters, as Cloudflare's have: the provider refuses shorter ones.
        path.write_text(secrets.token_urlsafe(30))
    return path.read_text().strip()


def _answers(url: str, headers: dict[str, str]) -> bool:
    try:
        return requests.get(url, headers=headers, timeout=2).status_code == HTTPStatus.OK
    except requests.RequestException:
        return False
