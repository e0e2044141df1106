"""What a newcomer does with a running sandbox: boot from the mirror, change the master."""

import time
from datetime import UTC, datetime
from pathlib import Path

import requests
from rich.console import Console

from tests.sandbox.host import newcomer, world
from tests.sandbox.host.processes import wait_until
from tests.sandbox.node import Mirror, Node

_LOOPBACKS = ("127.0.0.1", "::1")
_ZDB_PORT = 9900
_FOLLOW_SECONDS = 60
_CONTROL = f"http://127.0.0.1:{world.PORTS.master_control}"


def _node(family: int, sources: dict[str, Path] | None = None) -> Node:
    mirror = Mirror.of_domain(
        newcomer.DOMAIN,
        _LOOPBACKS,
        https=newcomer.HTTPS_PORT,
        http=newcomer.HTTP_PORT,
        zdb=_ZDB_PORT,
        ca_file=newcomer.ROOT / world.AUTHORITY,
    )
    return Node(mirror, family, sources)


def _master() -> dict[str, dict[str, str]]:
    try:
        found: dict[str, dict[str, str]] = requests.get(_CONTROL, timeout=30).json()
    except requests.RequestException as error:
        raise RuntimeError(f"the master does not answer ({error}): `make sandbox` first") from error
    return found


def boot(console: Console) -> None:
    """Live as a node from the mirror, over both families; compare all with its source."""
    sources = {name: Path(path) for name, path in _master()["sources"].items()}
    for family in (4, 6):
        with _node(family, sources) as node:
            report = node.visit()
        for phase in report.phases:
            console.print(f"  {phase.title}: {phase.summary()}", highlight=False, markup=False)
        report.check()
        flists, kernels = report.phase("flistd").done, report.phase("kernels").done
        console.print(f"[green]Over IPv{family}: {flists} flists boot, {kernels} kernels read.[/]")


def change(console: Console) -> None:
    """Give the master a new flist and a new kernel, and wait until the mirror serves both."""
    stamp = datetime.now(UTC).strftime("%H%M%S")
    flist, kernel = f"new-{stamp}.flist", f"v9.0.0-generic-{stamp}.efi"
    _edit("add-flist", {"repository": "alice.3bot", "name": flist})
    _edit("add-kernel", {"name": kernel})
    console.print(f"The master now has alice.3bot/{flist} and the kernel {kernel}.")
    started = time.monotonic()
    waiting = {f"alice.3bot/{flist}", kernel}
    with _node(4) as node:

        def followed() -> bool:
            for name in sorted(waiting & {*node.bootable(), *node.kernels()}):
                seconds = time.monotonic() - started
                console.print(f"  after {seconds:.1f} s the mirror serves {name}", highlight=False)
                waiting.remove(name)
            return not waiting

        wait_until(followed, f"the mirror with {flist} and {kernel}", _FOLLOW_SECONDS)
        node.boot(f"alice.3bot/{flist}")
    console.print("[green]And it boots.[/]")


def _edit(name: str, fields: dict[str, str]) -> None:
    _master()
    answer = requests.post(f"{_CONTROL}/{name}", json=fields, timeout=60).json()
    if "done" not in answer:
        raise RuntimeError(f"the master refused {name}: {answer.get('error')}")
