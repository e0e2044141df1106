"""One budget of memory for each job: whatever comes from outside takes its bytes from it.

The limit of the job's container counts what all its processes take together, and the kernel ends
one of them past it: without a reason in the status, and again at the next try. So what a master
sends is taken from the budget before it is kept, by what it costs here and not by what it was on
the wire; what does not fit although nothing else is under way is refused with a reason.
"""

import contextlib
import threading
from collections import deque
from collections.abc import Iterator
from typing import Self

from sync.contract.job_memory import room_bytes
from sync.contract.spec import JobSpec


class OverBudgetError(Exception):
    """Something costs more memory than the job has, even if nothing else is under way."""


class BudgetClosedError(Exception):
    """Whoever would give back what is waited for has stopped."""


class Budget:
    """So many bytes, shared by all threads of a job; who waits for some is served in turn.

    setting: what gives it more, for the reason of a refusal.
    Nobody may wait for more while holding some: two that do so would wait for ever.
    """

    def __init__(self, total_bytes: int, setting: str = "limits.JOB.memoryMb") -> None:
        self.total_bytes = total_bytes
        self.setting = setting
        self._left = total_bytes
        self._waiting: deque[object] = deque()
        self._closed = False
        self._changed = threading.Condition()

    @classmethod
    def of(cls, spec: JobSpec, standing_bytes: int = 0) -> Self:
        """Return the budget of the job that the spec is for, by the limit of its container.

        standing_bytes: what is set aside for what needs no leave.
        """
        total_bytes = max(0, room_bytes(spec.memory_limit_mb) - standing_bytes)
        return cls(total_bytes, f"limits.{spec.job}.memoryMb")

    @property
    def left_bytes(self) -> int:
        """What nobody holds."""
        return self._left

    def require(self, size_bytes: int, what: str) -> None:
        """Raise OverBudgetError where so many bytes are more than there are in all."""
        if size_bytes > self.total_bytes:
            raise OverBudgetError(
                f"{what} takes {size_bytes} bytes of memory, and this job has room for "
                f"{self.total_bytes}; a higher {self.setting} gives it more"
            )

    def take(self, size_bytes: int) -> bool:
        """Take so many bytes if they are there at once; they are to be given back."""
        with self._changed:
            if self._waiting or size_bytes > self._left:
                return False
            self._left -= size_bytes
            return True

    def give(self, size_bytes: int) -> None:
        """Give back what was taken."""
        with self._changed:
            self._left += size_bytes
            self._changed.notify_all()

    def wait(self, size_bytes: int, what: str) -> None:
        """Take so many bytes, once others have given them back; they are to be given back.

        what: names what they are for. Raises OverBudgetError, BudgetClosedError.
        """
        self.require(size_bytes, what)
        turn = object()
        with self._changed:
            # In turn: a large one would never see so much free while small ones pass it.
            self._waiting.append(turn)
            try:
                self._changed.wait_for(
                    lambda: self._closed or (self._waiting[0] is turn and size_bytes <= self._left)
                )
                if self._closed:
                    raise BudgetClosedError
                self._left -= size_bytes
            finally:
                self._waiting.remove(turn)
                self._changed.notify_all()

    def close(self) -> None:
        """Let nobody wait any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @contextlib.contextmanager
    def hold(self, size_bytes: int, what: str) -> Iterator[None]:
        """Hold so many bytes during the block; waits and raises as `wait`."""
        self.wait(size_bytes, what)
        try:
            yield
        finally:
            self.give(size_bytes)


class Share:
    """What one thing that grows holds of a budget; to be closed when the thing is gone.

    free_bytes: how large it may be without taking any, as room for that is set aside.
    """

    def __init__(self, budget: Budget, free_bytes: int = 0) -> None:
        self._budget = budget
        self._free_bytes = free_bytes
        self._held_bytes = 0

    def grow(self, size_bytes: int) -> bool:
        """Hold what a thing of this size takes, if it is to be had at once."""
        wanted = size_bytes - self._free_bytes - self._held_bytes
        if wanted > 0:
            if not self._budget.take(wanted):
                return False
            self._held_bytes += wanted
        return True

    def close(self) -> None:
        """Give all of it back; more than once does no harm."""
        self._budget.give(self._held_bytes)
        self._held_bytes = 0
