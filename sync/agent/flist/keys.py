"""Many chunk keys as one string of bytes, and in groups that flists share."""

import itertools
from collections.abc import Collection, Iterable, Iterator
from typing import Final

from sync.agent.digests import HASH_BYTES

# A key takes 16 bytes where it is packed, and ten times as much as an object in a set.
KEYS_AT_ONCE: Final = 50_000
# Beside its keys a group takes as much as so many bytes of them (see work_room): an object, its
# number, and its place in some tables. One of a single key costs thirty times what it holds.
GROUP_BYTES: Final = 128


def pack_keys(keys: Collection[bytes]) -> bytes:
    """Pack chunk keys: their common length and then all of them, or 0 and each with its length."""
    # zflist's keys are all hashes; 0-db takes any up to 255 bytes.
    if {*map(len, keys)} <= {HASH_BYTES}:
        return bytes([HASH_BYTES]) + b"".join(keys)
    return b"\0" + b"".join(bytes([len(key)]) + key for key in keys)


def unpack_keys(packed: bytes) -> list[bytes]:
    """Return what pack_keys packed."""
    return [*itertools.chain.from_iterable(key_slices(packed))]


def key_slices(packed: bytes) -> Iterator[list[bytes]]:
    """Yield what pack_keys packed, so many at a time that they cost some MB, however many."""
    size = packed[0]
    step = KEYS_AT_ONCE * size
    for start in range(1, len(packed), step) if size else ():
        end = min(start + step, len(packed))
        yield [packed[at : at + size] for at in range(start, end, size)]
    keys: list[bytes] = []
    at = len(packed) if size else 1
    while at < len(packed):
        end = at + 1 + packed[at]
        keys.append(packed[at + 1 : end])
        at = end
        if len(keys) == KEYS_AT_ONCE:
            yield keys
            keys = []
    if keys:
        yield keys


class KeyGroup:
    """The chunk keys of one directory; all flists that hold this directory share the object.

    Groups are equal only to themselves, so that one look into a set of them stands for thousands of
    keys: the versions of a flist have most directories in common.
    """

    __slots__ = ("__weakref__", "packed")

    def __init__(self, packed: bytes) -> None:
        self.packed = packed

    @property
    def cost_bytes(self) -> int:
        """What it is counted as."""
        return GROUP_BYTES + len(self.packed)

    @property
    def keys(self) -> list[bytes]:
        """The keys; one may be there several times."""
        return unpack_keys(self.packed)

    def slices(self) -> Iterator[list[bytes]]:
        """Yield the keys, some at a time."""
        return key_slices(self.packed)


def keys_of(groups: Iterable[KeyGroup]) -> frozenset[bytes]:
    """Return the keys of all groups, for flists that are known to be small."""
    return frozenset[bytes]().union(*(group.keys for group in groups))


def slices_of(groups: Iterable[KeyGroup]) -> Iterator[list[bytes]]:
    """Yield the keys of all groups, about KEYS_AT_ONCE at a time."""
    some: list[bytes] = []
    for group in groups:
        for keys in key_slices(group.packed):
            some += keys
            if len(some) >= KEYS_AT_ONCE:
                yield some
                some = []
    if some:
        yield some


def pack_groups(groups: Collection[KeyGroup]) -> bytes:
    """Pack the keys of all groups; one that is in several groups may be there several times."""
    packed = [group.packed for group in groups]
    if all(one[0] == HASH_BYTES for one in packed):
        return bytes([HASH_BYTES]) + b"".join([one[1:] for one in packed])
    return pack_keys(keys_of(groups))
