"""Many flists at once on their way into staging, in the order of work."""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Self, TypeAlias

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
    """Fetches `entries` in some threads and prepares them in others, while it is entered.

    `next_batch` is called by one thread, to which all results come by one queue.
    """

    def __init__(
        self, preparer: Preparer, connections: int, control: Control, entries: Sequence[Regular]
    ) -> None:
        self._preparer = preparer
        self._control = control
        # Taken before a flist is fetched, given back when its outcome is taken.
        self._slots = threading.Semaphore(_IN_STAGING)
        self._listed = deque(entries)
        self._awaited = len(entries)
        # None ends one of the threads that prepare.
        self._fetched: queue.SimpleQueue[Fetched | None] = queue.SimpleQueue()
        self._outcomes: queue.SimpleQueue[Outcome | BaseException] = queue.SimpleQueue()
        self._aborted = threading.Event()
        self._preparers = [self._thread(self._prepare_all) for _ in range(_PREPARERS)]
        self._fetchers = [self._thread(self._fetch_all) for _ in range(connections)]

    def __enter__(self) -> Self:
        for worker in self._preparers + self._fetchers:
            worker.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End the threads; what they have in staging and nobody took is discarded."""
        self._aborted.set()
        for fetcher in self._fetchers:
            fetcher.join()
        for _each in self._preparers:
            self._fetched.put(None)
        for preparer in self._preparers:
            preparer.join()
        self._preparer.empty_staging()

    def _thread(self, work: Callable[[], None]) -> threading.Thread:
        return threading.Thread(target=self._guarded, args=(work,), name=work.__name__.strip("_"))

    def next_batch(self) -> list[Outcome]:
        """Wait for an outcome, and a little longer for others: they are published together.

        Returns nothing once every entry had its outcome. Raises ZdbError and OSError of any entry
        at once, HttpStoppedError when stopping.
        """
        batch: list[Outcome] = []
        until = 0.0
        while self._awaited and len(batch) < _BATCH:
            wait = max(0.0, until - time.monotonic()) if batch else _PATIENCE_SECONDS
            try:
                outcome = self._outcomes.get(timeout=wait)
            except queue.Empty:
                if self._control.stopping():
                    raise HttpStoppedError from None
                if batch:
                    break
                continue
            if isinstance(outcome, BaseException):
                # The batch so far is left in staging, and discarded with the rest.
                raise outcome
            self._slots.release()
            self._awaited -= 1
            until = until if batch else time.monotonic() + _TOGETHER_SECONDS
            batch.append(outcome)
        return batch

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
            # Withheld until the limit is raised: no pass asks for it again before.
            text = str(error)
            self._outcomes.put(Withheld(entry.name, entry.updated, entry.size_text, "", text))
        except HttpError as error:
            self._outcomes.put(Failure(entry.name, error))

    def _prepare_all(self) -> None:
        """Prepare what was fetched, until there is no more to come."""
        while (fetched := self._fetched.get()) is not None:
            self._check()
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
