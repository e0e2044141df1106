"""The two key sets compared: what the slave lacks, and what only the slave has.

They may be larger than memory: each is cut into files by the key's last byte, compared one by one.
Keys are hashes, so the files are of one size; a part of a 50-million-key namespace is 200,000 keys,
a few tens of megabytes as a set.
"""

import contextlib
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sync.agent.chunks.scan.full_scan import full_scan
from sync.agent.chunks.scan.ledger import Ledger, encode_keys, read_keys
from sync.contract.spec import FlistsSpec

WORK_DIRECTORY: Final = "compare"
PARTITIONS: Final = 256
_SMALL_ENTRIES: Final = 100_000
_BUFFERED_KEYS: Final = 100_000


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
        return read_keys(self.path)


class Partitions:
    """One key set, partitioned below `directory`; expected: about how many keys there will be."""

    def __init__(self, directory: Path, expected: int) -> None:
        self._directory = directory
        self._directory.mkdir(parents=True, exist_ok=True)
        self.count = 1 if expected <= _SMALL_ENTRIES else PARTITIONS
        self._buffers: list[list[bytes]] = [[] for _ in range(self.count)]
        self._buffered = 0

    def add(self, keys: Iterable[bytes]) -> None:
        """Add keys. Raises OSError."""
        buffers = self._buffers
        if self.count == 1:
            buffers[0] += keys
        else:
            for key in keys:
                # The last byte: the first ones of plain keys, which are names, are alike.
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


@contextlib.contextmanager
def partitions(directory: Path, expected: int) -> Iterator[Partitions]:
    """Provide an empty key set; its files go with the block."""
    try:
        yield Partitions(directory, expected)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@dataclass
class Comparison:
    """missing: on the master only. dropped: on the slave only, and listed by the master once.

    extra_items: on the slave only, wherever from. observed_at: unix seconds, before the master was
    listed: a users pass that began later has seen what the master dropped.
    """

    missing: KeyFile
    dropped: KeyFile
    extra_items: int
    observed_at: float


def compare(
    spec: FlistsSpec,
    password: str | None,
    state_directory: Path,
    ledger: Ledger,
    expected: int,
    stopping: Callable[[], bool],
) -> Comparison:
    """List both namespaces and the ledger, and compare them part by part.

    expected: about how many entries there are. Raises ZdbError, OSError, Stopped.
    """
    work = state_directory / WORK_DIRECTORY
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    result = Comparison(KeyFile(work / "missing"), KeyFile(work / "dropped"), 0, 0.0)
    timeout = spec.io_timeout_seconds
    with (
        partitions(work / "slave", expected) as slave,
        partitions(work / "master", expected) as master,
        partitions(work / "ledger", expected) as listed,
    ):
        # 0-db has no snapshots, so the slave is listed first: what appears on the master meanwhile
        # is "missing" and is asked for again, while what is dropped was really there and is gone.
        for page in full_scan(spec.local_zdb, password, timeout, stopping):
            slave.add([entry[0] for entry in page])
        result.observed_at = time.time()
        for page in full_scan(spec.source, None, timeout, stopping):
            master.add([entry[0] for entry in page])
        for keys in ledger.read():
            listed.add(keys)
        for number in range(slave.count):
            here, there = slave.part(number), master.part(number)
            result.missing.add(sorted(there - here))
            extra = here - there
            result.extra_items += len(extra)
            if extra:
                result.dropped.add(sorted(extra & listed.part(number)))
    return result
