"""What was seen of the host, shared by all resources that are read at about the same time.

A refresh reads every resource of a stack in one process, each on its own thread. What they look at
is gathered by one command and kept for a few seconds; every change that we make invalidates it.
"""

import threading
import time
from collections.abc import Callable
from typing import Final, Generic, TypeVar

KEPT_SECONDS: Final = 5.0
Key = TypeVar("Key")
Value = TypeVar("Value")


class Cache(Generic[Key, Value]):
    """Keeps the value of a key for a while; only one thread fetches a key at a time."""

    def __init__(self, fetch: Callable[[Key], Value]) -> None:
        self._fetch = fetch
        self._guard = threading.Lock()
        self._locks: dict[Key, threading.Lock] = {}
        self._values: dict[Key, tuple[float, Value]] = {}  # with the time of the fetch's start
        self._generation = 0

    def get(self, key: Key, kept_seconds: float = KEPT_SECONDS) -> Value:
        """Return a value not older than kept_seconds; an exception is not kept."""
        with self._guard:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            with self._guard:
                kept = self._values.get(key)
                generation = self._generation
            started = time.monotonic()
            if kept is not None and started - kept[0] < kept_seconds:
                return kept[1]
            value = self._fetch(key)
            with self._guard:
                if generation == self._generation:
                    self._values[key] = started, value
            return value

    def invalidate(self) -> None:
        """Drop every value, and what is being fetched right now: something was changed."""
        with self._guard:
            self._generation += 1
            self._values.clear()
