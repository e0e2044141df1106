"""What a mirror asks before it removes anything because its master seems to have dropped it.

A listing has no digest: a byte that a proxy, a disk or a bug turned over can rename an entry, or a
whole repository, and an empty or broken answer can look like a master without content. So:

1. A list of kernels that would remove a name is fetched once more: what either of both has stays.
   The users job asks for each new or moved link by its own name instead (docs/adr/0014).
2. A removal is also asked for by its own name and needs a 404 (`Absences`).
3. Only so much may vanish at once without the operator's word (`guard`), by age or retention too.
4. Nothing goes while the clocks of master and mirror disagree (sync.agent.clocks).
"""

import contextlib
from collections.abc import Callable, Collection, Hashable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from sync.agent.job import JobPaused
from sync.agent.master.client import HttpError, HttpMissingError, Master
from sync.contract.spec import JobSpec

# A master in trouble is not asked for thousands of names: after so many failures the rest waits.
_MOST_FAILURES: Final = 64
_AnyName = TypeVar("_AnyName", bound=Hashable)


@dataclass(frozen=True)
class Absences(Generic[_AnyName]):
    """Asks the master for names that a listing lacks; remembers what is gone while it stays so.

    path_of: what the master answers with 404 once a name is gone.
    """

    master: Master
    connections: int
    path_of: Callable[[_AnyName], str]
    _gone: set[_AnyName] = field(default_factory=set, init=False)
    _unanswered: set[_AnyName] = field(default_factory=set, init=False)

    def unconfirmed(self, absent: Collection[_AnyName]) -> dict[_AnyName, str]:
        """Return those of the absent names that may still be there, each with the reason."""
        self._gone.intersection_update(absent)
        unanswered = self._unanswered.intersection(absent)
        self._unanswered.clear()
        asked = [name for name in absent if name not in self._gone]
        if not asked:
            return {}
        failures: list[str] = []

        def ask(name: _AnyName) -> str:
            if len(failures) >= _MOST_FAILURES:
                return failures[-1]
            # One that failed before keeps the pass waiting no longer than it must.
            patience = self.master.briefly() if name in unanswered else contextlib.nullcontext()
            try:
                with patience:
                    self.master.head(self.path_of(name))
            except HttpMissingError:
                return ""
            except HttpError as error:
                self._unanswered.add(name)
                failures.append(f"not listed any more; whether it is gone is not known: {error}")
                return failures[-1]
            return "not listed any more, but still served by the master"

        with ThreadPoolExecutor(min(self.connections, len(asked))) as pool:
            answers = dict(zip(asked, pool.map(ask, asked), strict=True))
        self._gone.update(name for name, reason in answers.items() if not reason)
        return {name: reason for name, reason in answers.items() if reason}


@dataclass(frozen=True)
class Vanished:
    """What would be removed: `gone` of `known` names (or keys).

    listed: how many names the master lists, where that is asked: none is never plausible by itself.
    outlived: how many more go for their age, or as their retention ends.
    """

    gone: int
    known: int
    listed: int | None = None
    kind: str = "names"
    outlived: int = 0


def guard(spec: JobSpec, vanished: Vanished, confirmations_used: int, retry_seconds: float) -> bool:
    """Allow removals, or raise JobPaused.

    Returns True when they are allowed only by a removalConfirmation that was not used yet: then
    the caller records it as used.
    """
    doomed = vanished.gone + vanished.outlived
    if not doomed:
        return False
    allowed = max(spec.removal_floor_items, int(spec.removal_limit * vanished.known))
    if doomed <= allowed and vanished.listed != 0:
        return False
    if spec.removal_confirmation > confirmations_used:
        return True
    lists = "" if vanished.listed is None else f"it lists {vanished.listed}, and "
    outlived = ""
    if vanished.outlived:
        outlived = f", and {vanished.outlived} outlived their age or retention "
    raise JobPaused(
        f"the master no longer lists {vanished.gone} of {vanished.known} {vanished.kind} {outlived}"
        f"({lists}{allowed} may vanish at once): nothing is removed, the mirror goes on serving; "
        "if this is right, raise removalConfirmation by one, or raise removalLimit",
        retry_seconds,
    )
