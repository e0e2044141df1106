"""Who comes to a mirror from outside: nodes that boot, users that upload."""

import json
from pathlib import Path
from typing import Any

import urllib3

from tests.e2e.stack import MirrorStack
from tests.sandbox.client import BootClient, Mirror
from tests.sandbox.fetch import Resolver
from tests.sandbox.upstream import Upstream


def authority(stack: MirrorStack) -> Path:
    """Return the certificate of the edge's own CA."""
    return stack.root / "caddy/data/caddy/pki/authorities/local/root.crt"


def boot_client(stack: MirrorStack, address: str) -> BootClient:
    """Return a node that knows only the mirror's names, and reaches them at `address`."""
    resolver = Resolver()
    hub, bootstrap = f"hub.{stack.domain}", f"bootstrap.{stack.domain}"
    resolver.add(hub, stack.https_port, address)
    resolver.add(bootstrap, stack.https_port, address)
    resolver.add(hub, stack.zdb_port, address)
    return BootClient(
        Mirror(
            hub=f"https://{hub}:{stack.https_port}",
            bootstrap=f"https://{bootstrap}:{stack.https_port}",
            resolver=resolver,
            ca_file=authority(stack),
        )
    )


def boot_everything(stack: MirrorStack, sources: dict[str, Path], address: str) -> int:
    """Boot every path a node can ask for, compare each with its source; return how many."""
    client = boot_client(stack, address)
    assert client.bootable() == sorted(sources)
    for path, source in sources.items():
        client.boot(path, source)
    return len(sources)


def kernels_are_the_masters(stack: MirrorStack, master: Upstream, address: str) -> None:
    """Compare every kernel and net link byte for byte with the master's."""
    client = boot_client(stack, address)
    model = master.model
    assert sorted(client.kernels()) == sorted(model.kernels)
    for name, kernel in model.kernels.items():
        assert client.kernel(name) == kernel.data, name
    for mode, target in model.net_links.items():
        assert isinstance(target, str)
        assert client.kernel(f"net/{mode}.efi") == model.kernels[target].data, mode


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
