"""The status record: one JSON document per job, the only account of where a job stands.

The agent writes it atomically, as often as `freshness` promises; the provider and the command
line read it. Times are UTC. A number that is not known yet is null, never 0. Fields may be added
with a default, so that a record of the release before stays readable; none is renamed or removed.

Whatever stands in it can be written, kept in a stack's state and shown on a terminal: each text is
cleaned and bounded here, where it comes in, by whoever makes or reads a record.
"""

import math
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)

from sync.contract.layout import Job
from sync.contract.names import bounded

Service: TypeAlias = Literal["hub", "bootstrap", "zdb"]
# What `up` waits for before it calls a job ready.
Ready: TypeAlias = Literal["started", "bootable", "first-pass", "in-sync"]
Phase: TypeAlias = Literal["starting", "snapshot", "following", "idle", "paused", "failed"]
_ONCE_WAITING_FOR_SPEC: Final = "waiting for spec.json"
NAMES_SHOWN: Final = 100
ERRORS_SHOWN: Final = 10
_LONGEST_ERROR: Final = 500
_LONGEST_DETAIL: Final = 200
_MOST_DETAILS: Final = 100
_MOST_SOURCES: Final = 24


def _kept(value: Any) -> Any:
    return bounded(value) if isinstance(value, str) else value


def _kept_error(value: Any) -> Any:
    return bounded(value, _LONGEST_ERROR) if isinstance(value, str) else value


def _kept_detail(value: Any) -> Any:
    # JSON has no number for these, and null is none that a record may hold here.
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return bounded(value, _LONGEST_DETAIL) if isinstance(value, str) else value


# Printable, and no longer than a person reads: see `bounded`.
Text: TypeAlias = Annotated[str, BeforeValidator(_kept)]
ErrorText: TypeAlias = Annotated[str, BeforeValidator(_kept_error)]
Detail: TypeAlias = Annotated[int | float | str, BeforeValidator(_kept_detail)]
DetailName: TypeAlias = Annotated[str, BeforeValidator(_kept_detail)]


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
    message: ErrorText


class NameList(_Record):
    """How many names, and the first NAMES_SHOWN of them, sorted."""

    count: int = 0
    names: list[Text] = Field(default_factory=list, max_length=NAMES_SHOWN)


class MasterIdentity(_Record):
    """Which master this job follows; a job refuses to go on when the identity changes.

    source: the name by which it is followed now. identity is opaque, the same under all of a
    master's names and stable over its restarts; null until the first contact.
    """

    source: Text
    identity: Text | None = None
    seen_at: AwareDatetime | None = None


class SourceUse(_Record):
    """One of a master's names, as the job sees it: in use, skipped, or not needed so far.

    since: since when it is in use or skipped. reason: why it is skipped, else empty.
    next_try_at: a name that is skipped is not tried before, unless all others die.
    """

    service: Service
    name: Text
    in_use: bool = False
    since: AwareDatetime | None = None
    reason: Text = ""
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
    spec_digest: Text | None
    agent_version: Text
    phase: Phase
    reason: Text = ""
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
    cursor: Text | None = None
    lag: Lag = Lag()
    rate_items_per_second: float | None = None
    rate_bytes_per_second: float | None = None
    eta_seconds: float | None = None
    retries: int = 0
    refused: NameList = NameList()
    broken: NameList = NameList()
    errors: list[JobError] = Field(default_factory=list, max_length=ERRORS_SHOWN)
    master: MasterIdentity
    sources: list[SourceUse] = Field(default_factory=list, max_length=_MOST_SOURCES)
    details: dict[DetailName, Detail] = Field(default_factory=dict, max_length=_MOST_DETAILS)

    @model_validator(mode="before")
    @classmethod
    def _read_waiting_from_reason(cls, data: Any) -> Any:
        """Read a record of the release before, whose reason says that it waits for its spec."""
        if isinstance(data, dict) and data.get("reason") == _ONCE_WAITING_FOR_SPEC:
            return {"waiting_for": "spec", **data}
        return data
