"""Keys on disk: as files of (length byte, key), and as sets that are larger than memory."""

import os
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Final

from sync.agent.digests import HASH_BYTES
from sync.contract import plain_files

PARTITIONS: Final = 256
_BUFFERED_KEYS: Final = 50_000
# In memory at a time, of each set that is compared: some megabytes.
_PART_KEYS: Final = 50_000
_READ_BYTES: Final = 1 << 20


def encode_keys(keys: list[bytes]) -> bytes:
    """Encode keys as (length byte, key)."""
    if not keys:
        return b""
    if {*map(len, keys)} == {HASH_BYTES}:  # the size of nearly all keys
        return b"\x10" + b"\x10".join(keys)
    # A byte is enough: 0-db's keys have at most 255 (libzdb/index.h, MAX_KEY_LENGTH).
    return b"".join([bytes((len(key),)) + key for key in keys])


def decode_keys(pieces: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Decode keys from pieces of a file, as lists; an incomplete last one is left out."""
    rest = b""
    for piece in pieces:
        data = rest + piece
        keys: list[bytes] = []
        at = 0
        while at < len(data) and at + 1 + data[at] <= len(data):
            end = at + 1 + data[at]
            keys.append(data[at + 1 : end])
            at = end
        rest = data[at:]
        yield keys


def read_keys(path: Path, start: int = 0) -> Iterator[bytes]:
    """Yield the keys of a file from offset `start` on; none where there is no file."""
    try:
        descriptor = plain_files.opened(path)
    except FileNotFoundError:
        return
    with os.fdopen(descriptor, "rb") as file:
        file.seek(start)
        pieces = iter(lambda: file.read(_READ_BYTES), b"")
        yield from chain.from_iterable(decode_keys(pieces))


class KeyFile:
    """A new file of keys, in the order they are added."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0
        path.unlink(missing_ok=True)

    def add(self, keys: list[bytes]) -> None:
        """Append keys. Raises OSError."""
        if keys:
            with self.path.open("ab") as file:
                file.write(encode_keys(keys))
            self.count += len(keys)

    def read(self) -> Iterator[bytes]:
        """Return all keys."""
        return read_keys(self.path)


class KeyPartitions:
    """A key set, cut into parts by a hash of this process: files in a new folder, if it is large.

    Whose keys they are does not know the hash, so the parts are of one size, whatever the keys are.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self._files = [KeyFile(directory / str(number)) for number in range(PARTITIONS)]
        self._buffers: list[list[bytes]] = [[] for _ in self._files]
        self._buffered = 0
        self.count = 0

    def add(self, keys: list[bytes]) -> None:
        """Add keys. Raises OSError."""
        for key in keys:
            # The hash of bytes is keyed with a secret of the process (PEP 456).
            self._buffers[hash(key) % PARTITIONS].append(key)
        self.count += len(keys)
        self._buffered += len(keys)
        if self._buffered >= _BUFFERED_KEYS:
            for file, buffered in zip(self._files, self._buffers, strict=True):
                file.add(buffered)
                buffered.clear()
            self._buffered = 0

    def parts(self, slices: int = 1) -> Iterator[set[bytes]]:
        """Yield the keys of one part after the other, each in so many slices."""
        for file, buffered in zip(self._files, self._buffers, strict=True):
            for number in range(slices):
                keys = chain(buffered, file.read())
                # The last digits of the hash are alike in a part.
                yield {key for key in keys if hash(key) // PARTITIONS % slices == number}


def matching(*sets: KeyPartitions) -> Iterator[tuple[set[bytes], ...]]:
    """Yield parts of several sets, so small that all are in memory: a key is in the same ones."""
    largest = max(keys.count for keys in sets)
    slices = -(-largest // (PARTITIONS * _PART_KEYS)) or 1
    return zip(*(keys.parts(slices) for keys in sets), strict=True)
