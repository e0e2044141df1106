"""The probe of a mirror host: it gathers facts, and changes nothing.

Only the standard library of Python 3.11: this file is sent on stdin, after the one that it imports,
to a one-shot container that shares the host's network and has its file system mounted read-only at
/host. One length-prefixed JSON request in, one JSON object {"result": facts} out.
"""

import ipaddress
import json
import os
import re
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NotRequired, TypedDict

from sync.contract.dialing import dial

HOST = Path("/host")
_CONNECT_SECONDS = 5.0
_ANSWER_SECONDS = 5.0
_REPLY_BYTES = 64 << 10
_LISTENING = "0A"  # TCP_LISTEN, include/net/tcp_states.h


class Upstream(TypedDict):
    """A service of the master; name: HOST:PORT. namespace: of a 0-db, whose keys are counted."""

    name: str
    host: str
    port: int
    namespace: NotRequired[str]


def facts(
    root: str, addresses: list[str], names: list[str], upstream: list[Upstream]
) -> dict[str, object]:
    """Gather everything at once; names and masters are asked in parallel."""
    with ThreadPoolExecutor(16) as pool:
        reaching, resolving = pool.map(_reach, upstream), pool.map(_resolve, names)
        reached = list(zip(upstream, reaching, strict=True))
        resolved = dict(zip(names, resolving, strict=True))
    return {
        "cores": os.cpu_count() or 1,
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        **_root(root),
        "listening": [*_listening("tcp"), *_listening("tcp6")],
        "foreign_addresses": [a for a in addresses if not _is_local(a)],
        "resolved": resolved,
        "unreachable": {one["name"]: problem for one, (problem, _keys) in reached if problem},
        "keys": {
            one["name"]: keys
            for one, (problem, keys) in reached
            if "namespace" in one and not problem
        },
    }


def _root(root: str) -> dict[str, bool | int]:
    path = HOST / root.lstrip("/")
    existing = path
    while not existing.exists():
        existing = existing.parent
    space = os.statvfs(existing)
    return {
        "is_directory": path.is_dir() or not path.exists(),
        "is_link": path.is_symlink(),
        "is_mount": path.is_mount(),
        "free_bytes": space.f_bavail * space.f_frsize,
        "read_only": _mounted_read_only(root),
    }


def _mounted_read_only(root: str) -> bool:
    """Whether the file system that holds root is read-only: as the host's init sees it."""
    best, options = "", ""
    for line in (HOST / "proc/1/mounts").read_text().splitlines():
        _device, mount, _kind, flags, *_rest = line.split()
        inside = root == mount or root.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best):
            best, options = mount, flags
    return "ro" in options.split(",")


def _listening(family: str) -> list[tuple[str, int]]:
    """Return listening sockets as (address, port) (Documentation/networking/proc_net_tcp)."""
    found = []
    for line in Path(f"/proc/net/{family}").read_text().splitlines()[1:]:
        _number, local, _remote, state, *_rest = line.split()
        if state == _LISTENING:
            address, port = local.split(":")
            found.append((_address(address), int(port, 16)))
    return found


def _address(hexadecimal: str) -> str:
    words = [
        int(hexadecimal[i : i + 8], 16).to_bytes(4, sys.byteorder)
        for i in range(0, len(hexadecimal), 8)
    ]
    return str(ipaddress.ip_address(b"".join(words)))


def _is_local(address: str) -> bool:
    """Whether the host has the address: only then can a socket be bound to it."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as datagram:
            datagram.bind((address, 0))
    except OSError:
        return False
    return True


def _resolve(name: str) -> list[str]:
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError:
        return []
    return sorted({str(entry[4][0]) for entry in found})


def _reach(upstream: Upstream) -> tuple[str, int | None]:
    """Connect to a master; returns the problem, or of a 0-db's namespace how many keys it has."""
    try:
        with dial(upstream["host"], upstream["port"], _CONNECT_SECONDS) as connected:
            return "", _keys(connected, upstream["namespace"]) if "namespace" in upstream else None
    except OSError as error:
        return str(error.strerror or error), None


def _keys(connected: socket.socket, namespace: str) -> int | None:
    """Ask NSINFO, which needs no password (0-db: zdbd/commands_namespace.c); None: no answer."""
    name = namespace.encode()
    reply = b""
    deadline = time.monotonic() + _ANSWER_SECONDS
    try:
        connected.settimeout(_ANSWER_SECONDS)
        connected.sendall(b"*2\r\n$6\r\nNSINFO\r\n$%d\r\n%b\r\n" % (len(name), name))
        while len(reply) < _REPLY_BYTES:
            found = re.search(rb"^entries: (\d{1,18})\r?\n", reply, re.MULTILINE)
            if found:
                return int(found[1])
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            connected.settimeout(left)
            received = connected.recv(_REPLY_BYTES - len(reply))
            reply += received
            if not received or reply.startswith(b"-"):
                return None
    except OSError:
        return None
    return None


def main() -> None:
    """Read one request from stdin, write the facts to stdout."""
    stream = sys.stdin.buffer
    request = json.loads(stream.read(int(stream.readline())))
    json.dump({"result": facts(**request)}, sys.stdout)


if __name__ == "__main__":
    main()
