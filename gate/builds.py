"""Which boot medium is built next, which is kept, and who is told to come again later."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

_KEPT_SECONDS: Final = 3600.0
# A refusal (no such kernel) is kept as well, for as long as it takes to ask again by hand.
_REFUSAL_KEPT_SECONDS: Final = 30.0
_MOST_KEPT: Final = 4096
_OK: Final = 200
_SERVER_ERROR: Final = 500


@dataclass(frozen=True)
class Order:
    """What a medium depends on (0-bootstrap: bootstrap.py, ipxe_script). path: without a query.

    host: of the request, from which the medium will load its kernel. version: of the query.
    """

    host: str
    path: str
    version: str | None = None


@dataclass(frozen=True)
class Medium:
    """An answer: status, the headers that describe the body, the body.

    plain_bytes: what the body unfolds to, where zlib packed it; None: it is as it is.
    """

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    plain_bytes: int | None = None


class BusyError(Exception):
    """As many builds wait as may."""


@dataclass
class _Build:
    order: Order
    client: str
    done: asyncio.Future[Medium]
    waiting: int = 0


@dataclass
class _Turns:
    """Builds that wait: clients take turns, so that one with many does not hold up the others."""

    by_client: OrderedDict[str, deque[_Build]] = field(default_factory=OrderedDict)

    def __len__(self) -> int:
        return sum(map(len, self.by_client.values()))

    def of(self, client: str) -> int:
        return len(self.by_client.get(client, ()))

    def add(self, build: _Build) -> None:
        self.by_client.setdefault(build.client, deque()).append(build)

    def take(self) -> _Build:
        client, own = self.by_client.popitem(last=False)
        build = own.popleft()
        if own:
            self.by_client[client] = own
        return build

    def newest_of_most(self) -> _Build | None:
        """Return what the client with the most builds asked for last."""
        own = max(self.by_client.values(), key=len, default=None)
        return own[-1] if own else None

    def drop(self, build: _Build) -> bool:
        """Remove a build that waits; False where it does not."""
        own = self.by_client.get(build.client, deque())
        if build not in own:
            return False
        own.remove(build)
        if not own:
            del self.by_client[build.client]
        return True


class Shelf:
    """Media that were made, in `most_bytes`; the one asked for least recently goes first."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.held_bytes = 0
        self._media: OrderedDict[Order, tuple[Medium, float]] = OrderedDict()

    def get(self, order: Order, now: float) -> Medium | None:
        """Return what is kept and not too old."""
        medium, until = self._media.get(order, (None, 0.0))
        if medium is None or now >= until:
            return None
        self._media.move_to_end(order)
        return medium

    def put(self, order: Order, medium: Medium, now: float) -> None:
        """Keep a medium; a fault of the server is none, and what is too large is not kept."""
        self._take(order)
        if medium.status >= _SERVER_ERROR or len(medium.body) > self.most_bytes:
            return
        kept = _KEPT_SECONDS if medium.status == _OK else _REFUSAL_KEPT_SECONDS
        self._media[order] = (medium, now + kept)
        self.held_bytes += len(medium.body)
        while self.held_bytes > self.most_bytes or len(self._media) > _MOST_KEPT:
            self._take(next(iter(self._media)))

    def _take(self, order: Order) -> None:
        medium, _ = self._media.pop(order, (None, 0.0))
        self.held_bytes -= len(medium.body) if medium else 0


class Builds:
    """Builds what is ordered: each once, `at_once` at a time, `most_waiting` in turn.

    per_client: how many of those one client may have, where it is known who it is. joins_begun:
    whether who asks may have what was begun before; else it has the next.
    """

    def __init__(
        self,
        build: Callable[[Order], Awaitable[Medium]],
        *,
        at_once: int,
        most_waiting: int,
        per_client: int,
        shelf: Shelf,
        joins_begun: bool = True,
    ) -> None:
        self._build, self._joins_begun = build, joins_begun
        self.at_once, self.most_waiting, self.per_client = at_once, most_waiting, per_client
        self.shelf = shelf
        self.running = self.built = 0
        self.turns = _Turns()
        self._builds: dict[Order, _Build] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def medium(self, order: Order, client: str) -> Medium:
        """Return what is ordered; raise BusyError at once where it would have to wait too long."""
        kept = self.shelf.get(order, asyncio.get_running_loop().time())
        if kept is not None:
            return kept
        build = self._builds.get(order) or self._begun(order, client)
        build.waiting += 1
        try:
            return await asyncio.shield(build.done)
        finally:
            build.waiting -= 1
            # Nobody waits for it any more. One that runs goes on: nothing would end it.
            if build.waiting == 0 and self.turns.drop(build):
                del self._builds[order]

    def _begun(self, order: Order, client: str) -> _Build:
        if self.running >= self.at_once:
            if client != "" and self.turns.of(client) >= self.per_client:
                raise BusyError
            if len(self.turns) >= self.most_waiting:
                self._make_room(client)
        build = _Build(order, client, asyncio.get_running_loop().create_future())
        self._builds[order] = build
        self.turns.add(build)
        self._start()
        return build

    def _make_room(self, client: str) -> None:
        """Take the last of who has most; a few clients with many must not shut out the others."""
        last = self.turns.newest_of_most()
        if last is None or self.turns.of(last.client) <= self.turns.of(client) + 1:
            raise BusyError
        self.turns.drop(last)
        del self._builds[last.order]
        last.done.set_exception(BusyError())

    def _start(self) -> None:
        while self.running < self.at_once and len(self.turns):
            build = self.turns.take()
            if not self._joins_begun:
                del self._builds[build.order]
            task = asyncio.create_task(self._run(build))
            self.running += 1
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run(self, build: _Build) -> None:
        try:
            medium = await self._build(build.order)
            self.built += 1
            self.shelf.put(build.order, medium, asyncio.get_running_loop().time())
            build.done.set_result(medium)
        finally:
            build.done.cancel()
            if self._builds.get(build.order) is build:
                del self._builds[build.order]
            self.running -= 1
            self._start()
