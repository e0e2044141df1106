"""Fetching single keys from the master: what is missing or bad here, in no hurry, bounded."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from sync.agent.chunks.scan.pages import HASH_BYTES
from sync.agent.zdb import Entry, ZdbConnection

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


def is_right(key: bytes, payload: bytes) -> bool:
    """Return whether a payload has its key as hash; a plain key proves nothing."""
    if len(key) != HASH_BYTES:
        return True
    return hashlib.blake2b(payload, digest_size=HASH_BYTES).digest() == key


def refetch(master: ZdbConnection, slave: ZdbConnection, keys: Iterable[bytes]) -> Refetched:
    """Copy `keys` from the master to the slave with the master's timestamps. Raises ZdbError."""
    result = Refetched()
    for asked in grouped(keys, _ASKED_KEYS):
        lengths = list(master.pipeline([(b"LENGTH", key) for key in asked]))
        times = list(master.pipeline([(b"KEYTIME", key) for key in asked]))
        # nil for a key that is not there (zdbd/commands_dataset.c, command_length).
        there = [
            Entry(key, length, timestamp)
            for key, length, timestamp in zip(asked, lengths, times, strict=True)
            if isinstance(length, int) and isinstance(timestamp, int)
        ]
        result.gone += len(asked) - len(there)
        for group in _by_size(there):
            _copy(master, slave, group, result)
    return result


def _copy(
    master: ZdbConnection, slave: ZdbConnection, group: list[Entry], result: Refetched
) -> None:
    payloads = master.mget([entry.key for entry in group])
    good: list[tuple[bytes, bytes, int | None]] = []
    for entry, payload in zip(group, payloads, strict=True):
        if payload is None:
            result.gone += 1
        elif is_right(entry.key, payload):
            good.append((entry.key, payload, entry.timestamp))
        else:
            result.refused.append(entry.key)
    slave.set_many(good)
    result.stored += len(good)


def _by_size(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    group: list[Entry] = []
    size = 0
    for entry in entries:
        if group and (len(group) == _FETCHED_KEYS or size + entry.length_bytes > _FETCHED_BYTES):
            yield group
            group, size = [], 0
        group.append(entry)
        size += entry.length_bytes
    if group:
        yield group


def bad_keys(slave: ZdbConnection, entries: Iterable[Entry]) -> list[bytes]:
    """Read payloads back and return the keys that are not their hash. Raises ZdbError."""
    bad: list[bytes] = []
    for group in _by_size(entries):
        keys = [entry.key for entry in group]
        for key, payload in zip(keys, slave.mget(keys), strict=True):
            if payload is None or not is_right(key, payload):
                bad.append(key)
    return bad


def grouped(keys: Iterable[bytes], size: int) -> Iterator[list[bytes]]:
    """Yield lists of `size` keys."""
    rest = iter(keys)
    while group := list(islice(rest, size)):
        yield group
