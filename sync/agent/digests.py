"""By what chunks and files are known: a chunk's key, and the MD5 that a master says of a file."""

import hashlib
import os
from pathlib import Path
from typing import Final

from sync.contract import plain_files

HASH_BYTES: Final = 16


def digest_of(payload: bytes) -> bytes:
    """Return the hash of a payload: the key that it proves."""
    return hashlib.blake2b(payload, digest_size=HASH_BYTES).digest()


def proves_itself(key: bytes, payload: bytes) -> bool:
    """Return whether `payload` is what `key` stands for; keys of other sizes say nothing."""
    # A chunk's key is the BLAKE2b-128 of its payload (0-flist: libflist/zero_chunk.c).
    if len(key) != HASH_BYTES:
        return True
    return digest_of(payload) == key


def file_digest(path: Path) -> tuple[int, str]:
    """Return a file's size in bytes and its MD5 (hex). Raises OSError."""
    with os.fdopen(plain_files.opened(path), "rb") as file:
        # 0-hub describes a flist by its MD5 (flist-uploader.py, /light); it is no safeguard here.
        digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False))
        return file.tell(), digest.hexdigest()
