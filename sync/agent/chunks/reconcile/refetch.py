"""Fetching single keys from the master: what is missing or bad here, in no hurry, bounded."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from sync.agent.chunks.scan.pages import HASH_BYTES
from sync.agent.zdb import Entry, ZdbConnection

_ASKED_KEYS: Final = 500
_FETCHED_KEYS: Final = 50
_FETCHED_BYTES: Final = 8 << 20


@dataclass
class Mended:
    """How many keys were stored; refused: those whose payload has another hash."""

    stored: int = 0
    gone: int = 0
    refused: list[bytes] = field(default_factory=list)


def is_right(key: bytes, payload: bytes) -> bool:
    """Tell whether a payload proves its key; a key of another size proves nothing."""
    if len(key) != HASH_BYTES:
        return True
    return hashlib.blake2b(payload, digest_size=HASH_BYTES).digest() == key


def mend(master: ZdbConnection, slave: ZdbConnection, keys: Iterable[bytes]) -> Mended:
    """Copy `keys` from the master to the slave with the master's timestamps. Raises ZdbError."""
    result = Mended()
    for asked in grouped(keys, _ASKED_KEYS):
        facts = list(master.pipeline([(b"LENGTH", key) for key in asked]))
        times = list(master.pipeline([(b"KEYTIME", key) for key in asked]))
        there: list[tuple[bytes, int, int]] = []
        for key, length, timestamp in zip(asked, facts, times, strict=True):
            if isinstance(length, int) and isinstance(timestamp, int):
                there.append((key, length, timestamp))
        result.gone += len(asked) - len(there)
        for group in _by_size(there):
            _copy(master, slave, group, result)
    return result


def _copy(
    master: ZdbConnection,
    slave: ZdbConnection,
    group: list[tuple[bytes, int, int]],
    result: Mended,
) -> None:
    payloads = master.mget([key for key, _, _ in group])
    good: list[tuple[bytes, bytes, int | None]] = []
    for (key, _, timestamp), payload in zip(group, payloads, strict=True):
        if payload is None:
            result.gone += 1
        elif is_right(key, payload):
            good.append((key, payload, timestamp))
        else:
            result.refused.append(key)
    slave.set_many(good)
    result.stored += len(good)


def _by_size(entries: list[tuple[bytes, int, int]]) -> Iterator[list[tuple[bytes, int, int]]]:
    group: list[tuple[bytes, int, int]] = []
    size = 0
    for entry in entries:
        if group and (len(group) == _FETCHED_KEYS or size + entry[1] > _FETCHED_BYTES):
            yield group
            group, size = [], 0
        group.append(entry)
        size += entry[1]
    if group:
        yield group


def bad_keys(slave: ZdbConnection, entries: Iterable[Entry]) -> list[bytes]:
    """Read payloads back and return the keys that theirs do not prove. Raises ZdbError."""
    bad: list[bytes] = []
    triples = [(entry.key, entry.length_bytes, entry.timestamp) for entry in entries]
    for group in _by_size(triples):
        keys = [key for key, _, _ in group]
        for key, payload in zip(keys, slave.mget(keys), strict=True):
            if payload is None or not is_right(key, payload):
                bad.append(key)
    return bad


def grouped(keys: Iterable[bytes], size: int) -> Iterator[list[bytes]]:
    """Yield lists of `size` keys."""
    group: list[bytes] = []
    for key in keys:
        group.append(key)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group
