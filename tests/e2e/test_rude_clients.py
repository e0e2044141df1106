"""A rude client costs the others nothing: halves end in their time, floods leave nodes theirs."""

import contextlib
import io
import json
import os
import socket
import ssl
import statistics
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker
import pytest
import urllib3

from tests.e2e.far_clients import Elsewhere, elsewhere
from tests.e2e.nodes import authority
from tests.e2e.stack import Ground, MirrorStack, mirror_stack
from tests.sandbox.host import images
from tests.sandbox.host.processes import wait_until
from tests.sandbox.upstream import Upstream, standard_world

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800)]

TEMPLATE_MB = 115  # iPXE's sources in 0-bootstrap's image
SECONDS = 30.0
_PEAK_1 = "/sys/fs/cgroup/memory/memory.max_usage_in_bytes"
_PEAK_2 = "/sys/fs/cgroup/memory.peak"


# -- halves ------------------------------------------------------------------------------------


def plain(stack: MirrorStack) -> socket.socket:
    return socket.create_connection(("127.0.0.1", stack.http_port))


def tls(stack: MirrorStack) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=str(authority(stack)))
    raw = socket.create_connection(("127.0.0.1", stack.https_port))
    return context.wrap_socket(raw, server_hostname=f"hub.{stack.domain}")


def post(stack: MirrorStack, end: str) -> bytes:
    return f"POST /api/flist/me/upload HTTP/1.1\r\nHost: hub.{stack.domain}\r\n{end}".encode()


def ended(connection: socket.socket) -> bool:
    """Tell whether the other side has closed it, whatever it said before."""
    connection.settimeout(0.05)
    try:
        while connection.recv(4096):
            pass
    except (TimeoutError, ssl.SSLWantReadError):
        return False
    except OSError:
        return True
    return True


def test_half_a_request_of_any_kind_ends_in_its_time(
    running: tuple[MirrorStack, Upstream],
) -> None:
    stack = running[0]
    host = f"Host: hub.{stack.domain}\r\n"
    halves: dict[str, socket.socket] = {
        "nothing on plain HTTP": plain(stack),
        "half a head": plain(stack),
        "no hello": socket.create_connection(("127.0.0.1", stack.https_port)),
        "half a hello": socket.create_connection(("127.0.0.1", stack.https_port)),
        "nothing after the handshake": tls(stack),
        "half a head in TLS": tls(stack),
        "half a body": tls(stack),
        "half of a chunked body": tls(stack),
        "half a head after a whole request": tls(stack),
    }
    said = {
        "half a head": f"GET /api/flist HTTP/1.1\r\n{host}X-Slow: ".encode(),
        "half a hello": b"\x16\x03\x01\x02\x00\x01",
        "half a head in TLS": post(stack, "X-Slow: "),
        "half a body": post(stack, "Content-Length: 1000\r\n\r\nabc"),
        "half of a chunked body": post(stack, "Transfer-Encoding: chunked\r\n\r\n5\r\nab"),
        "half a head after a whole request": (
            f"GET /api/flist HTTP/1.1\r\n{host}\r\nGET /api/flist HTTP/1.1\r\n".encode()
        ),
    }
    for name, words in said.items():
        halves[name].sendall(words)

    def all_ended() -> bool:
        for name in [name for name, connection in halves.items() if ended(connection)]:
            halves.pop(name).close()
        # Idle after a handshake is idle like any other: Caddy's two minutes.
        return set(halves) <= {"nothing after the handshake"}

    wait_until(all_ended, "the end of every half request", 60)
    for connection in halves.values():
        connection.close()


# -- floods (make soak) ----------------------------------------------------------------------


@dataclass
class Figures:
    """Seconds of a node's requests while something goes on; failures: status or error."""

    took: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def told(self) -> dict[str, Any]:
        ordered = sorted(self.took)
        counted = {one: self.failures.count(one) for one in sorted(set(self.failures))}
        if not ordered:
            return {"requests": 0, "failures": counted}
        return {
            "requests": len(ordered),
            "p50": round(statistics.median(ordered), 3),
            "p99": round(ordered[int(0.99 * (len(ordered) - 1))], 3),
            "longest": round(ordered[-1], 3),
            "failures": counted,
        }


def node_requests(stack: MirrorStack, host: str, seconds: float) -> Figures:
    """Ask what a booting node asks, on new connections, for some time; one request at a time."""
    figures, until = Figures(), time.monotonic() + seconds
    asked = [
        ("http", f"hub.{stack.domain}", "/api/flist"),
        ("https", f"hub.{stack.domain}", "/api/flist/tf-autobuilder"),
        ("https", f"hub.{stack.domain}", "/tf-zos/zos-base.flist.md5"),
        ("https", f"hub.{stack.domain}", "/tf-zos/zos-base.flist"),
        ("https", f"bootstrap.{stack.domain}", "/ipxe/prod/12"),
        ("http", f"bootstrap.{stack.domain}", "/kernel/net/prod.efi"),
    ]
    while time.monotonic() < until:
        for scheme, name, path in asked:
            began = time.monotonic()
            try:
                status = str(_status(stack, host, scheme, name, path))
            except (OSError, urllib3.exceptions.HTTPError) as error:
                status = f"{type(error).__name__} {str(error.__cause__ or error)[-60:]}"
            figures.took.append(time.monotonic() - began)
            if status != "200":
                figures.failures.append(f"{status} {path}")
        time.sleep(0.05)
    return figures


def _status(stack: MirrorStack, host: str, scheme: str, name: str, path: str) -> int:
    if scheme == "http":
        pool: urllib3.HTTPConnectionPool = urllib3.HTTPConnectionPool(host, stack.http_port)
    else:
        pool = urllib3.HTTPSConnectionPool(
            host,
            stack.https_port,
            server_hostname=name,
            assert_hostname=name,
            ca_certs=str(authority(stack)),
        )
    with pool:
        headers = {"Host": f"{name}:{pool.port}"}
        answer = pool.request("GET", path, headers=headers, timeout=20, retries=False)
        return answer.status


@pytest.fixture(scope="module")
def far() -> Iterator[Elsewhere]:
    with elsewhere() as place:
        yield place


@pytest.fixture(scope="module")
def flooded(
    place: Ground, far: Elsewhere, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[MirrorStack, Elsewhere]]:
    """Provide a mirror of the default limits that clients from elsewhere reach."""
    master = Upstream(addresses=(place.wan.gateway,))
    standard_world(master.model)
    bind = {"ipv4": ["127.0.0.1", far.hosts[0]], "ipv6": ["::1", far.hosts[1]]}
    used = {service: images.reference(service) for service in images.REAL}
    used["bootstrap"] = _image_that_builds(place)
    folder = tmp_path_factory.mktemp("flooded")
    with (
        master,
        mirror_stack(place, master, folder, bind=bind, images=used) as stack,
    ):
        stack.up()
        # An engine that is started beside this one empties its chain of translations.
        if not _has_real_addresses(stack, far):
            pytest.skip("clients come through Docker's userland proxy: is there another engine?")
        yield stack, far


def _has_real_addresses(stack: MirrorStack, far: Elsewhere) -> bool:
    if "gate" not in stack.containers():
        return True
    port, name = str(stack.http_port), f"hub.{stack.domain}"
    far.starts("idle", far.hosts[0], port, name, "/", "20", *far.sources(4, 0, 10))
    try:
        wait_until(lambda: gate_says(stack).get("connections", 0) >= 10, "20 connections", 60)
        return bool(gate_says(stack)["addresses"] > 1)
    finally:
        far.stop()


def _image_that_builds(place: Ground) -> str:
    name = "localhost/gridhub-bootstrap:builds"
    lines = [
        f"FROM {images.reference('bootstrap')}",
        "RUN mkdir /opt/ipxe-template",
        f"RUN head -c {TEMPLATE_MB}M /dev/urandom > /opt/ipxe-template/x",
    ]
    text = ("\n".join(lines) + "\n").encode()
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as archive:
        member = tarfile.TarInfo("Dockerfile")
        member.size = len(text)
        archive.addfile(member, io.BytesIO(text))
    context.seek(0)
    with contextlib.closing(docker.DockerClient(base_url=place.engine.url, timeout=600)) as client:
        client.images.build(fileobj=context, custom_context=True, tag=name, rm=True)
    return name


def gate_says(stack: MirrorStack) -> dict[str, Any]:
    """Return what the gate's last probe told; nothing where there is no gate."""
    container = stack.containers().get("gate")
    if container is None:
        return {}
    probes = container.attrs["State"]["Health"]["Log"]
    told: dict[str, Any] = json.loads(probes[-1]["Output"])
    return told


def memory_mb(stack: MirrorStack) -> dict[str, int]:
    """Return the most memory that each container of the edge has had, in MB."""
    peaks = {}
    for service in ("gate", "caddy", "hub", "bootstrap"):
        container = stack.containers().get(service)
        if container is not None:
            said = container.exec_run(["sh", "-c", f"cat {_PEAK_2} 2>/dev/null || cat {_PEAK_1}"])
            assert isinstance(said.output, bytes)
            peaks[service] = int(said.output) >> 20
    return peaks


def buffers_mb() -> int:
    """Return what all sockets of this machine hold in the kernel (proc_net_sockstat: TCP mem)."""
    (line,) = [
        line for line in Path("/proc/net/sockstat").read_text().splitlines() if "TCP:" in line
    ]
    return int(line.split()[-1]) * os.sysconf("SC_PAGE_SIZE") >> 20


def unharmed(stack: MirrorStack) -> dict[str, int]:
    """Return how often each container was restarted; all must run."""
    return {name: c.attrs["RestartCount"] for name, c in stack.containers().items()}


FLOODS: dict[str, tuple[str, str, str, int, int]] = {
    # kind, service, path, connections, addresses
    "idle-20000": ("idle", "hub", "/", 20_000, 40),
    "idle-20000-one-address": ("idle", "hub", "/", 20_000, 1),
    "half-hellos": ("half-hello", "hub", "/", 20_000, 40),
    "half-heads": ("half-head", "hub", "/api/flist", 3000, 10),
    "half-bodies": ("half-body", "hub", "/api/flist/me/upload", 3000, 10),
    "deaf": ("deaf", "bootstrap", "/kernel/net/prod.efi", 1500, 3),
    "media-200": ("media", "bootstrap", "/iso/prod/FARM", 200, 20),
    "media-200-one-address": ("media", "bootstrap", "/iso/prod/FARM", 200, 1),
}


@pytest.mark.soak
@pytest.mark.parametrize("name", [*FLOODS, "all at once"])
def test_a_flood_leaves_a_booting_node_its_second(
    flooded: tuple[MirrorStack, Elsewhere], name: str
) -> None:
    stack, far = flooded
    floods = ["idle-20000", "media-200"] if name == "all at once" else [name]
    restarts = unharmed(stack)
    quiet = node_requests(stack, far.hosts[0], 5)
    for flood in floods:
        begin(stack, far, *FLOODS[flood])
    time.sleep(15)
    under = node_requests(stack, far.hosts[0], SECONDS)
    says, peaks, buffers = gate_says(stack), memory_mb(stack), buffers_mb()
    far.stop()
    told: dict[str, Any] = {
        "flood": name,
        "before": quiet.told(),
        "under": under.told(),
        "gate": says,
    }
    told |= {"peak MB": peaks, "kernel MB": buffers, "load": os.getloadavg()[0]}
    print(json.dumps(told))
    _kept(told)
    assert unharmed(stack) == restarts
    assert not under.failures
    assert under.told()["p99"] < 1.0


def _kept(told: dict[str, Any]) -> None:
    if folder := os.environ.get("GRIDHUB_FIGURES"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        with (Path(folder) / "rude-clients.jsonl").open("a") as file:
            file.write(json.dumps(told) + "\n")


def begin(
    stack: MirrorStack,
    far: Elsewhere,
    kind: str,
    service: str,
    path: str,
    count: int,
    addresses: int,
) -> None:
    """Start a flood, 5000 connections a process."""
    sources = far.sources(4, 0, addresses)
    port = stack.https_port
    name = f"{service}.{stack.domain}"
    for start in range(0, count, 5000):
        part = min(5000, count - start)
        far.starts(kind, far.hosts[0], str(port), name, path, str(part), *sources)


@pytest.mark.soak
@pytest.mark.parametrize("family", [4, 6])
def test_the_gate_counts_the_addresses_that_clients_have(
    flooded: tuple[MirrorStack, Elsewhere], family: int
) -> None:
    stack, far = flooded
    host = far.hosts[0 if family == 4 else 1]
    port, name = str(stack.http_port), f"hub.{stack.domain}"
    far.starts("idle", host, port, name, "/", "60", *far.sources(family, 0, 30))
    wait_until(lambda: gate_says(stack).get("addresses", 0) >= 30, "30 addresses", 60)
    far.stop()
