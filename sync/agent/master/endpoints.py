"""The names of one service of the master, in order of preference, and which one is in use.

A name that dies is skipped for a time that grows; the next one in order is used meanwhile. A job
changes names only where it begins anew (a pass, a session): in between everything comes from one
of them (docs/adr/0008).
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Generic, TypeAlias, TypeVar

from sync.agent.backoff import BackoffClock
from sync.agent.master.http1 import EndpointLostError
from sync.agent.status_writer import utc_now
from sync.contract.spec import MOST_SOURCES, Backoff
from sync.contract.status import Service, SourceUse

_T = TypeVar("_T")
Endpoint = TypeVar("Endpoint")
EndpointReport: TypeAlias = Callable[[Service, list[SourceUse]], None]
_REASON_CHARACTERS: Final = 300


def no_report(_: Service, __: list[SourceUse]) -> None:
    """Report to nobody."""


def by_any_name(work: Callable[[], _T]) -> _T:
    """Do `work`, and do it anew each time that the name in use dies and another one is left.

    Each name gets one turn, however far it came (one limiter may stand before all of them). Raises
    EndpointLostError where none is left: it is time to wait.
    """
    for _ in range(MOST_SOURCES - 1):
        try:
            return work()
        except EndpointLostError as lost:
            if not lost.others:
                raise
    return work()


@dataclass(eq=False)
class _Name(Generic[Endpoint]):
    """One name. since: in use, or skipped, since then. due: when to try again (monotonic).

    not_before: until when it asked not to be asked.
    """

    endpoint: Endpoint
    backoff: BackoffClock
    since: datetime | None = None
    reason: str = ""
    due: float = 0.0
    not_before: float = 0.0
    next_try_at: datetime | None = None
    # Failed in the work that is not done yet: not to be tried again for it before all others.
    failed: bool = False

    def skip(self, reason: str, now: float, at_least_seconds: float = 0) -> None:
        wait = self.backoff.after_failure(at_least_seconds)
        if not self.reason:
            self.since = utc_now()
        self.reason = reason[:_REASON_CHARACTERS] or "does not answer"
        self.due = now + wait
        self.not_before = now + at_least_seconds
        self.next_try_at = utc_now() + timedelta(seconds=wait)

    def restore(self) -> None:
        self.backoff.after_success()
        self.since, self.next_try_at, self.reason = None, None, ""
        self.not_before = 0.0


class MasterEndpoints(Generic[Endpoint]):
    """Chooses among the names of a service; threads may share it.

    count: how many there are. report: gets every change, for the status record.
    """

    def __init__(
        self,
        service: Service,
        endpoints: Sequence[Endpoint],
        backoff: Backoff,
        report: EndpointReport = no_report,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._service: Service = service
        self._names = [_Name(endpoint, BackoffClock(backoff)) for endpoint in endpoints]
        self.count = len(endpoints)
        self._report_to = report
        self._clock = clock
        self._lock = threading.Lock()
        self._current = self._names[0]
        self.choose()

    @property
    def current(self) -> Endpoint:
        """The name in use."""
        return self._current.endpoint

    def choose(self) -> Endpoint:
        """Begin anew with the most preferred name that is not skipped, or due again.

        Where all of them are skipped, each gets its turn before any is tried twice; but one that
        asked not to be asked yet is left out.
        """
        with self._lock:
            now = self._clock()
            # Of names that all asked for patience, the one that asked for the least.
            patient = min(self._names, key=lambda name: name.not_before)
            askable = [name for name in self._names if now >= name.not_before] or [patient]
            fresh = [name for name in askable if not name.failed]
            if not fresh:
                fresh = askable
                for name in self._names:
                    name.failed = False
            due = (name for name in fresh if not name.reason or now >= name.due)
            chosen = next(due, fresh[0])
            if chosen is not self._current or chosen.since is None:
                self._current = chosen
                # One that died is reported by the result of the attempt, not by the attempt.
                if not chosen.reason:
                    chosen.since = chosen.since or utc_now()
                    self._report()
            return chosen.endpoint

    def has_others(self) -> bool:
        """Return whether a name is left to go to when the one in use dies."""
        with self._lock:
            return self._has_others_than(self._current)

    def answered(self, *, settles: bool = True) -> None:
        """Note that the name in use answers.

        settles: and that the work is done, see `settle`.
        """
        if settles:
            self.settle()
        with self._lock:
            current = self._current
            changed = bool(current.reason)
            if changed:
                current.restore()
                current.since = utc_now()
            # A name that was in use before and did not die is merely not needed now.
            for name in self._names:
                if name is not current and not name.reason and name.since is not None:
                    name.since = None
                    changed = True
            if changed:
                self._report()

    def settle(self) -> None:
        """Note that the work that the names were tried for is done: each gets a turn again."""
        with self._lock:
            for name in self._names:
                name.failed = False

    def skip(self, endpoint: Endpoint, reason: str, at_least_seconds: float = 0) -> bool:
        """Note that a name died; returns whether another one is left to go to.

        at_least_seconds: for how long it asked not to be asked.
        """
        with self._lock:
            name = self._named(endpoint)
            name.skip(reason, self._clock(), at_least_seconds)
            name.failed = True
            self._report()
            return self._has_others_than(name)

    def preferred(self) -> list[tuple[Endpoint, float]]:
        """Return the names preferred to the one in use, and in how many seconds each is due."""
        with self._lock:
            now = self._clock()
            preferred = self._names[: self._names.index(self._current)]
            return [(name.endpoint, max(0.0, name.due - now)) for name in preferred]

    def attempted(self, endpoint: Endpoint, reason: str) -> None:
        """Note the result of trying a name that is skipped; an empty reason: it answers."""
        with self._lock:
            name = self._named(endpoint)
            if reason:
                name.skip(reason, self._clock())
            else:
                name.restore()
            self._report()

    def patience_seconds(self) -> float:
        """Return in how many seconds the first of the names may be asked again; 0: at once."""
        with self._lock:
            return max(0.0, min(name.not_before for name in self._names) - self._clock())

    def reasons(self) -> str:
        """Return why each name is skipped, after they all died."""
        with self._lock:
            each = "; ".join(f"{name.endpoint} ({name.reason})" for name in self._names)
            return f"none of the master's {self.count} names answers: {each}"

    def _has_others_than(self, name: _Name[Endpoint]) -> bool:
        now = self._clock()
        return any(
            other is not name and not other.failed and now >= other.not_before
            for other in self._names
        )

    def _named(self, endpoint: Endpoint) -> _Name[Endpoint]:
        return next(name for name in self._names if name.endpoint == endpoint)

    def _report(self) -> None:
        uses = [
            SourceUse(
                service=self._service,
                name=str(name.endpoint),
                in_use=name is self._current and not name.reason,
                since=name.since,
                reason=name.reason,
                next_try_at=name.next_try_at,
            )
            for name in self._names
        ]
        self._report_to(self._service, uses)
