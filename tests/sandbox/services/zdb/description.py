"""The text that NSINFO answers (0-db, zdbd/commands_namespace.c)."""

import os
from typing import Final

from tests.sandbox.services.zdb.namespace import Namespace
from tests.sandbox.services.zdb.store import Store

_MIB: Final = 1 << 20


def description(store: Store, namespace: Namespace, *, admin: bool) -> str:
    """Describe a namespace; an admin also sees where its files are and end."""
    file, offset = namespace.end
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
        "next_internal_id": f"0x{namespace.log_length:08x}",
        "mode": "userkey",
        "stats_index_io_errors": 0,
        "stats_index_io_error_last": 0,
        "stats_index_faults": 0,
        "stats_data_io_errors": 0,
        "stats_data_io_error_last": 0,
        "stats_data_faults": 0,
    }
    if namespace.maxsize_bytes:
        lines["space_available"] = namespace.maxsize_bytes - namespace.payload_bytes
    free = os.statvfs(store.settings.data or "/")
    for kind in ("index", "data"):
        lines[f"{kind}_disk_freespace_bytes"] = free.f_bsize * free.f_bavail
        lines[f"{kind}_disk_freespace_mb"] = f"{free.f_bsize * free.f_bavail / _MIB:.2f}"
    if admin:
        lines["data_path"] = store.settings.data or ""
        lines["index_path"] = store.settings.index or ""
        lines["data_current_id"] = file
        lines["data_current_offset"] = offset
    return "# namespace\n" + "".join(f"{name}: {value}\n" for name, value in lines.items())


def _yes(flag: bool) -> str:
    return "yes" if flag else "no"
