"""What flists under way may take: memory for reading them and for their keys, and scratch disk.

Both are waited for where others have them, and what would not fit alone is refused with a reason.
"""

from pathlib import Path
from typing import Final

from sync.agent.budget import Budget
from sync.agent.disk_room import DiskRoom
from sync.agent.flist.reader_pool import READER_BYTES, USUAL, Granted, ReaderPool
from sync.contract.job_memory import LEAST_READING_BYTES, PAYLOADS_BYTES

MIB: Final = 1 << 20
# Keys are there packed in their groups, as one row, in the database's copy of that, and a slice of
# them as objects.
_KEY_COPIES: Final = 4
_READER_PART: Final = 0.6
# Of a database: itself, and the flist that is packed of it.
SCRATCH_COPIES: Final = 2


class HeldMemory:
    """Memory that a flist holds until it is published; given back more than once does no harm."""

    def __init__(self, budget: Budget | None = None, size_bytes: int = 0) -> None:
        self._budget = budget
        self._size_bytes = size_bytes

    def shrink(self, size_bytes: int) -> None:
        """Give back all but so many bytes."""
        if self._budget is not None and size_bytes < self._size_bytes:
            self._budget.give(self._size_bytes - size_bytes)
            self._size_bytes = size_bytes

    def release(self) -> None:
        """Give back all of it."""
        self.shrink(0)


def held_by_keys(cost_bytes: int) -> int:
    """Return what chunk keys take until their flist is published; cost_bytes: of their groups."""
    return _KEY_COPIES * cost_bytes


def _cost(grant: Granted) -> int:
    return grant.reader_bytes + held_by_keys(grant.key_bytes)


class WorkRoom(DiskRoom):
    """Memory and scratch disk for the flists of one pass; threads may share it."""

    def __init__(self, folder: Path, floor_bytes: int) -> None:
        super().__init__(folder, floor_bytes)
        self._memory = Budget(LEAST_READING_BYTES)
        self.usual = self.most = USUAL

    def begin(self, memory: Budget, names_bytes: int, readers: ReaderPool) -> None:
        """Begin a pass, in which names take so much of the job's memory; nothing is under way."""
        left = max(LEAST_READING_BYTES, memory.total_bytes - names_bytes - PAYLOADS_BYTES)
        readers.limit(left // 2 // (READER_BYTES + _cost(USUAL)))
        left = max(LEAST_READING_BYTES, left - readers.most * READER_BYTES)
        self._memory = Budget(left, memory.setting)
        reader = int(left * _READER_PART)
        self.most = Granted(reader, (left - reader) // _KEY_COPIES, 0)
        self.usual = USUAL if _cost(USUAL) <= left else self.most

    def close(self) -> None:
        """End the pass: nobody waits any more."""
        self._memory.close()

    def hold(self, grant: Granted) -> HeldMemory:
        """Hold the memory of a grant. Raises OverBudgetError, BudgetClosedError."""
        size = _cost(grant)
        self._memory.wait(size, "a flist")
        return HeldMemory(self._memory, size)

    def refusal(self) -> str:
        """Return why a flist is refused that even all of the memory is too little for."""
        return (
            f"needs more than the {_cost(self.most)} bytes of memory that this job has to read it; "
            f"a higher {self._memory.setting} gives it more"
        )

    def usual_scratch_bytes(self) -> int:
        """Return how large a database may be for which the disk is not asked in particular."""
        with self._disk:
            return min(USUAL.scratch_bytes, self._free_bytes() // SCRATCH_COPIES)
