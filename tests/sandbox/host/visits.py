"""What a newcomer does with a running sandbox: boot from the mirror, change the master."""

import time
from datetime import UTC, datetime
from pathlib import Path

import requests
from rich.console import Console

from tests.sandbox.client import BootClient, BootError, Mirror
from tests.sandbox.fetch import Resolver
from tests.sandbox.host import newcomer, world

_LOOPBACKS = ("127.0.0.1", "::1")
_ZDB_PORT = 9900
_FOLLOW_SECONDS = 60
_CONTROL = f"http://127.0.0.1:{world.PORTS.master_control}"


def _client(address: str) -> BootClient:
    resolver = Resolver()
    hub, bootstrap = f"hub.{newcomer.DOMAIN}", f"bootstrap.{newcomer.DOMAIN}"
    for name in (hub, bootstrap):
        resolver.add(name, newcomer.HTTPS_PORT, address)
    resolver.add(hub, _ZDB_PORT, address)
    return BootClient(
        Mirror(
            hub=f"https://{hub}:{newcomer.HTTPS_PORT}",
            bootstrap=f"https://{bootstrap}:{newcomer.HTTPS_PORT}",
            resolver=resolver,
            ca_file=newcomer.ROOT / "caddy/data/caddy/pki/authorities/local/root.crt",
        )
    )


def _master() -> dict[str, dict[str, str]]:
    try:
        found: dict[str, dict[str, str]] = requests.get(_CONTROL, timeout=30).json()
    except requests.RequestException as error:
        raise RuntimeError(f"the master does not answer ({error}): `make sandbox` first") from error
    return found


def boot(console: Console) -> None:
    """Boot all that the mirror serves, over both families; compare it with its source."""
    sources = {name: Path(path) for name, path in _master()["sources"].items()}
    for address in _LOOPBACKS:
        client = _client(address)
        try:
            paths = client.bootable()
            for path in paths:
                done = client.boot(path, sources.get(path))
                told = f"{done.files} files, {done.chunks} chunks"
                same = f", same as {done.compared_with}" if done.compared_with else ""
                console.print(f"  boots {path}: {told}{same}", highlight=False)
            kernels = client.kernels()
            for name in kernels:
                client.kernel(name)
        except BootError as error:
            raise RuntimeError(f"over {address}: {error}") from error
        console.print(
            f"[green]Over {address}: {len(paths)} flists boot, {len(kernels)} kernels read.[/]"
        )


def change(console: Console) -> None:
    """Give the master a new flist and a new kernel, and wait until the mirror serves both."""
    stamp = datetime.now(UTC).strftime("%H%M%S")
    flist, kernel = f"new-{stamp}.flist", f"v9.0.0-generic-{stamp}.efi"
    _edit("add-flist", {"repository": "alice.3bot", "name": flist})
    _edit("add-kernel", {"name": kernel})
    console.print(f"The master now has alice.3bot/{flist} and the kernel {kernel}.")
    started = time.monotonic()
    client = _client(_LOOPBACKS[0])
    waiting = {f"alice.3bot/{flist}", kernel}
    while waiting and time.monotonic() - started < _FOLLOW_SECONDS:
        served = {*client.bootable(), *client.kernels()}
        for name in sorted(waiting & served):
            seconds = time.monotonic() - started
            console.print(f"  after {seconds:.1f} s the mirror serves {name}", highlight=False)
        waiting -= served
        time.sleep(0.2)
    if waiting:
        raise TimeoutError(f"not followed within {_FOLLOW_SECONDS} s: {', '.join(sorted(waiting))}")
    client.boot(f"alice.3bot/{flist}")
    console.print("[green]And it boots.[/]")


def _edit(name: str, fields: dict[str, str]) -> None:
    _master()
    answer = requests.post(f"{_CONTROL}/{name}", json=fields, timeout=60).json()
    if "done" not in answer:
        raise RuntimeError(f"the master refused {name}: {answer.get('error')}")
