"""A network of its own for a test: addresses that lead nowhere, and links that lose packets.

The thread that enters it, and every thread and process that it starts from then on, sees no other
network. Needs root and Debian's iproute2.
"""

import contextlib
import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from typing import Final

_CLONE_NEWNET: Final = 0x40000000
_OWN_NAMESPACE: Final = "/proc/thread-self/ns/net"
# Documentation's (RFC 5737, RFC 3849): on a link that swallows what it is given.
NOWHERE_4: Final = ("192.0.2.1", "192.0.2.2", "192.0.2.3")
NOWHERE_6: Final = ("2001:db8::1", "2001:db8::2")
# To these there is no route.
UNREACHABLE: Final = ("198.51.100.1", "2001:db8:1::1")


def missing() -> str:
    """Say why there can be no such network here, or nothing."""
    if os.geteuid() != 0:
        return "needs root, to make a network namespace"
    programs = [name for name in ("ip", "tc") if shutil.which(name) is None]
    return f"needs {' and '.join(programs)} (Debian's iproute2)" if programs else ""


def _call(name: str, *arguments: int) -> None:
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def run(*command: str) -> None:
    """Run a command of the network's making."""
    subprocess.run(command, check=True, timeout=30, capture_output=True)


@contextlib.contextmanager
def own_network() -> Iterator[None]:
    """Move this thread into a new network, with loopback and a link to nowhere."""
    before = os.open(_OWN_NAMESPACE, os.O_RDONLY)
    try:
        _call("unshare", _CLONE_NEWNET)
        try:
            run("ip", "link", "set", "lo", "up")
            run("ip", "link", "add", "nowhere", "type", "veth", "peer", "name", "hole")
            # Nobody is asked where an address is, so that nobody's silence says that it is not.
            for end in ("nowhere", "hole"):
                run("ip", "link", "set", end, "arp", "off", "up")
            run("ip", "address", "add", "192.0.2.254/24", "dev", "nowhere")
            run("ip", "address", "add", "2001:db8::fe/64", "dev", "nowhere", "nodad")
            yield
        finally:
            _call("setns", before, _CLONE_NEWNET)
    finally:
        os.close(before)


def lose_large_packets(mtu: int) -> None:
    """Let loopback swallow packets of more than that, as a tunnel does whose ICMP is filtered."""
    run("ip", "link", "set", "lo", "mtu", "1500")
    # A bucket that is smaller than a packet never lets it through (tc-tbf(8), burst).
    bucket = ("rate", "1gbit", "burst", str(mtu), "latency", "50ms")
    run("tc", "qdisc", "add", "dev", "lo", "root", "tbf", *bucket)


def lose_everything() -> None:
    """Let loopback swallow every packet from now on."""
    bucket = ("rate", "1gbit", "burst", "20", "latency", "50ms")
    run("tc", "qdisc", "add", "dev", "lo", "root", "tbf", *bucket)
