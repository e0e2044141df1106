"""What a case is: one kind of large thing, in growing sizes, and how its end is told."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sync.contract.layout import Job
from sync.contract.status import StatusRecord

# What a master's size stands for: the fields of the job's spec, and what tells how it ended.
Outcome = Callable[[StatusRecord], str | None]
ACCEPTED = "accepted"


@dataclass(frozen=True)
class Trial:
    """One size: what the spec says of it; outcome: ACCEPTED, or the reason of the refusal."""

    settings: dict[str, Any]
    outcome: Outcome


@dataclass(frozen=True)
class Case:
    """One kind for one job: `serve` makes the master of a size, in a folder of its own."""

    job: Job
    kind: str
    sizes: Sequence[int]
    serve: Callable[[int, Path], AbstractContextManager[Trial]]
    seconds: float = 120


def refused_or(done: Callable[[StatusRecord], bool]) -> Outcome:
    """Return an outcome: accepted once `done`, refused where the job says why not."""

    def outcome(record: StatusRecord) -> str | None:
        if done(record):
            return ACCEPTED
        if record.phase in {"failed", "paused"}:
            return record.reason
        if record.broken.count:
            return record.broken.names[0]
        return record.errors[-1].message if record.errors else None

    return outcome
