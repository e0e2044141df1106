"""Token buckets: how many requests and bytes a second a job may ask of its master."""

import threading
import time
from collections.abc import Callable


class TokenBucket:
    """Hands out `rate` tokens a second, at most `burst` at once; shared by threads.

    clock: seconds, monotonic (tests give their own).
    """

    def __init__(
        self, rate: float, burst: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._tokens = burst
        self._filled_at = clock()
        self._lock = threading.Lock()

    def take(self, tokens: float) -> float:
        """Take `tokens` and return the seconds to wait before using them.

        The balance may become negative: later callers then wait for it, in the order they came.
        """
        with self._lock:
            now = self._clock()
            self._tokens = min(self._burst, self._tokens + (now - self._filled_at) * self._rate)
            self._filled_at = now
            self._tokens -= tokens
            return max(0.0, -self._tokens / self._rate)


def bandwidth(bytes_per_second: int | None) -> TokenBucket | None:
    """Return a job's bucket of bytes, which all of its connections share; None: no limit."""
    if bytes_per_second is None:
        return None
    return TokenBucket(bytes_per_second, max(bytes_per_second / 4, 1 << 16))
