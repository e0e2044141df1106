"""One connection that lists an index: one SCAN or RSCAN at a time."""

from typing_extensions import override

from sync.agent.chunks.copying.channel import (
    TRICKLE_BYTES_PER_SECOND,
    Channel,
    Connected,
    connect,
    open_all,
)
from sync.agent.chunks.memory import SessionMemory
from sync.agent.chunks.scan.spans import Page, Scan, Span
from sync.agent.zdb.errors import ZdbProtocolError
from sync.agent.zdb.protocol import NeedMoreBytes, ReplyParser
from sync.agent.zdb.scan_pages import ScanPage, read_page
from sync.contract.spec import FlistsSpec


class Scanner(Channel):
    """Lists the next page of the scan it is given.

    memory: what pages take that are larger than any that 0-dbs send.
    """

    least_bytes_per_second = TRICKLE_BYTES_PER_SECOND

    def __init__(self, connected: Connected, memory: SessionMemory) -> None:
        super().__init__(connected)
        self._memory = memory
        self._arrived: list[bytes] = []
        self._parser = ReplyParser(self._next_arrived)
        self._share = memory.page()
        self._asked = False
        self.answer: ScanPage | None = None
        self.answered = False
        self.span: Span | None = None
        self.scan: Scan | None = None

    @property
    def idle(self) -> bool:
        """Whether it can be given a scan to go on with."""
        return not self._asked and not self.answered

    @override
    def awaiting(self) -> bool:
        return self._asked

    @override
    def nudge(self) -> None:
        """Do nothing: a single request is never left in the server's socket."""

    def ask(self, span: Span, scan: Scan) -> None:
        """List the next page of a scan."""
        self.span, self.scan = span, scan
        # Without a cursor SCAN begins at the first entry and RSCAN at the last; with one, at the
        # next to it (zdbd/commands_scan.c, scan_initial_get).
        command = b"RSCAN" if scan is span.down else b"SCAN"
        cursor = scan.asked.cursor
        request = b"*%d\r\n$%d\r\n%b\r\n" % (2 if cursor else 1, len(command), command)
        if cursor:
            request += b"$%d\r\n%b\r\n" % (len(cursor.raw), cursor.raw)
        self._parser.allow(self._memory.page_bytes)
        self.send(request)
        self._asked = True

    @override
    def on_readable(self) -> None:
        data = self.receive()
        if not data:
            return
        if not self._asked:
            raise self._wrong("bytes that nobody asked for")
        self._arrived.append(data)
        try:
            self.answer = read_page(self._parser)
        except NeedMoreBytes:
            self._hold(self._parser.held_bytes)
            return
        except ZdbProtocolError as error:
            raise self._wrong(str(error)) from error
        if self._parser.buffered_bytes:
            raise self._wrong("SCAN: bytes after the end of the page")
        if self.answer:
            self._hold(self.answer.cost_bytes)
        self.answered = True
        self.progressed()
        self._asked = False

    def _next_arrived(self) -> bytes:
        if not self._arrived:
            raise NeedMoreBytes
        return self._arrived.pop()

    def _hold(self, size_bytes: int) -> None:
        if not self._share.grow(size_bytes):
            raise self._wrong(f"SCAN: a page that takes {size_bytes} bytes passes the limit")

    def take(self) -> list[Page]:
        """Give the answered page to its span; returns the part that is to be copied, if any."""
        self.answered = False
        share, self._share = self._share, self._memory.page()
        try:
            pages = self.span.take(self.scan, self.answer) if self.span and self.scan else []
        except ZdbProtocolError as error:
            raise self._wrong(str(error)) from error
        finally:
            self.answer = None
        for page in pages:
            page.share = share
        if not pages:
            share.close()
        return pages


def open_scanners(spec: FlistsSpec, count: int, memory: SessionMemory) -> list[Scanner]:
    """Open connections that list the master, all at once. Raises ZdbError."""
    timeout = spec.io_timeout_seconds
    return open_all(lambda: Scanner(connect("master", spec.source, None, timeout), memory), count)
