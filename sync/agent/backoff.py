"""How long to wait after a failure."""

import random
from dataclasses import dataclass, field

from sync.contract.spec import Backoff


@dataclass
class BackoffClock:
    """Seconds to wait after each failure in a row: doubled up to the longest, half of it random."""

    backoff: Backoff
    failures: int = 0
    chance: random.Random = field(default_factory=random.SystemRandom)

    def after_failure(self, at_least_seconds: float = 0) -> float:
        """Count a failure and return the wait. at_least_seconds: the master's Retry-After."""
        doubled = self.backoff.first_seconds * 2.0 ** min(self.failures, 30)
        self.failures += 1
        wait = min(doubled, self.backoff.longest_seconds)
        return max(at_least_seconds, wait * (0.5 + self.chance.random() / 2))

    def after_success(self) -> None:
        """Start again from the first wait."""
        self.failures = 0
