"""A namespace listed from one end to the other on one connection, for what is not in a hurry."""

import contextlib
import select
import time
from collections.abc import Callable, Iterator

from sync.agent.chunks.copying.channel import connect
from sync.agent.chunks.scan.pages import Entry
from sync.agent.chunks.scan.scanner import Scanner
from sync.agent.chunks.scan.spans import Edge, Span
from sync.contract.spec import ZdbEndpoint


class Stopped(Exception):  # noqa: N818 - not an error: the job is stopping
    """The scan was stopped."""


def full_scan(
    endpoint: ZdbEndpoint,
    password: str | None,
    timeout_seconds: float,
    stopping: Callable[[], bool] = lambda: False,
) -> Iterator[list[Entry]]:
    """Yield the pages of a whole namespace, in index order. Raises ZdbError, Stopped."""
    # Pages cannot be asked for ahead: each names the cursor of the next.
    role = "master" if password is None else "slave"
    with contextlib.closing(Scanner(connect(role, endpoint, password, timeout_seconds))) as scanner:
        span = Span(Edge(None))
        while True:
            scanner.ask(span, span.up)
            _await_answer(scanner, stopping)
            at_end = scanner.answer is None
            for page in scanner.take():
                yield page.entries
            if at_end:
                return
            # Nothing is acknowledged here, and a whole namespace is not to stay in memory.
            span.up.pages.clear()


def _await_answer(scanner: Scanner, stopping: Callable[[], bool]) -> None:
    while not scanner.answered:
        if stopping():
            raise Stopped
        waiting = [scanner.socket] if scanner.outgoing else []
        readable, writable, _ = select.select([scanner.socket], waiting, [], 0.1)
        if writable:
            scanner.on_writable()
        if readable:
            scanner.on_readable()
        scanner.check_time(time.monotonic())
