"""The ledger: every key that the master has listed, as an append-only file.

Only a key in the ledger may ever be deleted from the slave: it came from the master. A key that a
power loss takes out of the ledger is kept for ever, never deleted by mistake.
"""

import errno
import os
import threading
from itertools import takewhile
from pathlib import Path
from typing import Final

from sync.agent.chunks.key_files import encode_keys, read_keys
from sync.contract import plain_files
from sync.contract.fsync import fsync

LEDGER_FILE: Final = "listed.keys"


class Ledger:
    """The file in `directory`; every method but close() may be called from any thread.

    Keys are written when they are listed, before they are fetched: whatever is killed, a key on
    the slave that came from the master is here.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / LEDGER_FILE
        self._lock = threading.Lock()
        self._file: int | None = None
        plain_files.require(self.path)
        self.size_bytes = self.path.stat().st_size if self.path.exists() else 0

    def repair(self, known_bytes: int | None) -> None:
        """Cut off a key that a kill left incomplete, so that appending stays aligned.

        known_bytes: where a key surely ends, as the checkpoint promises; None: it is lost.
        """
        if self.size_bytes == 0:
            return
        if known_bytes is None or known_bytes > self.size_bytes:
            known_bytes = 0
        # An empty key is none: zeros, where a power loss kept the file's size but not the rest.
        end = known_bytes + sum(
            len(key) + 1 for key in takewhile(len, read_keys(self.path, known_bytes))
        )
        if end < self.size_bytes:
            os.truncate(self.path, end)
            self.size_bytes = end

    def write(self, keys: list[bytes]) -> None:
        """Append keys. Raises OSError with the path, and leaves the file aligned."""
        data = encode_keys(keys)
        with self._lock:
            written = 0
            try:
                if self._file is None:
                    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
                    self._file = plain_files.opened(self.path, flags)
                written = os.write(self._file, data)
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(self.path)) from error
            finally:
                if written < len(data) and self._file is not None:
                    os.ftruncate(self._file, self.size_bytes)
            if written < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
            self.size_bytes += written

    def sync(self) -> None:
        """Make what is written durable. Raises OSError."""
        if self._file is not None:
            fsync(self._file, self.path, os.fdatasync)

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
