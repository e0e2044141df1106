"""The texts that NSINFO and INFO answer (0-db, zdbd/commands_namespace.c, commands_system.c)."""

import os
import time
from collections.abc import Mapping
from typing import Final

from tests.sandbox.services.zdb.namespace import Namespace
from tests.sandbox.services.zdb.store import Store

_MIB: Final = 1 << 20
_VERSION: Final = "2.0.7"


def namespace_description(store: Store, namespace: Namespace, *, admin: bool) -> str:
    """Describe a namespace; an admin also sees where its files are and end."""
    file, offset = namespace.end
    next_id = int.from_bytes(namespace.next_id.to_bytes(8, "little"), "big")
    lines: dict[str, object] = {
        "name": namespace.name,
        "entries": len(namespace),
        "public": _yes(namespace.public),
        "worm": _yes(namespace.worm),
        "locked": _yes(bool(namespace.locked)),
        "password": _yes(namespace.password is not None),
        "data_size_bytes": namespace.payload_bytes,
        "data_size_mb": f"{namespace.payload_bytes / _MIB:.2f}",
        "data_limits_bytes": namespace.maxsize_bytes,
        "index_size_bytes": namespace.index_bytes,
        "index_size_kb": f"{namespace.index_bytes / 1024:.2f}",
        "next_internal_id": f"0x{next_id:08x}",
        "mode": "userkey",
    }
    for kind in ("index", "data"):
        for counter in ("io_errors", "io_error_last", "faults"):
            lines[f"stats_{kind}_{counter}"] = 0
    if namespace.maxsize_bytes:
        lines["space_available"] = namespace.maxsize_bytes - namespace.payload_bytes
    free = os.statvfs(store.settings.data or "/")
    for kind in ("index", "data"):
        lines[f"{kind}_disk_freespace_bytes"] = free.f_bsize * free.f_bavail
        lines[f"{kind}_disk_freespace_mb"] = f"{free.f_bsize * free.f_bavail / _MIB:.2f}"
    if admin:
        for kind, place in (("data", store.settings.data), ("index", store.settings.index)):
            lines[f"{kind}_path"] = f"{place}/{namespace.name}"
            lines[f"{kind}_active"] = f"{place}/{namespace.name}/{kind[0]}{file}"
        lines["data_current_id"] = file
        lines["data_current_offset"] = offset
    return "# namespace\n" + _text(lines)


def server_description(store: Store, clients: int, commands: dict[str, int]) -> str:
    """Describe the server; its counters of bytes stay 0."""
    identity = {
        "server_name": "0-db (zdb)",
        "server_revision": _VERSION,
        "engine_revision": _VERSION,
        "instance_id": id(store) & 0xFFFFFFFF,
        "boot_time": store.booted_at,
        "uptime": int(time.time()) - store.booted_at,
    }
    formats = {"sequential_key_size": 8, "data_version": 3, "index_version": 4}
    counters: dict[str, object] = {f"commands_{name}": count for name, count in commands.items()}
    disks = [(kind, way) for kind in ("index", "data") for way in ("read", "write")]
    counters |= {f"{kind}_disk_{way}_failed": 0 for kind, way in disks}
    for counted in [*(f"{kind}_disk_{way}" for kind, way in disks), "network_rx", "network_tx"]:
        counters |= {f"{counted}_bytes": 0, f"{counted}_mb": "0.00"}
    parts: dict[str, Mapping[str, object]] = {
        "server": identity,
        "clients": {"clients_lifetime": clients},
        "internals": formats,
        "stats": counters,
    }
    return "\n".join(f"# {title}\n{_text(lines)}" for title, lines in parts.items())


def _text(lines: Mapping[str, object]) -> str:
    return "".join(f"{name}: {value}\n" for name, value in lines.items())


def _yes(flag: bool) -> str:
    return "yes" if flag else "no"
