"""What time it is, before anything is removed because of its age.

A host whose clock jumped (a dead battery, a wrong time server) would see everything outlive its
age at once. So age and retention count by the master's clock, the Date of its answers (RFC 9110,
6.6.1), and nothing is removed while the two clocks disagree: no jump of one of them removes a name.
"""

import time
from dataclasses import dataclass, field
from typing import Final

DAY_SECONDS: Final = 86_400.0
# 2020: nobody mirrored before. A host whose battery is dead begins in 1970, or when it was built.
_EARLIEST_SECONDS: Final = 1_577_836_800.0


def _here() -> float:
    return time.time()


@dataclass(frozen=True)
class Clocks:
    """The two clocks when the master's listing came, in unix seconds.

    master_seconds: None where the master did not say it.
    """

    master_seconds: float | None = None
    here_seconds: float = field(default_factory=_here)

    @property
    def fault(self) -> str:
        """Why nothing may be removed, with the remedy; empty where the clocks agree."""
        if self.master_seconds is None:
            return ""
        days = (self.here_seconds - self.master_seconds) / DAY_SECONDS
        if abs(days) <= 1:
            return ""
        side = "ahead of" if days > 0 else "behind"
        return (
            f"removals are paused: this host's clock is {abs(days):.0f} days {side} the master's; "
            "set the one that is wrong"
        )

    def is_older(self, since_seconds: float, days: float) -> bool:
        """Return whether a time is so many days ago; False while that is not known for sure."""
        if self.master_seconds is None or self.fault:
            return False
        return self.master_seconds - since_seconds >= days * DAY_SECONDS

    def started(self, since_seconds: float | None) -> float | None:
        """Return since when a name is retained, from now on where nobody noted it; None: unknown.

        A time to come, or long past, was noted by a clock that was wrong: it counts from now on.
        """
        now = None if self.fault else self.master_seconds
        if now is None:
            return since_seconds
        if since_seconds is None or not _EARLIEST_SECONDS <= since_seconds <= now + DAY_SECONDS:
            return now
        return since_seconds
