"""Many chunk keys as one string of bytes."""

from collections.abc import Collection
from typing import Final

_HASH_BYTES: Final = 16


def pack_keys(keys: Collection[bytes]) -> bytes:
    """Pack chunk keys: their common length and then all of them, or 0 and each with its length."""
    if {*map(len, keys)} <= {_HASH_BYTES}:
        return bytes([_HASH_BYTES]) + b"".join(keys)
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
