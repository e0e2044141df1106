"""Token buckets: how many requests and bytes a second a job may ask of its master."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(eq=False)
class TokenBucket:
    """Hands out `rate` tokens a second, at most `burst` at once; shared by threads.

    clock: seconds, monotonic (tests give their own). full: there is a burst at the start.
    """

    rate: float
    burst: float
    clock: Callable[[], float] = time.monotonic
    full: bool = True

    def __post_init__(self) -> None:
        self._tokens = self.burst if self.full else 0.0
        self._filled_at = self.clock()
        self._lock = threading.Lock()

    def take(self, tokens: float) -> float:
        """Take `tokens` and return the seconds to wait before using them.

        The balance may become negative: later callers then wait for it, in the order they came.
        """
        with self._lock:
            self._fill()
            self._tokens -= tokens
            return max(0.0, -self._tokens / self.rate)

    def admit(self, tokens: float) -> bool:
        """Take `tokens` if the balance is positive; for those who cannot wait.

        More than the burst is admitted at once and the debt waited out.
        """
        with self._lock:
            self._fill()
            if self._tokens <= 0:
                return False
            self._tokens -= tokens
            return True

    def _fill(self) -> None:
        now = self.clock()
        self._tokens = min(self.burst, self._tokens + (now - self._filled_at) * self.rate)
        self._filled_at = now


def bandwidth(bytes_per_second: int | None) -> TokenBucket | None:
    """Return a job's bucket of bytes, which all of its connections share; None: no limit."""
    if bytes_per_second is None:
        return None
    return TokenBucket(bytes_per_second, max(bytes_per_second / 4, 1 << 16))


def batch_bandwidth(bytes_per_second: int | None) -> TokenBucket | None:
    """Return the bucket of the chunk copy, which asks it for each batch; None: no limit."""
    if bytes_per_second is None:
        return None
    return TokenBucket(bytes_per_second, bytes_per_second / 4, full=False)
