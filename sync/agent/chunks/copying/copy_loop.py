"""The copy loop: listed pages in, batches through MGET, hash check and SET, acknowledgements out.

One thread and one selector; every stage is bounded. What is in flight: `connections` x `batches`
batches of about `batch_bytes` asked of the master, and towards the slave what it acknowledges late.
When the slave is slow the loop stops reading from the master, whose queue holds no more than was
asked. One batch is read at a time, so that the slave works on it while the next one comes.
"""

import select
import selectors
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from sync.agent.chunks.copying.channel import Channel, open_all
from sync.agent.chunks.copying.fetcher import Buffers, Fetched, Fetcher
from sync.agent.chunks.copying.writer import LOOK_SECONDS, Prober, Stored, Writer
from sync.agent.chunks.scan.pages import Batch, Entry, Page, cut
from sync.agent.rate_limit import batch_bandwidth
from sync.agent.zdb.errors import ZdbProtocolError
from sync.contract.spec import FlistsSpec

TICK_SECONDS: Final = 0.05
_OPEN_ENTRIES: Final = 12_000
WINDOW_LOOK_SECONDS: Final = 0.001
_PROBED_PAGES: Final = 8
UNACKNOWLEDGED_BYTES: Final = 4 << 20
# Looks at the master's connections before the others have their turn, if no batch completes.
_TURNS: Final = 8


@dataclass
class Counters:
    """What this run has done so far; refused: keys whose payload has another hash."""

    done_items: int = 0
    new_items: int = 0
    new_bytes: int = 0
    listed_items: int = 0
    listed_bytes: int = 0
    missing_items: int = 0
    unreadable: list[bytes] = field(default_factory=list)
    refused: list[bytes] = field(default_factory=list)


class PageSource(Protocol):
    """Where pages come from: the spans of the index, or a list of keys."""

    def channels(self) -> list[Channel]:
        """Return the connections it needs the loop to watch."""
        ...

    def pull(self, now: float) -> list[Page]:
        """Return pages that came, and ask for more."""
        ...

    def acknowledged(self) -> None:
        """Note that some page may be done."""
        ...


class CopyLoop:
    """Copies what a source lists. probe: ask the slave first what it has."""

    def __init__(self, spec: FlistsSpec, password: str | None, *, null_sink: bool = False) -> None:
        self.spec = spec
        self.counters = Counters()
        self.probing = True
        # Given to the slave, acknowledged or not.
        self.sent_items = 0
        self.source: PageSource | None = None
        # Called with every page before anything of it is fetched.
        self.on_listed: Callable[[Page], None] = lambda _: None
        self._null_sink = null_sink
        self._selector = selectors.DefaultSelector()
        # The fetchers have a selector of their own, a member of the other one while they are read.
        # It gives them in turn: the kernel puts one that is not empty yet behind the others.
        self._fetching = select.epoll()
        self._by_descriptor: dict[int, Fetcher] = {}
        self._delivered = False
        self._channels: dict[Channel, int] = {}
        self._probe_queue: deque[Page] = deque()
        self._ready: deque[Batch] = deque()
        self._ready_ordered: deque[Batch] = deque()
        # Listed entries that are not on the slave yet.
        self._open_entries = 0
        self._open_batches = 0
        self._acknowledged = False
        self._bandwidth = batch_bandwidth(spec.bandwidth_bytes_per_second)
        self._held = False
        timeout = spec.io_timeout_seconds
        try:
            self.writer = Writer(spec.local_zdb, password, timeout, self._on_stored)
            self._watch(self.writer)
            self.prober = Prober(spec.local_zdb, password, timeout, self._on_probed)
            self._watch(self.prober)
            buffers = Buffers()
            self.fetchers: list[Fetcher] = open_all(
                lambda: Fetcher(spec.source, timeout, spec.batches, self._on_fetched, buffers),
                spec.connections,
            )
            for fetcher in self.fetchers:
                self._watch_fetcher(fetcher)
            self._selector.register(self._fetching, selectors.EVENT_READ)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End every connection."""
        for fetcher in self._by_descriptor.values():
            fetcher.close()
        for channel in list(self._channels):
            self.unwatch(channel)
            channel.close()
        self._selector.close()
        self._fetching.close()

    def _watch(self, channel: Channel) -> None:
        self._selector.register(channel.socket, selectors.EVENT_READ, channel)
        self._channels[channel] = selectors.EVENT_READ

    def unwatch(self, channel: Channel) -> None:
        """Stop driving a channel."""
        if self._channels.pop(channel, 0):
            self._selector.unregister(channel.socket)

    def attach(self, source: PageSource) -> None:
        """Take pages from here from now on."""
        self.source = source
        for channel in source.channels():
            self._watch(channel)

    def detach(self) -> None:
        """End the source's connections."""
        if self.source:
            for channel in self.source.channels():
                self.unwatch(channel)
                channel.close()
        self.source = None

    @property
    def busy(self) -> bool:
        """Tell whether anything pulled is not on the slave yet."""
        return bool(self._open_batches or self._probe_queue)

    def step(self, until: float) -> None:
        """Work until something changes or `until` (monotonic), one tick at most."""
        self._pull()
        self._issue()
        self._drive(until)
        if self._acknowledged and self.source:
            self._acknowledged = False
            self.source.acknowledged()

    def check_times(self) -> None:
        """Nudge and time out; to be called every few ticks."""
        now = time.monotonic()
        for channel in (*self._channels, *self.fetchers):
            channel.check_time(now)

    def _drive(self, until: float) -> None:
        patience = max(0.0, min(TICK_SECONDS, until - time.monotonic()))
        starved = [channel for channel in (*self._channels, *self.fetchers) if channel.outgoing]
        if any(not channel.blocked for channel in starved):
            patience = min(patience, WINDOW_LOOK_SECONDS)
        if self.writer.awaiting():
            patience = min(patience, LOOK_SECONDS)
        fetching = self._turn(patience)
        self.writer.look()
        for channel in starved:
            if not channel.blocked:
                channel.on_writable()
        self._hold(self.writer.unacknowledged_bytes > UNACKNOWLEDGED_BYTES)
        if fetching and not self._held:
            self._fetch()
        for channel, known in self._channels.items():
            wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if channel.blocked else 0)
            if wanted != known:
                self._selector.modify(channel.socket, wanted, channel)
                self._channels[channel] = wanted

    def _turn(self, patience: float) -> bool:
        """Look after all but the fetchers; tell whether one of those has something."""
        fetching = False
        for key, events in self._selector.select(patience):
            channel: Channel | None = key.data
            if channel is None:
                fetching = True
                continue
            if events & selectors.EVENT_WRITE:
                channel.on_writable()
            if events & selectors.EVENT_READ:
                channel.on_readable()
        return fetching

    def _fetch(self) -> None:
        """Read from the master, one connection after the other, until a batch is complete."""
        self._delivered = False
        for _ in range(_TURNS):
            ready = self._fetching.poll(0, 1)
            if not ready:
                return
            fetcher = self._by_descriptor[ready[0][0]]
            if ready[0][1] & select.EPOLLOUT:
                fetcher.on_writable()
                self._rewatch(fetcher)
            if ready[0][1] & ~select.EPOLLOUT:
                fetcher.on_readable()
            if self._delivered:
                return

    def _watch_fetcher(self, fetcher: Fetcher) -> None:
        descriptor = fetcher.socket.fileno()
        self._by_descriptor[descriptor] = fetcher
        self._fetching.register(descriptor, select.EPOLLIN)

    def _rewatch(self, fetcher: Fetcher) -> None:
        """Wait for room in the socket where there is none."""
        wanted = select.EPOLLIN | (select.EPOLLOUT if fetcher.blocked else 0)
        self._fetching.modify(fetcher.socket.fileno(), wanted)

    def _hold(self, held: bool) -> None:
        if held == self._held:
            return
        self._held = held
        if held:
            self._selector.unregister(self._fetching)
        else:
            self._selector.register(self._fetching, selectors.EVENT_READ)
        for fetcher in self.fetchers:
            fetcher.held = held
            fetcher.heard()

    def _pull(self) -> None:
        if (
            self.source is None
            or self._open_entries > _OPEN_ENTRIES
            or len(self._probe_queue) > _PROBED_PAGES
        ):
            return
        for page in self.source.pull(time.monotonic()):
            self.counters.listed_items += len(page.entries)
            self.on_listed(page)
            if self.probing and page.entries:
                page.open_batches += 1
                self._probe_queue.append(page)
                self.prober.ask(page)
            else:
                self._prepare(page, page.entries)

    def _on_probed(self, page: Page, lacking: list[Entry]) -> None:
        self._probe_queue.popleft()
        page.open_batches -= 1
        self.counters.done_items += len(page.entries) - len(lacking)
        self._prepare(page, lacking)

    def _prepare(self, page: Page, entries: list[Entry]) -> None:
        if entries:
            batches = cut(page, entries, self.spec.batch_keys, self.spec.batch_bytes)
            self._open_batches += len(batches)
            self._open_entries += len(entries)
            for batch in batches:
                (self._ready_ordered if batch.ordered else self._ready).append(batch)
        if page.open_batches == 0:
            self._acknowledged = True

    def _issue(self) -> None:
        if self._held:
            return
        first = self.fetchers[0]
        if not self._issue_from(self._ready_ordered, first):
            return
        for fetcher in sorted(self.fetchers, key=_load):
            if not self._issue_from(self._ready, fetcher):
                return

    def _issue_from(self, ready: deque[Batch], fetcher: Fetcher) -> bool:
        """Ask for batches while there is room; False when the bandwidth limit says no."""
        while ready and fetcher.has_room:
            if self._bandwidth and not self._bandwidth.admit(ready[0].payload_bytes):
                return False
            fetcher.ask(ready.popleft())
            if fetcher.outgoing:
                self._rewatch(fetcher)
        return True

    def _on_fetched(self, fetched: Fetched) -> None:
        counters = self.counters
        self._delivered = True
        counters.missing_items += len(fetched.missing)
        counters.refused += fetched.refused
        counters.unreadable += fetched.failed
        if self._null_sink or not fetched.keys:
            self._on_stored(Stored(fetched.batch, len(fetched.keys), fetched.payload_bytes))
        else:
            self.sent_items += len(fetched.keys)
            self.writer.store(fetched)
            if not self.writer.blocked:
                # It may have run dry while batches were parsed.
                self.writer.on_writable()

    def _on_stored(self, stored: Stored) -> None:
        self.counters.new_items += stored.new_items
        self.counters.new_bytes += stored.new_bytes
        self.counters.done_items += len(stored.batch.entries)
        self._open_entries -= len(stored.batch.entries)
        page = stored.batch.page
        page.items += stored.new_items
        page.payload_bytes += stored.new_bytes
        page.open_batches -= 1
        self._open_batches -= 1
        if page.open_batches < 0:
            raise ZdbProtocolError("more replies than batches")
        if page.open_batches == 0:
            self._acknowledged = True


def _load(fetcher: Fetcher) -> int:
    return fetcher.outstanding
