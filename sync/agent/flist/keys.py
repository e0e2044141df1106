"""Many chunk keys as one string of bytes, and in groups that flists share."""

from collections.abc import Collection

from sync.agent.digests import HASH_BYTES


def pack_keys(keys: Collection[bytes]) -> bytes:
    """Pack chunk keys: their common length and then all of them, or 0 and each with its length."""
    # zflist's keys are all hashes; 0-db takes any up to 255 bytes.
    if {*map(len, keys)} <= {HASH_BYTES}:
        return bytes([HASH_BYTES]) + b"".join(keys)
    return b"\0" + b"".join(bytes([len(key)]) + key for key in keys)


def unpack_keys(packed: bytes) -> list[bytes]:
    """Return what pack_keys packed."""
    size = packed[0]
    if size:
        return [packed[at : at + size] for at in range(1, len(packed), size)]
    keys: list[bytes] = []
    at = 1
    while at < len(packed):
        end = at + 1 + packed[at]
        keys.append(packed[at + 1 : end])
        at = end
    return keys


class KeyGroup:
    """The chunk keys of one directory; all flists that hold this directory share the object.

    Groups are equal only to themselves, so that one look into a set of them stands for thousands of
    keys: the versions of a flist have most directories in common.
    """

    __slots__ = ("__weakref__", "keys", "packed")

    def __init__(self, packed: bytes) -> None:
        self.packed = packed
        self.keys = frozenset(unpack_keys(packed))


def keys_of(groups: Collection[KeyGroup]) -> frozenset[bytes]:
    """Return the keys of all groups."""
    return frozenset[bytes]().union(*(group.keys for group in groups))


def pack_groups(groups: Collection[KeyGroup]) -> bytes:
    """Pack the keys of all groups; one that is in several groups may be there several times."""
    packed = [group.packed for group in groups]
    if all(one[0] == HASH_BYTES for one in packed):
        return bytes([HASH_BYTES]) + b"".join([one[1:] for one in packed])
    return pack_keys(keys_of(groups))
