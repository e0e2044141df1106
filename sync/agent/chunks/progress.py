"""From counters to the status record: done, total, rate, ETA, lag."""

import time
from collections import deque
from typing import Final

from sync.agent.chunks.checkpoint import Checkpoint
from sync.agent.zdb.namespace_info import NamespaceInfo
from sync.contract.status import Amount, Lag

_WINDOW_SECONDS: Final = 10.0


class Rate:
    """Items and bytes per second over the last ten seconds."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int, int]] = deque()

    def add(self, at: float, items: int, new_bytes: int) -> None:
        """Note what is done by now (monotonic seconds)."""
        self._samples.append((at, items, new_bytes))
        while len(self._samples) > 2 and self._samples[0][0] < at - _WINDOW_SECONDS:  # noqa: PLR2004
            self._samples.popleft()

    def per_second(self) -> tuple[float, float] | None:
        """Return (items, bytes) per second; None before the second sample."""
        if len(self._samples) < 2:  # noqa: PLR2004
            return None
        (began, items, new_bytes), (ended, *done) = self._samples[0], self._samples[-1]
        seconds = max(1e-6, ended - began)
        return (done[0] - items) / seconds, (done[1] - new_bytes) / seconds


def progress(
    checkpoint: Checkpoint,
    master: NamespaceInfo,
    rate: Rate,
    caught_up_at: float | None,
    *,
    following: bool,
) -> dict[str, object]:
    """Return the fields of the status record that say how far the mirror is.

    caught_up_at: when nothing was missing last (monotonic). following: nothing is missing now.
    """
    items, size_bytes, given_up = checkpoint.done_items, checkpoint.done_bytes, 0
    if following:
        # What the master has and does not deliver is waited for by nobody.
        given_up = min(checkpoint.lacking_items, master.entries)
        items, size_bytes = master.entries - given_up, master.data_size_bytes
    # The counts are of listed entries, of which the master may have deleted some since.
    items, size_bytes = min(items, master.entries), min(size_bytes, master.data_size_bytes)
    lag = Lag(
        items=master.entries - items - given_up,
        bytes=master.data_size_bytes - size_bytes,
        seconds=None if caught_up_at is None else max(0.0, time.monotonic() - caught_up_at),
    )
    per_second = rate.per_second()
    eta_seconds = None
    if per_second and per_second[0] > 0:
        eta_seconds = (master.entries - items) / per_second[0]
    return {
        "done": Amount(items=items, bytes=size_bytes),
        "total": Amount(items=master.entries, bytes=master.data_size_bytes),
        "lag": lag,
        "rate_items_per_second": per_second[0] if per_second else None,
        "rate_bytes_per_second": per_second[1] if per_second else None,
        "eta_seconds": eta_seconds,
    }
