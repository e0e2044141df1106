"""Fetching single keys from the master: what is missing or bad here, in no hurry, bounded."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from sync.agent.digests import proves_itself
from sync.agent.zdb.connection import ZdbConnection
from sync.agent.zdb.scan_pages import Entry

# An MGET is answered as a whole: so many payloads are in memory together, here and in zdbd.
_ASKED_KEYS: Final = 500
_FETCHED_KEYS: Final = 50
_FETCHED_BYTES: Final = 8 << 20


@dataclass
class Refetched:
    """How many keys were stored; refused: those whose payload has another hash."""

    stored: int = 0
    gone: int = 0
    refused: list[bytes] = field(default_factory=list)


def refetch(master: ZdbConnection, slave: ZdbConnection, keys: Iterable[bytes]) -> Refetched:
    """Copy `keys` from the master to the slave with the master's timestamps. Raises ZdbError."""
    result = Refetched()
    for asked in grouped(keys, _ASKED_KEYS):
        lengths = zip(asked, master.pipeline([(b"LENGTH", key) for key in asked]), strict=True)
        # nil for a key that is not there (zdbd/commands_dataset.c, command_length).
        there = [(key, length) for key, length in lengths if isinstance(length, int)]
        result.gone += len(asked) - len(there)
        for group in _by_size(there):
            good: list[tuple[bytes, bytes, int | None]] = []
            for key, found in zip(group, master.mget_timed(group), strict=True):
                if found is None:
                    result.gone += 1
                elif proves_itself(key, found[0]):
                    good.append((key, *found))
                else:
                    result.refused.append(key)
            slave.set_many(good)
            result.stored += len(good)
    return result


def _by_size(sizes: Iterable[tuple[bytes, int]]) -> Iterator[list[bytes]]:
    """Group keys by the length of their payloads."""
    group: list[bytes] = []
    group_bytes = 0
    for key, size_bytes in sizes:
        if group and (len(group) == _FETCHED_KEYS or group_bytes + size_bytes > _FETCHED_BYTES):
            yield group
            group, group_bytes = [], 0
        group.append(key)
        group_bytes += size_bytes
    if group:
        yield group


def bad_keys(slave: ZdbConnection, entries: Iterable[Entry]) -> list[bytes]:
    """Read payloads back and return the keys that are not their hash. Raises ZdbError."""
    bad: list[bytes] = []
    for keys in _by_size((key, int(length)) for key, length, _ in entries):
        for key, payload in zip(keys, slave.mget(keys), strict=True):
            if payload is None or not proves_itself(key, payload):
                bad.append(key)
    return bad


def grouped(keys: Iterable[bytes], size: int) -> Iterator[list[bytes]]:
    """Return lists of up to `size` keys."""
    rest = iter(keys)
    return iter(lambda: list(islice(rest, size)), [])
