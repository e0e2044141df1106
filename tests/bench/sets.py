"""The namespaces that are measured: chunks with true keys, written to a master."""

import hashlib
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.bench.servers import ZdbProcess

_NAMED_STEP: Final = 100
_NOISE: Final = os.urandom(4 << 20)


@dataclass(frozen=True)
class ChunkSet:
    """count chunks of about size_bytes (half to one and a half); deleted: how many vanish again.

    small_bytes: half of the chunks, at random, are of about that size instead.
    """

    name: str
    count: int
    size_bytes: int
    deleted: int = 0
    small_bytes: int | None = None


def chunks(made: ChunkSet) -> Iterator[tuple[bytes, bytes, int | None]]:
    """Yield (key, payload, timestamp); the same for the same set."""
    source = random.Random(made.name)
    noise = _NOISE
    for number in range(made.count):
        about = made.size_bytes
        if made.small_bytes and source.random() < 0.5:
            about = made.small_bytes
        size = source.randrange(about // 2, about * 3 // 2)
        start = source.randrange(len(noise) - size)
        payload = b"%016x" % number + noise[start : start + size - 16]
        key = hashlib.blake2b(payload, digest_size=16).digest()
        yield key, payload, 1_600_000_000 + number


def named_by_flists(made: ChunkSet) -> list[bytes]:
    """Keys of every hundredth chunk: as if a published flist named those."""
    return [key for number, (key, _, _) in enumerate(chunks(made)) if number % _NAMED_STEP == 0]


def filled_master(directory: Path, made: ChunkSet, options: tuple[str, ...] = ()) -> ZdbProcess:
    """Start a master (with these options) that holds the set; the caller stops it."""
    master = ZdbProcess(directory, in_memory=True, options=options)
    master.start()
    with master.connect(60) as connection:
        connection.set_many(chunks(made))
        if made.deleted:
            step = made.count // made.deleted
            doomed = [key for number, (key, _, _) in enumerate(chunks(made)) if number % step == 0]
            connection.delete_many(doomed)
    return master
