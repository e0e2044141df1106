"""One connection that lists an index: one SCAN or RSCAN at a time."""

from typing_extensions import override

from sync.agent.chunks.copying.channel import (
    TRICKLE_BYTES_PER_SECOND,
    Channel,
    Connected,
    connect,
    open_all,
)
from sync.agent.chunks.scan.spans import Page, Scan, Span
from sync.agent.zdb.protocol import NeedMoreBytes
from sync.agent.zdb.scan_pages import ScanPage, parse_page
from sync.contract.spec import FlistsSpec


class Scanner(Channel):
    """Lists the next page of the scan it is given."""

    least_bytes_per_second = TRICKLE_BYTES_PER_SECOND

    def __init__(self, connected: Connected) -> None:
        super().__init__(connected)
        self._received = bytearray()
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
        self.send(request)
        self._asked = True

    @override
    def on_readable(self) -> None:
        data = self.receive()
        if not data:
            return
        if not self._asked:
            raise self._wrong("bytes that nobody asked for")
        self._received += data
        try:
            self.answer = parse_page(self._received)
        except NeedMoreBytes:
            return
        self.answered = True
        self.progressed()
        self._asked = False
        self._received.clear()

    def take(self) -> list[Page]:
        """Give the answered page to its span; returns the part that is to be copied, if any."""
        self.answered = False
        return self.span.take(self.scan, self.answer) if self.span and self.scan else []


def open_scanners(spec: FlistsSpec, count: int) -> list[Scanner]:
    """Open connections that list the master, all at once. Raises ZdbError."""
    timeout = spec.io_timeout_seconds
    return open_all(lambda: Scanner(connect("master", spec.source, None, timeout)), count)
