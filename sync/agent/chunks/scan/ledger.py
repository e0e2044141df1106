"""The ledger: every key that the master has listed, as an append-only file.

Only a key in the ledger may ever be deleted from the slave: it came from the master. A key that a
power loss takes out of the ledger is kept for ever, never deleted by mistake.
"""

import errno
import os
import threading
from collections.abc import Iterable, Iterator
from itertools import chain, takewhile
from pathlib import Path
from typing import Final

LEDGER_FILE: Final = "listed.keys"
_READ_BYTES: Final = 1 << 20


def encode_keys(keys: list[bytes]) -> bytes:
    """Encode keys as (length byte, key) records."""
    if not keys:
        return b""
    if {*map(len, keys)} == {16}:  # the size of nearly all keys
        return b"\x10" + b"\x10".join(keys)
    return b"".join([bytes((len(key),)) + key for key in keys])


def decode_keys(pieces: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Decode records from pieces of a file, as lists; an incomplete last record is left out."""
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


class Ledger:
    """The file in `directory`; every method but close() may be called from any thread.

    Keys are written when they are listed, before they are fetched: whatever is killed, a key on
    the slave that came from the master is here.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / LEDGER_FILE
        self._lock = threading.Lock()
        self._file: int | None = None
        self.size_bytes = self.path.stat().st_size if self.path.exists() else 0

    def mend(self, known_bytes: int | None) -> None:
        """Cut off a record that a kill left incomplete, so that appending stays aligned.

        known_bytes: where a record surely ends, as the state promises; None: it is lost.
        """
        if self.size_bytes == 0:
            return
        if known_bytes is None or known_bytes > self.size_bytes:
            known_bytes = 0
        with self.path.open("rb") as file:
            file.seek(known_bytes)
            pieces = iter(lambda: file.read(_READ_BYTES), b"")
            keys = chain.from_iterable(decode_keys(pieces))
            # An empty key is none: zeros, where a power loss kept the file's size but not the rest.
            end = known_bytes + sum(len(key) + 1 for key in takewhile(len, keys))
        if end < self.size_bytes:
            os.truncate(self.path, end)
            self.size_bytes = end

    def write(self, records: bytes) -> None:
        """Append encoded keys. Raises OSError, and leaves the file aligned."""
        with self._lock:
            if self._file is None:
                self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            written = 0
            try:
                written = os.write(self._file, records)
            finally:
                if written < len(records):
                    os.ftruncate(self._file, self.size_bytes)
            if written < len(records):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self.size_bytes += written

    def sync(self) -> None:
        """Make what is written durable. Raises OSError."""
        if self._file is not None:
            os.fdatasync(self._file)

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def read(self) -> Iterator[list[bytes]]:
        """Return all keys, in lists; a key may come more than once."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            yield from decode_keys(iter(lambda: file.read(_READ_BYTES), b""))
