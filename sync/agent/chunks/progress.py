"""From counters to the status record: done, total, rate, ETA, lag."""

import time
from collections import deque
from dataclasses import dataclass
from typing import Final

from sync.contract.status import Amount, Lag

_WINDOW_SECONDS: Final = 10.0


@dataclass(frozen=True)
class Sample:
    """What was done at a moment (monotonic seconds)."""

    at: float
    items: int
    new_bytes: int


class Rate:
    """Items and bytes per second over the last ten seconds."""

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque()

    def add(self, sample: Sample) -> None:
        """Note what is done by now."""
        self._samples.append(sample)
        while len(self._samples) > 2 and self._samples[0].at < sample.at - _WINDOW_SECONDS:  # noqa: PLR2004
            self._samples.popleft()

    def per_second(self) -> tuple[float, float] | None:
        """Return (items, bytes) per second; None before the second sample."""
        if len(self._samples) < 2:  # noqa: PLR2004
            return None
        first, last = self._samples[0], self._samples[-1]
        seconds = max(1e-6, last.at - first.at)
        return (last.items - first.items) / seconds, (last.new_bytes - first.new_bytes) / seconds


def lag(done: Amount, total: Amount, caught_up_at: float | None) -> Lag:
    """How far behind: caught_up_at is the monotonic time at which nothing was missing last."""
    items = None
    size = None
    if done.items is not None and total.items is not None:
        items = max(0, total.items - done.items)
    if done.bytes is not None and total.bytes is not None:
        size = max(0, total.bytes - done.bytes)
    seconds = None if caught_up_at is None else max(0.0, time.monotonic() - caught_up_at)
    return Lag(items=items, bytes=size, seconds=seconds)


def eta_seconds(behind: Lag, rate: tuple[float, float] | None) -> float | None:
    """Seconds until the rest is copied at this rate; None where nobody can know."""
    if behind.items is None or rate is None or rate[0] <= 0:
        return None
    return behind.items / rate[0]
