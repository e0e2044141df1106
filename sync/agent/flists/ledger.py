"""The ledger: every key that the master has listed, as an append-only file.

Only a key in the ledger may ever be deleted from the slave: it came from the master. A key that a
power loss takes out of the ledger is kept for ever, never deleted by mistake.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from sync.agent import durable

LEDGER_FILE: Final = "listed.keys"
_READ_BYTES: Final = 1 << 20


def encode_keys(keys: list[bytes]) -> bytes:
    """Encode keys as (length byte, key) records."""
    if not keys:
        return b""
    if all(len(key) == 16 for key in keys):  # noqa: PLR2004 - the size of nearly all keys
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
    """The file in `directory`; used by one thread at a time."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / LEDGER_FILE

    @property
    def size_bytes(self) -> int:
        """Return the length of the file, 0 where there is none."""
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    def mend(self, known_bytes: int | None) -> None:
        """Cut off what a kill left behind the last save, so that appending stays aligned.

        known_bytes: the length that the state promises; None: it is lost, so look for the end.
        """
        if known_bytes is None:
            known_bytes = sum(len(key) + 1 for keys in self.read() for key in keys)
        if self.size_bytes > known_bytes:
            os.truncate(self.path, known_bytes)

    def append(self, records: bytes) -> None:
        """Append encoded keys durably. Raises OSError, and leaves the file aligned."""
        if not records:
            return
        with self.path.open("ab") as file:
            size = file.tell()
            try:
                file.write(records)
                file.flush()
                os.fdatasync(file.fileno())
            except OSError:
                file.truncate(size)
                raise

    def read(self) -> Iterator[list[bytes]]:
        """Return all keys, in lists; a key may come more than once."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            yield from decode_keys(iter(lambda: file.read(_READ_BYTES), b""))

    def replace(self, keys: Iterable[list[bytes]]) -> None:
        """Write anew with just these keys, atomically. Raises OSError."""
        temporary = durable.temporary_in(self.path.parent)
        with durable.discarded_on_failure(temporary):
            with temporary.open("wb") as file:
                for part in keys:
                    file.write(encode_keys(part))
            durable.publish(temporary, self.path)
