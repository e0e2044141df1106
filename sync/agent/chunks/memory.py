"""How one session shares out the memory of the job's container."""

from dataclasses import dataclass
from typing import Final, Self

from sync.agent.budget import Budget, Share
from sync.agent.zdb.protocol import MAX_PAYLOAD_BYTES
from sync.contract import job_memory
from sync.contract.spec import FlistsSpec

# A reply to plain keys that were overwritten since they were listed may be as large as it gets.
_LARGEST_PLAIN_REPLY_BYTES: Final = 128 << 20
_FRAME_BYTES: Final = 64


@dataclass(frozen=True)
class SessionMemory:
    """What pages of the listing, and replies with payloads, take their bytes from.

    Both have room set aside for what 0-dbs usually send; the budget is for what is larger.
    page_bytes: what one page may take.
    """

    budget: Budget
    page_bytes: int

    @classmethod
    def of(cls, spec: FlistsSpec) -> Self:
        """Return the memory of a session of this job."""
        limit_mb = spec.memory_limit_mb
        standing_bytes = job_memory.flists_standing_bytes(spec, limit_mb)
        page_bytes = job_memory.largest_page_bytes(limit_mb)
        return cls(Budget.of(spec, standing_bytes), page_bytes)

    def page(self) -> Share:
        """Return what a page holds that is being received or copied."""
        return Share(self.budget, job_memory.PAGE_BYTES)

    def reply(self) -> Share:
        """Return what a reply with payloads holds that is being received or stored."""
        return Share(self.budget, job_memory.REPLY_BYTES)

    @property
    def plain_keys(self) -> int:
        """How many payloads may come together whose lengths are not known: one at least."""
        room_bytes = min(_LARGEST_PLAIN_REPLY_BYTES, self.budget.total_bytes)
        return max(1, room_bytes // (MAX_PAYLOAD_BYTES + _FRAME_BYTES))
