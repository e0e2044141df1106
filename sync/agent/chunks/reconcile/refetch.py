"""Fetching single keys from the master: what is missing or bad here, in no hurry, bounded."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from sync.agent.chunks.checkpoint import Checkpoint
from sync.agent.chunks.reconcile.tasks import Finding, TaskContext
from sync.agent.digests import digest_of, proves_itself
from sync.agent.zdb.connection import ZdbConnection
from sync.agent.zdb.protocol import MAX_PAYLOAD_BYTES
from sync.agent.zdb.scan_pages import Entry

# An MGET is answered as a whole: so many payloads are in memory together, here and in zdbd.
_ASKED_KEYS: Final = 500
_FETCHED_KEYS: Final = 50
_FETCHED_BYTES: Final = 8 << 20
# By how much payloads may have grown since their lengths were asked for: one of the largest.
_GROWN_BYTES: Final = MAX_PAYLOAD_BYTES


@dataclass
class Refetched:
    """How many keys were stored; refused: those whose payload is another's, or cannot be read."""

    stored: int = 0
    gone: int = 0
    refused: list[bytes] = field(default_factory=list)


def refetch(master: ZdbConnection, slave: ZdbConnection, keys: Iterable[bytes]) -> Refetched:
    """Copy `keys` from the master to the slave with the master's timestamps. Raises ZdbError."""
    result = Refetched()
    for asked in grouped(keys, _ASKED_KEYS):
        there = list(_there(master, asked))
        result.gone += len(asked) - len(there)
        for group, group_bytes in _by_size(there):
            good: list[tuple[bytes, bytes, int | None]] = []
            answers = master.mget_timed(group, group_bytes + _GROWN_BYTES)
            for key, found in zip(group, answers, strict=True):
                # None of one that has a length: where it is gone since then, the numbers of keys
                # will say so. Else it would be missing anew, and all compared, again and again.
                if found is not None and proves_itself(key, found[0]):
                    good.append((key, *found))
                else:
                    result.refused.append(key)
            slave.set_many(good)
            result.stored += len(good)
    return result


def fetch_refused(context: TaskContext, checkpoint: Checkpoint) -> None:
    """Ask once more for what was refused: damaged on its way, or mended since. Raises ZdbError."""
    keys = [bytes.fromhex(key) for key in checkpoint.refused]
    with context.connections() as (master, slave):
        again = refetch(master, slave, keys)
    changes = {
        "refused": tuple(sorted(key.hex() for key in again.refused)),
        "lacking_items": max(0, checkpoint.lacking_items - again.stored - again.gone),
    }
    if again.stored or again.gone:
        context.report(Finding(changes, {"mended_items": again.stored}))


def _there(source: ZdbConnection, keys: Sequence[bytes]) -> Iterator[tuple[bytes, int]]:
    """Return the keys that are there, each with the length of its payload."""
    for key, length in zip(keys, source.lengths(keys), strict=True):
        if length is not None:
            yield key, length


def payloads_of(
    server: ZdbConnection, sizes: Iterable[tuple[bytes, int]]
) -> Iterator[tuple[bytes, bytes | None]]:
    """Yield the payloads of keys with their lengths, few of them in memory at a time."""
    for keys, keys_bytes in _by_size(sizes):
        yield from zip(keys, server.mget(keys, keys_bytes + _GROWN_BYTES), strict=True)


def digests_of(server: ZdbConnection, keys: Sequence[bytes]) -> dict[bytes, bytes]:
    """Return the hashes of the payloads that the keys have now."""
    found = payloads_of(server, _there(server, keys))
    return {key: digest_of(payload) for key, payload in found if payload is not None}


def _by_size(sizes: Iterable[tuple[bytes, int]]) -> Iterator[tuple[list[bytes], int]]:
    """Group keys by the length of their payloads; returns each group with its length."""
    group: list[bytes] = []
    group_bytes = 0
    for key, size_bytes in sizes:
        if group and (len(group) == _FETCHED_KEYS or group_bytes + size_bytes > _FETCHED_BYTES):
            yield group, group_bytes
            group, group_bytes = [], 0
        group.append(key)
        group_bytes += size_bytes
    if group:
        yield group, group_bytes


def bad_keys(slave: ZdbConnection, entries: Iterable[Entry]) -> list[bytes]:
    """Read payloads back and return the keys that are not their hash. Raises ZdbError."""
    found = payloads_of(slave, ((key, int(length)) for key, length, _ in entries))
    return [key for key, payload in found if payload is None or not proves_itself(key, payload)]


def grouped(keys: Iterable[bytes], size: int) -> Iterator[list[bytes]]:
    """Return lists of up to `size` keys."""
    rest = iter(keys)
    return iter(lambda: list(islice(rest, size)), [])
