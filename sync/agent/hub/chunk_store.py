"""Which chunks of a flist are on this mirror, and how the missing ones are fetched.

Only the 0-dbs that the spec names are ever contacted: what a flist says about its backend chooses
among them, and nothing else. Foreign chunks go to a namespace that the master's deletes never
reach. The master's 0-db may have several names; which of them answers does not matter, as a chunk
proves itself by its key.
"""

import functools
import itertools
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final, TypeVar
from weakref import WeakSet

from sync.agent.budget import Budget
from sync.agent.digests import proves_itself
from sync.agent.flist.database import Backend
from sync.agent.flist.keys import KEYS_AT_ONCE, KeyGroup, slices_of
from sync.agent.job import Control
from sync.agent.master.client import HttpStoppedError
from sync.agent.master.endpoints import EndpointReport, MasterEndpoints, no_report
from sync.agent.rate_limit import TokenBucket
from sync.agent.zdb.connection import ZdbConnection
from sync.agent.zdb.errors import (
    ZdbAuthError,
    ZdbConnectionError,
    ZdbError,
    ZdbProtocolError,
    ZdbReplyError,
)
from sync.agent.zdb.key_room import KeyRoom, require_disk_room
from sync.contract.job_memory import PAYLOADS_BYTES
from sync.contract.spec import UsersSpec, ZdbEndpoint

_T = TypeVar("_T")
_EXISTS_BATCH: Final = 2_000
_LEAST_RETRY_SECONDS: Final = 30.0
_FETCH_BATCH: Final = 64
_BATCH_BYTES: Final = 2 << 20
# As received, as payloads, and as the requests that store them.
_PAYLOAD_COPIES: Final = 4
# Requests of one window (zdb.transport).
_LENGTH_BATCH: Final = 800
# Of chunks that cannot be had so many are remembered: once these can, the flist is tried again.
MOST_MISSING: Final = 10_000
_FETCHERS: Final = 4
# The mirror's own 0-db answers at once; when it is silent, it waits for more bytes.
_LOCAL_NUDGE_SECONDS: Final = 0.005


class ForeignZdbError(ZdbError):
    """A 0-db of `allowedBackends` does not do its part: flists that need it fail, no others."""


@dataclass(frozen=True)
class Route:
    """Where a flist's chunks come from and the local namespace that they go to.

    source: for the master's 0-db its preferred name, whichever of its names is in use.
    """

    source: ZdbEndpoint
    namespace: str


def as_backend(endpoint: ZdbEndpoint) -> Backend:
    """Return how a flist names a 0-db namespace."""
    return Backend(endpoint.host, endpoint.port, endpoint.namespace)


def route_of(spec: UsersSpec, backend: Backend | None) -> Route:
    """Choose the source and the local namespace by what the flist says.

    A backend on the allow-list is foreign. Any other, whatever it names, is looked for at the
    master's 0-db: a flist never makes the agent connect to an address of its choosing.
    """
    for endpoint in spec.allowed_backends:
        if backend == as_backend(endpoint):
            return Route(endpoint, spec.foreign_namespace)
    return Route(spec.source_zdb, spec.local_zdb.namespace)


def groups(keys: Sequence[bytes], size: int) -> Iterator[Sequence[bytes]]:
    """Cut keys into groups of at most `size`."""
    return (keys[at : at + size] for at in range(0, len(keys), size))


@dataclass(frozen=True)
class Missing:
    """Chunks that could not be had: how many, and the first of their keys."""

    count: int
    keys: frozenset[bytes]


@dataclass(frozen=True)
class Batch:
    """Chunks that are fetched together; payload_bytes: of all of them."""

    keys: Sequence[bytes]
    payload_bytes: int

    @property
    def held_bytes(self) -> int:
        """What they take in memory on their way from one 0-db to the other."""
        return self.payload_bytes * _PAYLOAD_COPIES


def batches(chunks: Iterable[tuple[bytes, int]], most_keys: int) -> Iterator[Batch]:
    """Cut chunks, each with its length, into batches; a large chunk is one by itself."""
    keys: list[bytes] = []
    size = 0
    for key, length in chunks:
        if keys and (len(keys) == most_keys or size + length > _BATCH_BYTES):
            yield Batch(keys, size)
            keys, size = [], 0
        keys.append(key)
        size += length
    if keys:
        yield Batch(keys, size)


class _Lines:
    """Open connections by endpoint, lent to one thread at a time."""

    def __init__(self, password: str | None, control: Control) -> None:
        self._password = password
        self._control = control
        self._lock = threading.Lock()
        self._idle: dict[ZdbEndpoint, list[ZdbConnection]] = {}

    @contextmanager
    def lend(self, endpoint: ZdbEndpoint, *, admin: bool) -> Iterator[ZdbConnection]:
        if self._control.stopping():
            raise HttpStoppedError
        with self._lock:
            idle = self._idle.setdefault(endpoint, [])
            line = idle.pop() if idle else None
        if line is None:
            line = ZdbConnection.open(endpoint, self._password if admin else None)
            if admin:
                line.nudge_seconds = _LOCAL_NUDGE_SECONDS
        try:
            yield line
        except BaseException:
            line.close()
            raise
        with self._lock:
            self._idle.setdefault(endpoint, []).append(line)

    def close(self, *endpoints: ZdbEndpoint) -> None:
        """Close what is kept open to these endpoints, or to all."""
        with self._lock:
            idle = [self._idle.pop(one, []) for one in endpoints or tuple(self._idle)]
        for line in itertools.chain(*idle):
            line.close()


class ChunkStore:
    """The local 0-db as the users job sees it. Threads may share it.

    fetched_chunks, fetched_bytes: of all passes.
    """

    def __init__(
        self,
        spec: UsersSpec,
        password: str | None,
        control: Control,
        bandwidth: TokenBucket | None = None,
        report: EndpointReport = no_report,
    ) -> None:
        self._spec = spec
        self._masters = MasterEndpoints("zdb", spec.sources_zdb, spec.backoff, report)
        self._password = password
        self._control = control
        self._lines = _Lines(password, control)
        self._pool = ThreadPoolExecutor(_FETCHERS, thread_name_prefix="chunks")
        self.fetched_chunks = 0
        self.fetched_bytes = 0
        # What is here for sure, by namespace: flists that share directories ask once.
        self._known: dict[str, WeakSet[KeyGroup]] = {}
        self._lock = threading.Lock()
        self._foreign_ready = False
        # Foreign 0-dbs that nobody reached in this pass, and why.
        self._foreign_dead: dict[ZdbEndpoint, str] = {}
        # Threads of the pool share the limit on chunks in flight.
        self._batch = max(1, min(_FETCH_BATCH, spec.chunk_fetch_limit // _FETCHERS))
        self._bandwidth = bandwidth
        self._payloads = Budget(PAYLOADS_BYTES)
        # Each try is a whole pass, and until the operator acts it ends where the one before did.
        self._retry_seconds = max(_LEAST_RETRY_SECONDS, spec.schedule.interval_seconds)
        self._room = KeyRoom(spec.local_zdb_memory_bytes, self._count_keys, self._retry_seconds)

    def close(self) -> None:
        """End the threads and connections."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._lines.close()

    def begin_pass(self) -> None:
        """Trust nothing that was seen earlier (the flists job may delete), nor a name's death."""
        self._masters.choose()
        with self._lock:
            self._known.clear()
            self._foreign_dead.clear()

    def _local(self, namespace: str) -> ZdbEndpoint:
        return self._spec.local_zdb.model_copy(update={"namespace": namespace})

    def _absent_here(self, namespace: str, keys: Iterable[bytes]) -> list[bytes]:
        asked = list(frozenset(keys))
        if not asked:
            return []
        self._prepare(namespace)
        with self._lines.lend(self._local(namespace), admin=True) as line:
            return _absent(line, asked)

    def is_available(self, namespace: str, keys: Iterable[bytes]) -> bool:
        """Return whether each key is in the local namespace or where its chunks come from."""
        absent = self._absent_here(namespace, keys)
        for route in self.routes(namespace):
            if absent:
                with suppress(ForeignZdbError):
                    absent = self._ask(route, functools.partial(_absent, keys=absent))
        return not absent

    def fetch(self, route: Route, keys: Iterable[bytes]) -> frozenset[bytes]:
        """Make sure that the keys are in the local namespace; fetch, verify, store what is not.

        Returns those that the source has not, or only with a payload that is not theirs. Raises
        ZdbError when a 0-db does not do its part (ForeignZdbError: one of `allowedBackends`),
        HttpStoppedError when stopping, JobPaused when the local 0-db has no room for them.
        """
        absent = self._absent_here(route.namespace, keys)
        if not absent:
            return frozenset()
        return self._fetch_all(functools.partial(self._fetch_new, route), route, absent)

    def refetch(self, namespace: str, keys: Sequence[bytes]) -> bool:
        """Do as `fetch` from wherever the chunks may come; returns whether all are here then."""

        def has(route: Route, some: Sequence[bytes]) -> bool:
            try:
                return not self.fetch(route, some)
            except ForeignZdbError:
                return False

        return all(
            any(has(route, some) for route in self.routes(namespace))
            for some in groups(keys, KEYS_AT_ONCE)
        )

    def fetch_groups(self, route: Route, groups: Collection[KeyGroup]) -> Missing:
        """Do as `fetch` for all keys of the groups, once for each group in a pass."""
        # Versions of a flist have most directories in common, and so their groups.
        with self._lock:
            known = self._known.setdefault(route.namespace, WeakSet())
            new = [group for group in groups if group not in known]
        count, some = 0, frozenset[bytes]()
        for keys in slices_of(new):
            missing = self.fetch(route, keys)
            count += len(missing)
            some |= frozenset(itertools.islice(missing, max(0, MOST_MISSING - len(some))))
        if not count:
            with self._lock:
                known.update(new)
        return Missing(count, some)

    def routes(self, namespace: str) -> list[Route]:
        """Return where the chunks of a local namespace may come from."""
        if namespace == self._spec.local_zdb.namespace:
            return [Route(self._spec.source_zdb, namespace)]
        return [Route(endpoint, namespace) for endpoint in self._spec.allowed_backends]

    def overwrite(self, namespace: str, keys: Sequence[bytes]) -> None:
        """Fetch keys that are here already, but wrong, and store them anew. Raises ZdbError."""
        for route in self.routes(namespace):
            self._fetch_all(functools.partial(self._fetch_group, route), route, keys)

    def _fetch_all(
        self,
        fetch: Callable[[Batch], frozenset[bytes]],
        route: Route,
        keys: Sequence[bytes],
    ) -> frozenset[bytes]:
        """Fetch keys in batches of bounded size; returns those that could not be had."""
        # A flist of 3 KB may name 128 chunks of 8 MiB.
        ask = functools.partial(self._lengths, route)
        lengths = itertools.chain.from_iterable(self._pool.map(ask, groups(keys, _LENGTH_BATCH)))
        known = [*zip(keys, lengths, strict=True)]
        missing = frozenset(key for key, length in known if length is None)
        there = [(key, length) for key, length in known if length is not None]
        return missing.union(*self._pool.map(fetch, batches(there, self._batch)))

    def _lengths(self, route: Route, keys: Sequence[bytes]) -> list[int | None]:
        return self._ask(route, lambda source: source.lengths(keys))

    def _fetch_new(self, route: Route, batch: Batch) -> frozenset[bytes]:
        self._room.take(len(batch.keys))
        return self._fetch_group(route, batch)

    def _count_keys(self) -> int:
        floor_bytes = self._spec.free_space_floor_bytes
        with self._lines.lend(self._spec.local_zdb, admin=True) as line:
            require_disk_room(line.nsinfo().free_bytes, floor_bytes, self._retry_seconds)
            return line.count_keys()

    def _ask(self, route: Route, question: Callable[[ZdbConnection], _T]) -> _T:
        """Ask a route's 0-db: the master's by whichever of its names answers. Raises ZdbError."""
        if route.source != self._spec.source_zdb:
            return self._ask_foreign(route.source, question)
        losses = 0
        while True:
            source = self._masters.current
            try:
                answer = self._ask_at(source, question)
            except ZdbConnectionError as error:
                losses += 1
                # One that is the death of every name must not be asked of them in turn for ever.
                if not self._goes_on(source, error) or losses >= self._masters.count:
                    raise
            else:
                self._masters.answered()
                return answer

    def _ask_foreign(self, source: ZdbEndpoint, question: Callable[[ZdbConnection], _T]) -> _T:
        """Ask a 0-db of `allowedBackends`. Raises ForeignZdbError."""
        with self._lock:
            dead = self._foreign_dead.get(source)
        if dead is not None:
            raise ForeignZdbError(dead)
        try:
            return self._ask_at(source, question)
        except ZdbError as error:
            # Each of its flists would cost the time-outs once more.
            if isinstance(error, ZdbConnectionError | ZdbAuthError):
                with self._lock:
                    self._foreign_dead[source] = str(error)
            raise ForeignZdbError(str(error)) from error

    def _ask_at(self, source: ZdbEndpoint, question: Callable[[ZdbConnection], _T]) -> _T:
        """Ask, once more over a new connection where the first one was lost."""
        # One that was kept may have died long ago: that says nothing of the 0-db of now.
        try:
            with self._lines.lend(source, admin=False) as line:
                return question(line)
        except ZdbConnectionError:
            self._lines.close(source)
            with self._lines.lend(source, admin=False) as line:
                return question(line)

    def _goes_on(self, source: ZdbEndpoint, error: ZdbConnectionError) -> bool:
        """Pass over a name of the master that died; return whether another one is in use now.

        Raises ZdbConnectionError with all the names where each of several died.
        """
        with self._lock:
            if self._masters.current != source:
                return True
            if self._masters.skip(source, str(error)):
                self._masters.choose()
                return True
        if self._masters.count == 1:
            return False
        raise ZdbConnectionError(self._masters.reasons()) from error

    def _fetch_group(self, route: Route, batch: Batch) -> frozenset[bytes]:
        # Who holds some waits for nobody who wants some.
        with self._payloads.hold(batch.held_bytes, "a chunk"):
            return self._fetch_held(route, batch)

    def _fetch_held(self, route: Route, batch: Batch) -> frozenset[bytes]:
        keys = batch.keys
        try:
            answers = self._ask(route, lambda source: source.mget_timed(keys, batch.payload_bytes))
        except (ZdbProtocolError, ZdbReplyError):
            # One that is answered as no 0-db does, or longer than it was said to be: no others.
            if len(keys) == 1:
                return frozenset(keys)
            alone = (Batch([key], batch.payload_bytes) for key in keys)
            return frozenset[bytes]().union(*(self._fetch_held(route, one) for one in alone))
        # With the source's time, as the flists job stores them: a later SET of the same payload
        # keeps the time of the first (0-db: zdbd/commands_set.c). Where the source does not give
        # it, the local 0-db takes its own.
        good = [
            (key, *answer)
            for key, answer in zip(keys, answers, strict=True)
            if answer is not None and proves_itself(key, answer[0])
        ]
        size = sum(len(payload) for _, payload, _ in good)
        if self._bandwidth is not None and self._control.wait(self._bandwidth.take(size)):
            raise HttpStoppedError
        if good:
            with self._lines.lend(self._local(route.namespace), admin=True) as local:
                local.set_many(good)
        with self._lock:
            self.fetched_chunks += len(good)
            self.fetched_bytes += size
        return frozenset(keys).difference(key for key, _, _ in good)

    def _prepare(self, namespace: str) -> None:
        """Create the foreign namespace, readable by all, where it is not there yet."""
        if namespace == self._spec.local_zdb.namespace or self._foreign_ready:
            return
        if self._password is None:
            raise ZdbError(f"namespace {namespace} cannot be made without the 0-db admin password")
        # A new namespace is public (0-db: libzdb/namespace.c): anybody could write to it until it
        # has a password.
        with self._lock, self._lines.lend(self._spec.local_zdb, admin=True) as admin:
            if admin.namespace_create(namespace):
                admin.namespace_protect(namespace, self._password)
            self._foreign_ready = True


def _absent(line: ZdbConnection, keys: Sequence[bytes]) -> list[bytes]:
    return [
        key
        for group in groups(keys, _EXISTS_BATCH)
        for key, here in zip(group, line.exists(group), strict=True)
        if not here
    ]
