"""Many flists at once on their way into staging, in the order of work."""

import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

from sync.agent.hub.listing import Name, Regular
from sync.agent.hub.prepare import Fetched, Preparer, Ready, TooLargeError
from sync.agent.hub.state_db import Withheld
from sync.agent.job import Control
from sync.agent.master.client import HttpError, HttpStoppedError

_PREPARERS: Final = 4
# Flists that may be in staging at once: what is fetched waits for its chunks.
_IN_STAGING: Final = 128
_BATCH: Final = 64
_PATIENCE_SECONDS: Final = 0.5
# One transaction and one fsync of a directory serve all that is ready within this time.
_TOGETHER_SECONDS: Final = 0.03


@dataclass(frozen=True)
class Failure:
    """A flist that could not be had in this pass."""

    name: Name
    error: HttpError


Outcome: TypeAlias = Ready | Withheld | Failure


class Pipeline:
    """Fetches in some threads and prepares in others; one thread takes the outcomes."""

    def __init__(self, preparer: Preparer, connections: int, control: Control) -> None:
        self._preparer = preparer
        self._control = control
        self._connections = connections
        self._slots = threading.Semaphore(_IN_STAGING)
        self._listed: deque[Regular] = deque()
        # None ends one of the threads that prepare.
        self._fetched: queue.SimpleQueue[Fetched | None] = queue.SimpleQueue()
        self._outcomes: queue.SimpleQueue[Outcome | BaseException] = queue.SimpleQueue()
        self._aborted = threading.Event()
        self._awaited = 0

    def run(self, entries: list[Regular]) -> Iterator[list[Outcome]]:
        """Yield the outcome of every entry, in batches as they come.

        Raises ZdbError and OSError of any entry at once, HttpStoppedError when stopping.
        """
        self._listed.extend(entries)
        self._awaited = len(entries)
        preparers = [self._thread(self._prepare_all) for _ in range(_PREPARERS)]
        fetchers = [self._thread(self._fetch_all) for _ in range(self._connections)]
        try:
            while self._awaited:
                yield self._batch()
        finally:
            self._aborted.set()
            for fetcher in fetchers:
                fetcher.join()
            for _ in preparers:
                self._fetched.put(None)
            for preparer in preparers:
                preparer.join()
            self._discard()

    def _thread(self, work: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=self._guarded, args=(work,), name=work.__name__.strip("_"))
        thread.start()
        return thread

    def _batch(self) -> list[Outcome]:
        """Wait for an outcome, and a little longer for others: they are published together."""
        batch = [self._next(None)]
        until = time.monotonic() + _TOGETHER_SECONDS
        try:
            while len(batch) < min(_BATCH, self._awaited):
                batch.append(self._next(until - time.monotonic()))
        except queue.Empty:
            pass
        except BaseException:
            # Back to what is discarded.
            for outcome in batch:
                self._outcomes.put(outcome)
            raise
        self._awaited -= len(batch)
        return batch

    def _next(self, seconds: float | None) -> Outcome:
        """Return the next outcome; raises queue.Empty after `seconds`, if given."""
        while True:
            wait = _PATIENCE_SECONDS if seconds is None else max(0.0, seconds)
            try:
                outcome = self._outcomes.get(timeout=wait)
            except queue.Empty:
                if self._control.stopping():
                    raise HttpStoppedError from None
                if seconds is None:
                    continue
                raise
            self._slots.release()
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome

    def _fetch_all(self) -> None:
        """Fetch entry by entry, in their order, until none is left."""
        while self._listed:
            while not self._slots.acquire(timeout=_PATIENCE_SECONDS):
                self._check()
            self._check()
            try:
                entry = self._listed.popleft()
            except IndexError:  # another thread was quicker
                self._slots.release()
                return
            self._fetch(entry)

    def _fetch(self, entry: Regular) -> None:
        try:
            self._fetched.put(self._preparer.fetch(entry))
        except HttpStoppedError:
            raise
        except TooLargeError as error:
            held = Withheld(entry.name, entry.updated, entry.size_text, "", str(error))
            self._outcomes.put(held)
        except HttpError as error:
            self._outcomes.put(Failure(entry.name, error))

    def _prepare_all(self) -> None:
        """Prepare what was fetched, until there is no more to come."""
        while (fetched := self._fetched.get()) is not None:
            try:
                self._check()
            except HttpStoppedError:
                # Back to what is discarded.
                self._fetched.put(fetched)
                raise
            self._outcomes.put(self._preparer.prepare(fetched))

    def _check(self) -> None:
        if self._aborted.is_set() or self._control.stopping():
            raise HttpStoppedError

    def _guarded(self, work: Callable[[], None]) -> None:
        """Run a thread's work; whatever it raises reaches the thread that takes the outcomes."""
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - handed over, not swallowed
            self._outcomes.put(error)

    def _discard(self) -> None:
        """Remove from staging what will not be published."""
        with contextlib.suppress(queue.Empty):
            while True:
                fetched = self._fetched.get_nowait()
                if fetched is not None:
                    fetched.path.unlink(missing_ok=True)
        with contextlib.suppress(queue.Empty):
            while True:
                outcome = self._outcomes.get_nowait()
                if isinstance(outcome, Ready):
                    outcome.path.unlink(missing_ok=True)
