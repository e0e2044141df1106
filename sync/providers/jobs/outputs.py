"""A job's outputs: its state in words that a reviewer of a preview understands."""

import json
from collections.abc import Mapping
from typing import Final

from pydantic import Field
from pydantic.alias_generators import to_camel
from rich.filesize import decimal

from sync.contract.layout import Job
from sync.contract.status import StatusRecord
from sync.providers.base import Model
from sync.providers.jobs.inputs import JobInputs
from sync.providers.jobs.trouble import container_words, trouble
from sync.providers.jobs.view import JobsView

_ITEMS: Final[Mapping[Job, str]] = {"users": "flists", "kernels": "kernels", "flists": "chunks"}

# The output with the whole record: times and counters that move while nothing changes. Pulumi keeps
# keys that begin with two underscores in the state and shows them in no diff (pulumi:
# sdk/go/common/resource, IsInternalPropertyKey).
RECORD: Final = "__record"


class JobOutputs(Model):
    """What the state has of a job besides its inputs.

    ready_state: what was waited for, and whether it was reached. spec_drift: how the spec on the
    host differs, else empty. healthy, reason, refused, broken: what a person must know of.
    summary: a line that moves with the mirror. record: the whole status record, its keys in
    camelCase, `phase` and `reason` as judged here, `container` in words.
    """

    ready_state: str | None = None
    spec_drift: str | None = None
    healthy: bool | None = None
    reason: str | None = None
    summary: str | None = None
    running_agent: str | None = None
    refused: dict[str, object] | None = None
    broken: dict[str, object] | None = None
    record: dict[str, object] | None = Field(default=None, alias=RECORD)


def _amount(done: int | None, total: int | None, unit: str) -> str:
    if done is None:
        return f"no {unit} yet"
    return f"{done} {unit}" if total is None else f"{done} of {total} {unit}"


def summary(job: Job, record: StatusRecord) -> str:
    """One line: phase, done of total, lag, refused and broken names."""
    words = [f"{record.phase}{f' ({record.reason})' if record.reason else ''}"]
    words.append(_amount(record.done.items, record.total.items, _ITEMS[job]))
    if record.done.bytes is not None:
        words.append(decimal(record.done.bytes))
    # Before the first contact with the master nobody knows how far behind it is by now.
    if record.lag.items is not None and record.phase != "starting":
        behind = f"{record.lag.items} {_ITEMS[job]} behind"
        words.append(behind if record.lag.items else "in sync")
    for kind, names in (("refused", record.refused), ("broken", record.broken)):
        if names.count:
            words.append(f"{names.count} {kind}")
    over = [use for use in record.sources if use.reason and not use.in_use]
    words += [f"{use.service} {use.name} skipped" for use in over]
    return ", ".join(words)


def outputs(inputs: JobInputs, seen: JobsView, ready_state: str | None) -> JobOutputs:
    """Return the outputs of a job's resource: its status record, with a verdict in words."""
    files, container = seen.files[inputs.job], seen.containers.get(inputs.container_name)
    record: dict[str, object] = {}
    words = None
    if files.record is not None:
        record, words = _shown(files.record), summary(inputs.job, files.record)
    wrong = trouble(files, container, seen.now)
    if wrong is not None:
        says_so_itself = record.get("phase") == "failed" and wrong.phase == "failed"
        if not says_so_itself:
            words = f"{wrong.words}; before that: {words}" if words else wrong.words
        record |= {"phase": wrong.phase, "reason": wrong.words}
    shown = {key: record.get(key) for key in ("reason", "runningAgent", "refused", "broken")}
    record["container"] = container_words(container)
    drift = "" if files.spec == inputs.spec else "the spec on the host was changed"
    judged = {"readyState": ready_state, "specDrift": drift, "healthy": wrong is None}
    return JobOutputs.model_validate({**shown, **judged, "summary": words, RECORD: record})


def _shown(record: StatusRecord) -> dict[str, object]:
    data = json.loads(
        record.model_dump_json(exclude={"agent_version", "details"}),
        object_hook=lambda found: {to_camel(key): value for key, value in found.items()},
        parse_float=_rounded,
    )
    return {
        **data,
        "runningAgent": record.agent_version,
        "errors": [f"{error['at']} {error['message']}" for error in data["errors"]],
        # Their names are the job's own.
        "details": json.loads(json.dumps(record.details), parse_float=_rounded),
    }


def _rounded(number: str) -> float:
    # Thousandths (of a second: milliseconds): more is noise in an output.
    return round(float(number), 3)
