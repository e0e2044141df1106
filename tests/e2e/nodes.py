"""Who comes to a mirror from outside: nodes that boot, users that upload."""

import ipaddress
import json
from pathlib import Path
from typing import Any

import urllib3

from tests.e2e.stack import MirrorStack
from tests.sandbox.host.world import AUTHORITY
from tests.sandbox.node import Mirror, Node, Report
from tests.sandbox.upstream import Upstream

_LOOPBACKS = ("127.0.0.1", "::1")


def authority(stack: MirrorStack) -> Path:
    """Return the certificate of the edge's own CA."""
    return stack.root / AUTHORITY


def node_of(stack: MirrorStack, address: str, sources: dict[str, Path] | None = None) -> Node:
    """Return a node that knows only the mirror's names, in the family of `address`."""
    mirror = Mirror.of_domain(
        stack.domain,
        _LOOPBACKS,
        https=stack.https_port,
        http=stack.http_port,
        zdb=stack.zdb_port,
        ca_file=authority(stack),
    )
    return Node(mirror, ipaddress.ip_address(address).version, sources)


def live(stack: MirrorStack, sources: dict[str, Path], address: str) -> Report:
    """Live from the mirror as a node, all compared with its source; fails with what failed."""
    with node_of(stack, address, sources) as node:
        assert node.bootable() == sorted(sources)
        report = node.visit()
    report.check()
    assert report.phase("flistd").done == len(sources)
    return report


def kernels_are_the_masters(stack: MirrorStack, master: Upstream, address: str) -> None:
    """Compare every kernel and net link byte for byte with the master's."""
    model = master.model
    with node_of(stack, address) as node:
        assert sorted(node.kernels()) == sorted(model.kernels)
        for name, kernel in model.kernels.items():
            assert node.kernel(name) == kernel.data, name
        for mode, target in model.net_links.items():
            assert isinstance(target, str)
            assert node.kernel(f"net/{mode}.efi") == model.kernels[target].data, mode


def chunk_requests(master: Upstream) -> int:
    """Return how many requests for payloads the master's 0-db has answered."""
    asked = master.zdb.requests
    return sum(count for name, count in asked.items() if name.upper() in ("GET", "MGET"))


def upload(stack: MirrorStack, archive: Path, token: str | None) -> tuple[int, Any]:
    """POST a tar.gz to the hub's API as a user would; return status and decoded answer."""
    hub = f"hub.{stack.domain}"
    pool = urllib3.HTTPSConnectionPool(
        "127.0.0.1",
        stack.https_port,
        server_hostname=hub,
        assert_hostname=hub,
        ca_certs=str(authority(stack)),
        timeout=60,
    )
    headers = {"Host": f"{hub}:{stack.https_port}"}
    if token is not None:
        headers["Authorization"] = f"bearer {token}"
    with pool:
        answer = pool.request(
            "POST",
            "/api/flist/me/upload",
            fields={"file": (archive.name, archive.read_bytes())},
            headers=headers,
        )
    try:
        return answer.status, json.loads(answer.data)
    except ValueError:
        return answer.status, answer.data
