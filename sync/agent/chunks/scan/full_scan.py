"""A namespace listed from one end to the other on one connection, for what is not in a hurry."""

import select
import time
from collections.abc import Callable, Iterator

from sync.agent.chunks.scan.lister import Edge, Scanner, Span
from sync.agent.chunks.scan.pages import Entry
from sync.contract.spec import ZdbEndpoint


class Stopped(Exception):  # noqa: N818 - not an error: the job was told to stop
    """The walk was told to stop."""


def walk(
    endpoint: ZdbEndpoint,
    password: str | None,
    timeout_seconds: float,
    stopping: Callable[[], bool] = lambda: False,
) -> Iterator[list[Entry]]:
    """Yield the pages of a whole namespace, in index order. Raises ZdbError, Stopped."""
    scanner = Scanner(endpoint, timeout_seconds, password)
    try:
        span = Span(Edge(None))
        while True:
            scanner.ask(span, span.up)
            _await_answer(scanner, stopping)
            answered = scanner.answer is not None
            page = scanner.take()
            if not answered:
                return
            if page:
                yield page.entries
                span.up.pages.clear()
    finally:
        scanner.close()


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
