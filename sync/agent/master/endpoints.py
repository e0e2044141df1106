"""The names of one service of the master, in order of preference, and which one is in use.

A name that dies is passed over for a time that grows; the next one in order is used meanwhile. A
job changes names only where it begins anew (a pass, a session): what it does in between comes from
one of them.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Generic, TypeAlias, TypeVar

from sync.agent.schedule import BackoffClock
from sync.agent.status_writer import utc_now
from sync.contract.spec import Backoff
from sync.contract.status import Service, SourceUse

Place = TypeVar("Place")
Tell: TypeAlias = Callable[[Service, list[SourceUse]], None]
_REASON_CHARACTERS: Final = 300


def untold(_: Service, __: list[SourceUse]) -> None:
    """Tell nobody."""


@dataclass(eq=False)
class _Name(Generic[Place]):
    """One name. since: in use, or passed over, since then. due: when to try again (monotonic).

    not_before: until when it asked not to be asked.
    """

    place: Place
    backoff: BackoffClock
    since: datetime | None = None
    reason: str = ""
    due: float = 0.0
    not_before: float = 0.0
    next_try_at: datetime | None = None
    # Failed in what is still to be done: not to be tried again for it before all others.
    failed: bool = False

    def ready(self, now: float) -> bool:
        return not self.reason or now >= self.due

    def may_be_asked(self, now: float) -> bool:
        return now >= self.not_before

    def pass_over(self, reason: str, now: float, at_least_seconds: float = 0) -> None:
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


class Sources(Generic[Place]):
    """Chooses among the names of a service; threads may share it.

    tell: gets every change, for the status record.
    """

    def __init__(
        self,
        service: Service,
        places: Sequence[Place],
        backoff: Backoff,
        tell: Tell = untold,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._service: Service = service
        self._names = [_Name(place, BackoffClock(backoff)) for place in places]
        self._tell = tell
        self._clock = clock
        self._lock = threading.Lock()
        self._current = self._names[0]
        self.choose()

    @property
    def count(self) -> int:
        """How many names the service has."""
        return len(self._names)

    @property
    def current(self) -> Place:
        """The name in use."""
        return self._current.place

    def choose(self) -> Place:
        """Begin anew with the most preferred name that is not passed over, or due again.

        Where all of them are passed over, each gets its turn before any is tried twice; but one
        that asked not to be asked yet is left out.
        """
        with self._lock:
            now = self._clock()
            patient = min(self._names, key=lambda name: name.not_before)
            askable = [name for name in self._names if name.may_be_asked(now)] or [patient]
            fresh = [name for name in askable if not name.failed]
            if not fresh:
                fresh = askable
                for name in self._names:
                    name.failed = False
            chosen = next((name for name in fresh if name.ready(now)), fresh[0])
            if chosen is not self._current or chosen.since is None:
                self._current = chosen
                # One that died is told again by what comes of the try, not by the try.
                if not chosen.reason:
                    chosen.since = chosen.since or utc_now()
                    self._told()
            return chosen.place

    def has_others(self) -> bool:
        """Tell whether a name is left to go to when the one in use dies."""
        with self._lock:
            return self._others_than(self._current)

    def answered(self, *, settles: bool = True) -> None:
        """Note that the name in use answers.

        settles: and that this was all there was to do, so that each name may be tried for the next.
        """
        if settles:
            self.settle()
        with self._lock:
            current = self._current
            changed = bool(current.reason)
            if changed:
                current.restore()
                current.since = utc_now()
            for name in self._names:
                if name is not current and not name.reason and name.since is not None:
                    name.since = None
                    changed = True
            if changed:
                self._told()

    def settle(self) -> None:
        """Note that what the names were tried for is done: each may be tried for the next."""
        with self._lock:
            for name in self._names:
                name.failed = False

    def pass_over(self, place: Place, reason: str, at_least_seconds: float = 0) -> bool:
        """Note that a name died; returns whether another one is left to go to.

        at_least_seconds: for how long it asked not to be asked.
        """
        with self._lock:
            name = self._named(place)
            name.pass_over(reason, self._clock(), at_least_seconds)
            name.failed = True
            self._told()
            return self._others_than(name)

    def better(self) -> list[tuple[Place, float]]:
        """Return the names preferred to the one in use, and in how many seconds each is due."""
        with self._lock:
            now = self._clock()
            preferred = self._names[: self._names.index(self._current)]
            return [(name.place, max(0.0, name.due - now)) for name in preferred]

    def tried(self, place: Place, reason: str) -> None:
        """Note what came of trying a name that is passed over; an empty reason: it answers."""
        with self._lock:
            name = self._named(place)
            if reason:
                name.pass_over(reason, self._clock())
            else:
                name.restore()
            self._told()

    def patience_seconds(self) -> float:
        """Return in how many seconds the first of the names may be asked again; 0: at once."""
        with self._lock:
            return max(0.0, min(name.not_before for name in self._names) - self._clock())

    def reasons(self) -> str:
        """Say of each name why it is passed over, after they all died."""
        with self._lock:
            each = "; ".join(f"{name.place} ({name.reason})" for name in self._names)
            return f"none of the master's {len(self._names)} names answers: {each}"

    def _others_than(self, name: _Name[Place]) -> bool:
        now = self._clock()
        others = (other for other in self._names if other is not name)
        return any(not other.failed and other.may_be_asked(now) for other in others)

    def _named(self, place: Place) -> _Name[Place]:
        return next(name for name in self._names if name.place == place)

    def _told(self) -> None:
        uses = [
            SourceUse(
                service=self._service,
                name=str(name.place),
                in_use=name is self._current and not name.reason,
                since=name.since,
                reason=name.reason,
                next_try_at=name.next_try_at,
            )
            for name in self._names
        ]
        self._tell(self._service, uses)
