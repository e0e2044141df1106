"""What was seen of the host, shared by all resources that are read at about the same time.

A refresh reads every resource of a stack in one process, each on its own thread. What they look at
is gathered by one command and kept for a few seconds; every change that we make invalidates it.
"""

import threading
import time
from collections.abc import Callable
from typing import ClassVar, Final, Generic, TypeVar

KEPT_SECONDS: Final = 5.0
Key = TypeVar("Key")
Value = TypeVar("Value")


class Cache(Generic[Key, Value]):
    """Keeps the value of a key for a while; only one thread fetches a key at a time."""

    # Another object after each change on the host.
    generation: ClassVar[object] = object()

    def __init__(self, fetch: Callable[[Key], Value]) -> None:
        self._fetch = fetch
        self._guard = threading.Lock()
        self._locks: dict[Key, threading.Lock] = {}
        # With generation and time at the start of the fetch.
        self._values: dict[Key, tuple[object, float, Value]] = {}

    def get(self, key: Key, kept_seconds: float = KEPT_SECONDS) -> Value:
        """Return a value not older than kept_seconds; an exception is not kept."""
        with self._guard:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            now = Cache.generation, time.monotonic()
            if kept := self._values.get(key):
                generation, seconds, value = kept
                if generation is now[0] and now[1] - seconds < kept_seconds:
                    return value
            value = self._fetch(key)
            self._values[key] = *now, value
            return value


def invalidate() -> None:
    """Drop every value, and what is being fetched right now: something was changed."""
    Cache.generation = object()
