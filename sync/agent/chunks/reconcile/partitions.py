"""Key sets larger than memory: partitioned into files by the key's last byte, compared one by one.

Keys are hashes, so the partitions are of one size; a part of a 50-million-key namespace is 200,000
keys, a few tens of megabytes as a set.
"""

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from sync.agent.chunks.scan.ledger import decode_keys, encode_keys

PARTITIONS: Final = 256
_SMALL_ENTRIES: Final = 100_000
_BUFFERED_KEYS: Final = 100_000
_READ_BYTES: Final = 1 << 20


class KeyFile:
    """Keys on disk in the order they were added."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0

    def add(self, keys: list[bytes]) -> None:
        """Append keys. Raises OSError."""
        if keys:
            with self.path.open("ab") as file:
                file.write(encode_keys(keys))
            self.count += len(keys)

    def read(self) -> Iterator[list[bytes]]:
        """Return all keys, in lists."""
        if self.path.exists():
            with self.path.open("rb") as file:
                yield from decode_keys(iter(lambda: file.read(_READ_BYTES), b""))


class Partitions:
    """One key set, partitioned below `directory`; expected: about how many keys there will be."""

    def __init__(self, directory: Path, expected: int) -> None:
        self._directory = directory
        self._directory.mkdir(parents=True, exist_ok=True)
        self.count = 1 if expected <= _SMALL_ENTRIES else PARTITIONS
        self._buffers: list[list[bytes]] = [[] for _ in range(self.count)]
        self._buffered = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        shutil.rmtree(self._directory, ignore_errors=True)

    def add(self, keys: Iterable[bytes]) -> None:
        """Add keys. Raises OSError."""
        buffers = self._buffers
        if self.count == 1:
            buffers[0] += keys
        else:
            for key in keys:
                buffers[key[-1]].append(key)
                self._buffered += 1
        if self._buffered >= _BUFFERED_KEYS or len(buffers[0]) >= _BUFFERED_KEYS:
            self._flush()

    def _flush(self) -> None:
        for number, keys in enumerate(self._buffers):
            KeyFile(self._directory / str(number)).add(keys)
            keys.clear()
        self._buffered = 0

    def part(self, number: int) -> set[bytes]:
        """Return the keys of one partition."""
        self._flush()
        keys: set[bytes] = set()
        for part in KeyFile(self._directory / str(number)).read():
            keys.update(part)
        return keys
