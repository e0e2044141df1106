"""What a tool says: the first of it, as text that a sentence can hold."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

_SAID_BYTES = 4096


class Said:
    """The first words of a tool; the rest is read, and dropped."""

    def __init__(self) -> None:
        self._reading, self.pipe = os.pipe()
        self._first = b""
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        with os.fdopen(self._reading, "rb", buffering=0) as file:
            while part := file.read(_SAID_BYTES):
                self._first += part[: _SAID_BYTES - len(self._first)]

    def end(self) -> None:
        """Wait until the tool has said all."""
        os.close(self.pipe)
        self._thread.join()

    @property
    def words(self) -> str:
        """Its lines, without control characters."""
        lines = self._first.decode(errors="replace").splitlines()
        return "\n".join("".join(filter(str.isprintable, line)) for line in lines)


@contextlib.contextmanager
def said(log: int) -> Iterator[Said]:
    """Give a pipe for a tool to say its words into; at the end they go to the log too."""
    heard = Said()
    try:
        yield heard
    finally:
        heard.end()
        if heard.words:
            with contextlib.suppress(OSError):
                os.write(log, f"{heard.words}\n".encode())
