"""The copy loop: listed pages in, batches through MGET, hash check and SET, done pages out.

One thread and one poll; every stage is bounded. What is in flight: `connections` x `batches`
batches of about `batch_bytes` asked of the master, and towards the slave what it acknowledges late.
When the slave is slow the loop stops reading from the master, whose queue has no more than was
asked. One batch is read at a time, so that the slave works on it while the next one comes.
"""

import select
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Final

from sync.agent.chunks.copying.batches import Batch, cut
from sync.agent.chunks.copying.channel import Channel, Connected, connect, open_all
from sync.agent.chunks.copying.fetcher import Buffers, Fetched, Fetcher
from sync.agent.chunks.copying.prober import Prober
from sync.agent.chunks.copying.renewal import Renewals
from sync.agent.chunks.copying.writer import LOOK_SECONDS, Writer
from sync.agent.chunks.memory import SessionMemory
from sync.agent.chunks.scan.spans import Page
from sync.agent.rate_limit import batch_bandwidth
from sync.agent.zdb.scan_pages import Entry
from sync.contract.spec import FlistsSpec

TICK_SECONDS: Final = 0.05
_OPEN_ENTRIES: Final = 12_000
WINDOW_LOOK_SECONDS: Final = 0.001
_PROBED_PAGES: Final = 8
# zdbd takes what a client sends at its own pace, and a full disk shows only in its replies.
UNACKNOWLEDGED_BYTES: Final = 4 << 20
# Looks at the master's connections before the others have their turn, if no batch completes.
_TURNS: Final = 8
_outstanding: Final = attrgetter("outstanding")


@dataclass
class Counters:
    """What this run has done so far.

    refused: keys whose payload has another hash, or that the master cannot read.
    """

    done_items: int = 0
    new_items: int = 0
    new_bytes: int = 0
    listed_items: int = 0
    missing_items: int = 0
    unreadable_items: int = 0
    refused: list[bytes] = field(default_factory=list)


class CopyLoop:
    """Copies the pages it is given. probing: ask the slave first what it has.

    memory: what replies of the master take. Of one thread, whose `step` drives all connections,
    those of `watch` among them.
    """

    def __init__(
        self, spec: FlistsSpec, password: str | None, memory: SessionMemory | None = None
    ) -> None:
        self.spec = spec
        self._memory = memory or SessionMemory.of(spec)
        self.counters = Counters()
        self.probing = True
        # Given to the slave, acknowledged or not.
        self._sent_items = 0
        self._poll = select.epoll()
        # The fetchers have a poll of their own, a member of the other one while they are read.
        # It gives them in turn: the kernel puts one that is not empty yet behind the others.
        self._fetching = select.epoll()
        self._by_descriptor: dict[int, Channel] = {}
        self._events: dict[Channel, int] = {}
        self.fetchers: list[Fetcher] = []
        self._delivered = False
        self._probed_pages = 0
        self._ready: deque[Batch] = deque()
        self._ready_ordered: deque[Batch] = deque()
        # Listed entries that are not on the slave yet.
        self._open_entries = 0
        self._open_batches = 0
        self._page_done = False
        self._bandwidth = batch_bandwidth(spec.bandwidth_bytes_per_second)
        self._paused = False
        # Asks for no more while set: what is under way ends.
        self.held = False
        self.renewals = Renewals()
        try:
            self._connect(password)
        except BaseException:
            self.close()
            raise

    def _connect(self, password: str | None) -> None:
        spec, timeout = self.spec, self.spec.io_timeout_seconds
        slave = ("slave", spec.local_zdb, password, timeout)
        self.writer = Writer(connect(*slave), self._on_stored)
        self.watch([self.writer])
        self.prober = Prober(connect(*slave), self._on_probed)
        self.watch([self.prober])
        buffers = Buffers(self._memory)

        def fetcher() -> Fetcher:
            master = connect("master", spec.source, None, timeout)
            return Fetcher(master, self._on_fetched, buffers)

        self.fetchers = open_all(fetcher, spec.connections)
        self._register(self._fetching, self.fetchers)
        self._poll.register(self._fetching, select.EPOLLIN)

    def close(self) -> None:
        """End every connection."""
        self.renewals.close()
        for channel in self._events:
            channel.close()
        self._poll.close()
        self._fetching.close()

    def watch(self, channels: Iterable[Channel]) -> None:
        """Drive these too, and close them with the loop."""
        self._register(self._poll, channels)

    def _register(self, poll: select.epoll, channels: Iterable[Channel]) -> None:
        for channel in channels:
            descriptor = channel.socket.fileno()
            self._by_descriptor[descriptor] = channel
            self._events[channel] = select.EPOLLIN
            poll.register(descriptor, select.EPOLLIN)

    def _renew(self, channel: Channel, connected: Connected) -> None:
        poll = self._poll_of(channel)
        del self._by_descriptor[channel.socket.fileno()]
        poll.unregister(channel.socket.fileno())
        channel.renew(connected)
        self._register(poll, [channel])

    def _poll_of(self, channel: Channel) -> select.epoll:
        return self._fetching if isinstance(channel, Fetcher) else self._poll

    @property
    def busy(self) -> bool:
        """Whether anything that was given is not on the slave yet."""
        return bool(self._open_batches or self._probed_pages)

    @property
    def in_flight(self) -> bool:
        """Whether anything was asked of the master, or sent, that the slave did not acknowledge."""
        return self.writer.unacknowledged_bytes > 0 or any(map(_outstanding, self.fetchers))

    @property
    def added_items(self) -> int:
        """How many entries it added to the slave: what is not acknowledged yet counts as new."""
        return self._sent_items - self.writer.known_items

    @property
    def has_room(self) -> bool:
        """Whether it takes more pages."""
        return self._open_entries <= _OPEN_ENTRIES and self._probed_pages <= _PROBED_PAGES

    def copy(self, pages: Sequence[Page]) -> None:
        """Copy what these pages list and the slave has not. Raises ZdbError."""
        for page in pages:
            self.counters.listed_items += len(page.entries)
            if self.probing and page.entries:
                self._probed_pages += 1
                self.prober.ask(page)
            else:
                self._queue(page, page.entries)

    def step(self, until: float) -> bool:
        """Work until something changes or `until` (monotonic), one tick at most.

        Returns whether some page is done since the last step. Raises ZdbError.
        """
        if not self._paused and not self.held:
            self._ask()
        self._drive(until)
        done, self._page_done = self._page_done, False
        return done

    def check_times(self) -> None:
        """Nudge, renew and time out; to be called every few ticks."""
        now = time.monotonic()
        # Of each step, so it costs next to nothing while nobody rested.
        suspects = [channel for channel in self._events if channel.unheard]
        for channel, connected in self.renewals.ready(suspects, now):
            self._renew(channel, connected)
        for channel in self._events:
            channel.check_time(now)

    def _on_probed(self, page: Page, lacking: list[Entry]) -> None:
        self._probed_pages -= 1
        self.counters.done_items += len(page.entries) - len(lacking)
        self._queue(page, lacking)

    def _queue(self, page: Page, entries: list[Entry]) -> None:
        spec, plain_keys = self.spec, self._memory.plain_keys
        batches = cut(page, entries, spec.batch_keys, spec.batch_bytes, plain_keys)
        self._open_batches += len(batches)
        self._open_entries += len(entries)
        for batch in batches:
            (self._ready_ordered if batch.ordered else self._ready).append(batch)
        self._look_at(page)

    def _look_at(self, page: Page) -> None:
        if page.done:
            page.let_go()
            self._page_done = True

    def _ask(self) -> None:
        """Ask for batches while connections and the bandwidth limit have room."""
        fetchers = [(fetcher, self._ready) for fetcher in sorted(self.fetchers, key=_outstanding)]
        # Plain keys come by one connection: another one could overtake a later payload.
        for fetcher, ready in [(self.fetchers[0], self._ready_ordered), *fetchers]:
            while ready and fetcher.outstanding < self.spec.batches:
                if self._bandwidth and not self._bandwidth.admit(ready[0].payload_bytes):
                    return
                fetcher.ask(ready.popleft())

    def _drive(self, until: float) -> None:
        patience = max(0.0, min(TICK_SECONDS, until - time.monotonic()))
        starved = [channel for channel in self._events if channel.outgoing]
        if any(not channel.blocked for channel in starved):
            patience = min(patience, WINDOW_LOOK_SECONDS)
        if self.writer.awaiting():
            patience = min(patience, LOOK_SECONDS)
        for fetcher in self.fetchers:
            fetcher.look_for_memory()
        self._watch_blocked()
        fetching = False
        for descriptor, events in self._poll.poll(patience):
            channel = self._by_descriptor.get(descriptor)
            # The fetchers' own poll: one of them is ready.
            if channel is None:
                fetching = True
            else:
                _serve(channel, events)
        self.writer.look()
        for starving in starved:
            if not starving.blocked:
                starving.on_writable()
        self._pause_fetching(self.writer.unacknowledged_bytes > UNACKNOWLEDGED_BYTES)
        if fetching and not self._paused:
            self._fetch()

    def _watch_blocked(self) -> None:
        """Wait for room in the sockets where there is none, and read where there is memory."""
        for channel, known in self._events.items():
            wanted = 0 if channel.starved else select.EPOLLIN
            wanted |= select.EPOLLOUT if channel.blocked else 0
            if wanted != known:
                poll = self._poll_of(channel)
                poll.modify(channel.socket.fileno(), wanted)
                self._events[channel] = wanted

    def _fetch(self) -> None:
        """Read from the master, one connection after the other, until a batch is complete."""
        self._delivered = False
        for _ in range(_TURNS):
            ready = self._fetching.poll(0, 1)
            if not ready:
                return
            descriptor, events = ready[0]
            _serve(self._by_descriptor[descriptor], events)
            if self._delivered:
                return

    def _pause_fetching(self, paused: bool) -> None:
        if paused == self._paused:
            return
        self._paused = paused
        # What is not read piles up in the master's queue of replies, which has no bound
        # (zdbd/redis.c, redis_response_push): so no more is asked for meanwhile, see `step`.
        if paused:
            self._poll.unregister(self._fetching)
        else:
            self._poll.register(self._fetching, select.EPOLLIN)
        for fetcher in self.fetchers:
            fetcher.paused = paused
            fetcher.heard()

    def _on_fetched(self, fetched: Fetched) -> None:
        counters = self.counters
        self._delivered = True
        counters.missing_items += len(fetched.missing)
        counters.refused += [*fetched.refused, *fetched.unreadable]
        counters.unreadable_items += len(fetched.unreadable)
        if fetched.keys:
            self._store(fetched)
        else:
            self._on_stored(fetched.batch, 0, 0)

    def _store(self, fetched: Fetched) -> None:
        self._sent_items += len(fetched.keys)
        self.writer.store(fetched)
        if not self.writer.blocked:
            # It may have run dry while batches were parsed.
            self.writer.on_writable()

    def _on_stored(self, batch: Batch, new_items: int, new_bytes: int) -> None:
        self.counters.new_items += new_items
        self.counters.new_bytes += new_bytes
        self.counters.done_items += len(batch.entries)
        self._open_entries -= len(batch.entries)
        self._open_batches -= 1
        batch.page.stored_items += new_items
        batch.page.release()
        self._look_at(batch.page)


def _serve(channel: Channel, events: int) -> None:
    if events & select.EPOLLOUT:
        channel.on_writable()
    # EPOLLERR and EPOLLHUP too: reading says what it is.
    if events & ~select.EPOLLOUT:
        channel.on_readable()
