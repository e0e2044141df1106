"""Asks the slave which listed entries it has, before they are fetched."""

from collections.abc import Callable
from typing import Final

from typing_extensions import override

from sync.agent.chunks.copying.channel import Connected, Pipeline
from sync.agent.chunks.scan.spans import Page
from sync.agent.digests import HASH_BYTES
from sync.agent.zdb.scan_pages import Entry

_LENGTH: Final = b"*2\r\n$6\r\nLENGTH\r\n$%d\r\n%b\r\n"


class Prober(Pipeline[Page]):
    """Asks for listed entries by LENGTH, one page after the other.

    `deliver` is called with each page and the entries of it that the slave lacks.
    """

    def __init__(self, connected: Connected, deliver: Callable[[Page, list[Entry]], None]) -> None:
        super().__init__(connected)
        self._deliver = deliver
        self._received = bytearray()
        self._lines = 0

    def ask(self, page: Page) -> None:
        """Ask for every entry of a page."""
        self.send(b"".join([_LENGTH % (len(entry[0]), entry[0]) for entry in page.entries]))
        self._awaited.append(page)

    @override
    def on_readable(self) -> None:
        data = self.receive()
        self._lines += data.count(b"\n")
        self._received += data
        while self._awaited:
            head = self._awaited[0]
            wanted = len(head.entries) if head else 1
            if self._lines < wanted:
                return
            lines = self._received.split(b"\r\n", wanted)
            self._received = lines.pop()
            self._lines -= wanted
            self._awaited.popleft()
            # One line a reply: LENGTH answers a number or nil, and a PING its PONG.
            if head:
                self._deliver(head, self._lacking(head, lines))

    def _lacking(self, page: Page, lines: list[bytearray]) -> list[Entry]:
        lacking: list[Entry] = []
        for entry, line in zip(page.entries, lines, strict=True):
            # A plain key may have got another payload of the same length.
            if line[1:] == entry[1] and len(entry[0]) == HASH_BYTES:
                continue
            # nil for a key that is not there (zdbd/commands_dataset.c, command_length).
            if not line.startswith((b":", b"$")):
                shown = bytes(line[:80]).decode("ascii", "replace")
                raise self._wrong(f"LENGTH answered {shown}")
            lacking.append(entry)
        return lacking
