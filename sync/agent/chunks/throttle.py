"""The bandwidth limit: a bucket that fills with time and empties with every batch."""

import time
from typing import Final

_BURST_SECONDS: Final = 0.25


class Throttle:
    """Admits about `bytes_per_second`; None admits everything."""

    def __init__(self, bytes_per_second: int | None) -> None:
        self._rate = bytes_per_second
        self._credit_bytes = 0.0
        self._filled_at = time.monotonic()

    def admit(self, count_bytes: int) -> bool:
        """Tell whether `count_bytes` may be asked for now, and count them if so."""
        if self._rate is None:
            return True
        now = time.monotonic()
        gained = (now - self._filled_at) * self._rate
        self._credit_bytes = min(self._credit_bytes + gained, self._rate * _BURST_SECONDS)
        self._filled_at = now
        if self._credit_bytes <= 0:
            return False
        # A batch may be larger than the burst: it is admitted and the debt waited out.
        self._credit_bytes -= count_bytes
        return True
