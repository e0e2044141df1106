"""Names that the master lists and does not deliver: set aside, so that one hinders no other.

A pass in which something failed is incomplete, and the next one follows within seconds. What fails
there still is quarantined: named in `broken` with its reason, left out of the passes, and tried
again at intervals that grow. Such a pass is complete: what was served of the name before stays, as
do the chunks that it needs. Nothing is quarantined where the master itself seems to be in trouble.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Final

from sync.agent.job import PassIncompleteError
from sync.agent.master.client import HttpError, Master
from sync.agent.status_writer import StatusWriter
from sync.contract import spec as contract
from sync.contract.names import bounded
from sync.contract.spec import KernelsSpec, UsersSpec
from sync.contract.state_db import WAL, StateDb

_LONGEST_SECONDS: Final = 3600.0
_ERRORS_NAMED: Final = 10
# Whether the pass before was incomplete, and under which spec the names were last tried.
_INCOMPLETE: Final = "pass_incomplete"
_SPEC: Final = "quarantine_spec"
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS quarantine(     -- columns in the order of QuarantineRow's fields
  name TEXT PRIMARY KEY, listed_as TEXT, reason TEXT, failures INTEGER, next_try_at REAL
) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class QuarantineRow:
    """A quarantined name: what the master listed of it, and why and how often in a row it failed.

    next_try_at: unix seconds; 0: in the next pass.
    """

    name: str
    listed_as: str
    reason: str
    failures: int
    next_try_at: float


class QuarantineDb(StateDb):
    """A job's state database, with the table of its quarantined names."""

    def __init__(self, path: Path, schema: str, pragmas: tuple[str, ...] = WAL) -> None:
        super().__init__(path, _SCHEMA + schema, pragmas)

    def held(self) -> dict[str, QuarantineRow]:
        """Return every quarantined name."""
        rows = self._db.execute("SELECT * FROM quarantine")
        return {row[0]: QuarantineRow(*row) for row in rows}

    def put_held(self, held: QuarantineRow) -> None:
        """Insert or replace one."""
        self._put("quarantine", *astuple(held))

    def delete_held(self, name: str) -> None:
        """Delete one."""
        self._delete("quarantine", name=name)

    def try_all_again(self) -> None:
        """Have each of them tried in the next pass."""
        self._db.execute("UPDATE quarantine SET next_try_at=0")


class Quarantine:
    """The quarantined names of a job, as its engine uses them: begin, left out or trying, settle.

    All is called by the thread of the pass, but for `trying`, which the threads share that ask.
    """

    def __init__(
        self, spec: UsersSpec | KernelsSpec, state_db: QuarantineDb, master: Master
    ) -> None:
        self._db = state_db
        self._master = master
        self._first_seconds = spec.backoff.first_seconds
        # Each that fails costs its time-out: after so many the rest waits for the next pass.
        self._most_failures = spec.http.connections
        digest = contract.digest(spec)
        if state_db.text(_SPEC) != digest:
            # The operator may have changed just what it takes.
            with state_db.transaction():
                state_db.try_all_again()
                state_db.set_text(_SPEC, digest)
        self._held: dict[str, QuarantineRow] = {}
        self._due: set[str] = set()
        self._tried: set[str] = set()
        self._failed: set[str] = set()

    def begin(self, listed_as: Callable[[str], str | None]) -> None:
        """Begin a pass; listed_as: what the master lists of a name, None where it does not.

        Names that are listed no more are forgotten; those listed otherwise are due.
        """
        held, now = self._db.held(), time.time()
        listed = {name: listed_as(name) for name in held}
        gone = [name for name, what in listed.items() if what is None]
        if gone:
            with self._db.transaction():
                for name in gone:
                    self._db.delete_held(name)
        self._held = {name: one for name, one in held.items() if name not in gone}
        # A clock that was wrong before must not keep a name away for years.
        soon = now + max(_LONGEST_SECONDS, self._first_seconds)
        self._due = {
            name
            for name, one in self._held.items()
            if not now < one.next_try_at <= soon or one.listed_as != listed[name]
        }
        self._listed_as = listed_as
        self._tried, self._failed = set(), set()

    def __contains__(self, name: object) -> bool:
        return name in self._held

    def __len__(self) -> int:
        return len(self._held)

    def leaves_out(self, name: str) -> bool:
        """Return whether a name is not to be tried in this pass."""
        return name in self._held and name not in self._due

    def reasons(self) -> dict[str, str]:
        """Return why each name is held."""
        return {name: held.reason for name, held in self._held.items()}

    @contextlib.contextmanager
    def trying(self, name: str) -> Iterator[None]:
        """Ask for a name within it: once and briefly where it is held, so that no other waits.

        Raises HttpError, without asking where enough of those that are held failed again.
        """
        held = self._held.get(name)
        if held is None:
            yield
            return
        if len(self._failed) >= self._most_failures:
            raise HttpError(held.reason, retry=False)
        self._tried.add(name)
        try:
            with self._master.briefly():
                yield
        except HttpError:
            self._failed.add(name)
            raise

    def settle(
        self,
        status: StatusWriter,
        failures: Mapping[str, str],
        listed: int,
        is_well: Callable[[], bool],
    ) -> None:
        """End a pass; failures: by name, with the error. listed: how many names the master lists.

        is_well: asks the master for what it delivered before. Raises PassIncompleteError where the
        pass does not count as complete.
        """
        new = {name: reason for name, reason in failures.items() if name not in self._held}
        again = {name: failures[name] for name in self._tried & failures.keys()}
        messages = [f"{name}: {reason}" for name, reason in new.items()]
        for message in messages[:_ERRORS_NAMED]:
            status.error(message)
        first_time = bool(new) and not self._db.number(_INCOMPLETE)
        # One that fails alone and one of a master that fails as a whole look alike.
        most_fail = 2 * (len(new) + len(self._held)) > listed
        if new and (first_time or most_fail or not is_well()):
            self._db.set_number(_INCOMPLETE, 1)
            raise PassIncompleteError(f"{len(messages)} failed, the first: {messages[0]}")
        with self._db.transaction():
            # Also those that needed no trial: they came by another way.
            self._release(self._due - failures.keys())
            for name, reason in (new | again).items():
                self._hold(name, reason)
            self._db.set_number(_INCOMPLETE, 0)

    def next_try_seconds(self) -> float | None:
        """Return in how many seconds the next name is due; None where none will be."""
        now = time.time()
        waits = (held.next_try_at - now for held in self._held.values())
        return min((wait for wait in waits if wait > 0), default=None)

    def _release(self, names: set[str]) -> None:
        for name in names:
            self._db.delete_held(name)
            del self._held[name]
        if names:
            # Something is mended there, and what one name waits for may be another.
            self._db.try_all_again()

    def _hold(self, name: str, reason: str) -> None:
        before = self._held.get(name)
        failures = before.failures + 1 if before else 1
        longest = max(_LONGEST_SECONDS, self._first_seconds)
        wait = min(self._first_seconds * 2.0 ** min(failures - 1, 30), longest)
        held = QuarantineRow(
            name, self._listed_as(name) or "", bounded(reason), failures, time.time() + wait
        )
        self._held[name] = held
        self._db.put_held(held)
