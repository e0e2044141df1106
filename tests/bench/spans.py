"""Where a run of `pulumi` spends its time, from the calls that its servers in Python answered."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_FILE_VARIABLE: Final = "GRIDHUB_BENCH_SPANS"
_WATCHED: Final = Path(__file__).with_name("watched")
DYNAMIC: Final = "pulumi-python"
PROGRAM: Final = "program"


@dataclass(frozen=True)
class Span:
    """One call: of the `package` (PROGRAM is its language host), start and end in seconds.

    resource: the last part of the URN that the call is about, or nothing.
    """

    package: str
    method: str
    resource: str
    start: float
    end: float


def environment(file: Path) -> dict[str, str]:
    """Return the variables that have every call written to `file`."""
    path = os.pathsep.join(filter(None, [str(_WATCHED), os.environ.get("PYTHONPATH")]))
    return {_FILE_VARIABLE: str(file), "PYTHONPATH": path}


def read(file: Path) -> list[Span]:
    """Read what a run has written."""
    return [Span(**json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]


def covered_seconds(spans: list[Span]) -> float:
    """Return how long at least one of the spans lasted."""
    total, reached = 0.0, float("-inf")
    for span in sorted(spans, key=lambda span: span.start):
        total += max(0.0, span.end - max(span.start, reached))
        reached = max(reached, span.end)
    return total
