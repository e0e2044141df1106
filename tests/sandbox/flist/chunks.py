"""Chunks: 512 KiB of a file, compressed, encrypted, named by the hash of what is stored.

Source: 0-flist, libflist/zero_chunk.c. A chunk's cipher key is BLAKE2b-16 of its plain bytes, its
id (the 0-db key) BLAKE2b-16 of xxtea(snappy(plain), cipher key).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tests.sandbox.flist import snappy, xxtea

CHUNK_BYTES: Final = 512 << 10
HASH_BYTES: Final = 16


class ChunkError(ValueError):
    """A chunk whose bytes do not prove themselves."""


@dataclass(frozen=True)
class Chunk:
    """id: the 0-db key, 16 bytes. cipher: key of the payload, 16 bytes. payload: as stored."""

    id: bytes
    cipher: bytes
    payload: bytes


def digest(data: bytes) -> bytes:
    """BLAKE2b of 16 bytes."""
    return hashlib.blake2b(data, digest_size=HASH_BYTES).digest()


def seal(plains: Sequence[bytes]) -> list[Chunk]:
    """Make a chunk of each piece of at most 512 KiB."""
    ciphers = [digest(plain) for plain in plains]
    packed = [(snappy.compress(plain), key) for plain, key in zip(plains, ciphers, strict=True)]
    payloads = xxtea.encrypt_many(packed)
    return [
        Chunk(digest(payload), cipher, payload)
        for payload, cipher in zip(payloads, ciphers, strict=True)
    ]


def open_chunks(chunks: Sequence[Chunk]) -> list[bytes]:
    """Return the plain bytes of each; raises ChunkError unless both hashes fit."""
    for chunk in chunks:
        if digest(chunk.payload) != chunk.id:
            raise ChunkError(f"chunk {chunk.id.hex()}: the payload is not what the key says")
    try:
        packed = xxtea.decrypt_many([(chunk.payload, chunk.cipher) for chunk in chunks])
        plains = [snappy.decompress(data) for data in packed]
    except (xxtea.CipherError, snappy.SnappyError) as error:
        raise ChunkError(f"a chunk can not be opened: {error}") from error
    for chunk, plain in zip(chunks, plains, strict=True):
        if digest(plain) != chunk.cipher:
            raise ChunkError(f"chunk {chunk.id.hex()}: the content is not what its key says")
    return plains


def cut(data: bytes) -> list[bytes]:
    """Cut a file's content into chunks' plain bytes; an empty file has none."""
    return [data[at : at + CHUNK_BYTES] for at in range(0, len(data), CHUNK_BYTES)]
