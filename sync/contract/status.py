"""The status record: one JSON document per job, the only account of where a job stands.

The agent writes it atomically, as often as `freshness` promises; the provider and the command
line read it. Times are UTC. A number that is not known yet is null, never 0. Fields may be added
with a default, so that a record of the release before stays readable; none is renamed or removed.
"""

from typing import Any, Final, Literal, TypeAlias

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from sync.contract.layout import Job

Service: TypeAlias = Literal["hub", "bootstrap", "zdb"]
# What `up` waits for before it calls a job ready.
Ready: TypeAlias = Literal["started", "bootable", "first-pass", "in-sync"]
Phase: TypeAlias = Literal["starting", "snapshot", "following", "idle", "paused", "failed"]
_ONCE_WAITING_FOR_SPEC: Final = "waiting for spec.json"
NAMES_SHOWN: Final = 100
ERRORS_SHOWN: Final = 10


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Amount(_Record):
    """How much: items (chunks, flists or kernels) and bytes; null where it is not known."""

    items: int | None = None
    bytes: int | None = None


class Lag(Amount):
    """How far behind the master; all three are 0 when in sync, null before the first listing."""

    seconds: float | None = None


class JobError(_Record):
    """One thing that went wrong; `message` says what, where, and the remedy if there is one."""

    at: AwareDatetime
    message: str


class NameList(_Record):
    """How many names, and the first NAMES_SHOWN of them, sorted."""

    count: int = 0
    names: list[str] = Field(default_factory=list, max_length=NAMES_SHOWN)


class MasterIdentity(_Record):
    """Which master this job follows; a job refuses to go on when the identity changes.

    source: the name by which it is followed now. identity is opaque, the same under all of a
    master's names and stable over its restarts; null until the first contact.
    """

    source: str
    identity: str | None = None
    seen_at: AwareDatetime | None = None


class SourceUse(_Record):
    """One of a master's names, as the job sees it: in use, skipped, or not needed so far.

    since: since when it is in use or skipped. reason: why it is skipped, else empty.
    next_try_at: a name that is skipped is not tried before, unless all others die.
    """

    service: Service
    name: str
    in_use: bool = False
    since: AwareDatetime | None = None
    reason: str = ""
    next_try_at: AwareDatetime | None = None


class StatusRecord(_Record):
    """Where a job stands. Field units are in the names; see the module for times and nulls.

    phase: starting (no master contact yet), snapshot (first or catching-up pass), following
    (flists: tailing the master), idle (users, kernels: waiting for next_at), paused (by the
    operator, or by itself until `reason` goes away), failed (needs a person; `reason` says what
    for, and the mirror goes on serving). waiting_for: spec where there is no spec.json (yet, or
    any more: then the job has stopped). started_at: of the last pass or session.
    bootable_at: first time at which an official flist (users), a net link (kernels) or every
    chunk of the snapshot (flists) was served. first_pass_at: end of the first complete pass.
    details: job-specific counters and facts, sorted by name. sources: the master's names by
    service, in order of preference.
    """

    version: Literal[1] = 1
    job: Job
    spec_digest: str | None
    agent_version: str
    phase: Phase
    reason: str = ""
    waiting_for: Literal["spec"] | None = None
    started_at: AwareDatetime
    updated_at: AwareDatetime
    ended_at: AwareDatetime | None = None
    next_at: AwareDatetime | None = None
    bootable_at: AwareDatetime | None = None
    first_pass_at: AwareDatetime | None = None
    last_success_at: AwareDatetime | None = None
    done: Amount = Amount()
    total: Amount = Amount()
    cursor: str | None = None
    lag: Lag = Lag()
    rate_items_per_second: float | None = None
    rate_bytes_per_second: float | None = None
    eta_seconds: float | None = None
    retries: int = 0
    refused: NameList = NameList()
    broken: NameList = NameList()
    errors: list[JobError] = Field(default_factory=list, max_length=ERRORS_SHOWN)
    master: MasterIdentity
    sources: list[SourceUse] = Field(default_factory=list)
    details: dict[str, int | float | str] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _read_waiting_from_reason(cls, data: Any) -> Any:
        """Read a record of the release before, whose reason says that it waits for its spec."""
        if isinstance(data, dict) and data.get("reason") == _ONCE_WAITING_FOR_SPEC:
            return {"waiting_for": "spec", **data}
        return data
