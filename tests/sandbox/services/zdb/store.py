"""All namespaces of one 0-db, behind one lock."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.sandbox.services.zdb.disk import DiskNamespace, saved_names
from tests.sandbox.services.zdb.namespace import DEFAULT_DATASIZE_BYTES, Namespace

DEFAULT_NAMESPACE: Final = "default"


@dataclass(frozen=True)
class Settings:
    """zdbd's options that change what clients see.

    admin: password of AUTH; None makes every client an admin. protect: the default namespace is
    read-only without that password. data, index: directories; None keeps everything in memory.
    """

    admin: str | None = None
    protect: bool = False
    data: Path | None = None
    index: Path | None = None
    datasize_bytes: int = DEFAULT_DATASIZE_BYTES
    maxsize_bytes: int = 0
    mode: str = "user"

    def __post_init__(self) -> None:
        if self.protect and self.admin is None:
            raise ValueError("protected mode only works with admin password")
        if (self.data is None) != (self.index is None):
            raise ValueError("give both directories, data and index, or none")


class Store:
    """Namespaces by name; hold `lock` around what must be seen as one change."""

    def __init__(self, settings: Settings = Settings()) -> None:
        self.settings = settings
        self.lock = threading.RLock()
        self.booted_at = int(time.time())
        self.namespaces: dict[str, Namespace] = {}
        self.watchers: list[Callable[[str, Namespace], None]] = []
        self._open()

    def _open(self) -> None:
        names = [DEFAULT_NAMESPACE]
        if self.settings.index is not None:
            names += [name for name in saved_names(self.settings.index) if name not in names]
        for name in names:
            self.namespaces[name] = self._make(name)
        default = self.namespaces[DEFAULT_NAMESPACE]
        default.password = self.settings.admin if self.settings.protect else None
        default.maxsize_bytes = self.settings.maxsize_bytes

    def _make(self, name: str) -> Namespace:
        data, index = self.settings.data, self.settings.index
        if data is None or index is None:
            return Namespace(name, self.settings.datasize_bytes)
        return DiskNamespace(name, data / name, index / name, self.settings.datasize_bytes)

    @property
    def default(self) -> Namespace:
        """The namespace that every server has."""
        return self.namespaces[DEFAULT_NAMESPACE]

    def create(self, name: str) -> Namespace:
        """Make a namespace (the caller has checked its name)."""
        with self.lock:
            self.namespaces[name] = self._make(name)
            return self.namespaces[name]

    def remove(self, name: str) -> None:
        """Delete a namespace with its files."""
        with self.lock:
            namespace = self.namespaces.pop(name)
            if isinstance(namespace, DiskNamespace):
                namespace.destroy()

    def put(self, key: bytes, payload: bytes, namespace: str = DEFAULT_NAMESPACE) -> None:
        """Store a payload now, as if a client had, and wake who waits for SET."""
        with self.lock:
            target = self.namespaces[namespace]
            target.set_many([(key, payload, int(time.time()))])
            self.announce("SET", target)

    def delete(self, key: bytes, namespace: str = DEFAULT_NAMESPACE) -> bool:
        """Delete a key now, as if a client had; False when there is none."""
        with self.lock:
            target = self.namespaces[namespace]
            deleted = target.delete(key, int(time.time()))
            self.announce("DEL", target)
            return deleted

    def announce(self, command: str, namespace: Namespace) -> None:
        """Wake the clients that WAIT for the command in this namespace."""
        for watcher in list(self.watchers):
            watcher(command, namespace)
