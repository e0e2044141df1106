"""A chunk's key: the BLAKE2b-128 of its payload (0-flist: libflist/zero_chunk.c)."""

import hashlib
from typing import Final

HASH_BYTES: Final = 16


def proves_itself(key: bytes, payload: bytes) -> bool:
    """Return whether `payload` is what `key` stands for; keys of other sizes say nothing."""
    if len(key) != HASH_BYTES:
        return True
    return hashlib.blake2b(payload, digest_size=HASH_BYTES).digest() == key
