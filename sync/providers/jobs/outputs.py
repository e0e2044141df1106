"""A job's recorded state in words that a reviewer of a preview understands."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sync.contract.layout import Job
from sync.contract.status import StatusRecord, is_stalled
from sync.providers.jobs.view import ContainerState, JobFiles, JobsView

_ITEMS: Final[Mapping[Job, str]] = {"users": "flists", "kernels": "kernels", "flists": "chunks"}
_UNITS: Final = ("B", "kB", "MB", "GB", "TB")
_THOUSAND: Final = 1000

# The output with the whole record: times and counters that move while nothing changes. Pulumi keeps
# keys that begin with two underscores in the state and shows them in no diff (pulumi:
# sdk/go/common/resource, IsInternalPropertyKey).
RECORD: Final = "__record"
# Outputs that JobProvider judges by what the stack asked for; the others are seen on the host.
JUDGED: Final = ("readyState", "specDrift")
# What a reviewer sees of a job: it changes only when that matters, but for the one-line summary.
SHOWN: Final = ("healthy", "reason", "summary", "runningAgent", "refused", "broken")
RECORDED: Final = (*JUDGED, *SHOWN, RECORD)


def bytes_in_words(count: float) -> str:
    """1234567 is `1.2 MB` (decimal units)."""
    amount = float(count)
    for unit in _UNITS:
        if amount < _THOUSAND or unit == _UNITS[-1]:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= _THOUSAND
    return f"{count} B"


def _amount(done: int | None, total: int | None, unit: str) -> str:
    if done is None:
        return f"no {unit} yet"
    return f"{done} {unit}" if total is None else f"{done} of {total} {unit}"


def summary(job: Job, record: StatusRecord) -> str:
    """One line: phase, done of total, lag, refused and broken names."""
    words = [f"{record.phase}{f' ({record.reason})' if record.reason else ''}"]
    words.append(_amount(record.done.items, record.total.items, _ITEMS[job]))
    if record.done.bytes is not None:
        words.append(bytes_in_words(record.done.bytes))
    # Before the first contact with the master nobody knows how far behind it is by now.
    if record.lag.items is not None and record.phase != "starting":
        behind = f"{record.lag.items} {_ITEMS[job]} behind"
        words.append(behind if record.lag.items else "in sync")
    for kind, names in (("refused", record.refused), ("broken", record.broken)):
        if names.count:
            words.append(f"{names.count} {kind}")
    over = [use for use in record.sources if use.reason and not use.in_use]
    words += [f"{use.service} {use.name} passed over" for use in over]
    return ", ".join(words)


@dataclass(frozen=True)
class Trouble:
    """Why a job needs a repair. phase: missing, stopped, failed or stalled."""

    phase: str
    words: str


def trouble(files: JobFiles, container: ContainerState | None, now: datetime) -> Trouble | None:
    """Tell what is wrong with the job as it was seen at `now` (the host's clock), if anything."""
    if container is None:
        return Trouble("missing", "its container is missing")
    if not container.running:
        killed = ", killed for memory" if container.oom_killed else ""
        ended = f"{container.status} (exit code {container.exit_code}{killed})"
        return Trouble("stopped", f"its container is {ended}")
    if files.record is None and container.health == "unhealthy":
        return Trouble("failed", "it is unhealthy and has written no record")
    if files.record is None:
        return Trouble("missing", "it has written no status record")
    wrong = _record_trouble(files.record, now)
    if wrong is None and container.health == "unhealthy":
        return Trouble("failed", "its container is unhealthy")
    return wrong


def _record_trouble(record: StatusRecord, now: datetime) -> Trouble | None:
    if record.phase == "failed":
        return Trouble("failed", f"it failed: {record.reason}")
    if is_stalled(record, now):
        age = (now - record.updated_at).total_seconds()
        return Trouble("stalled", f"it stalled: its record is {age:.0f} s old")
    return None


def recorded(job: Job, name: str, seen: JobsView) -> dict[str, Any]:
    """Return the outputs of a job's resource: its status record, with a verdict in words.

    name: of its container. The keys are those of SHOWN, and RECORD: the status record with its
    keys in camel case, `phase` and `reason` as they are judged here, `container` in words.
    """
    files = seen.files[job]
    container = seen.containers.get(name)
    record = _of_record(files.record) if files.record is not None else {}
    words = summary(job, files.record) if files.record is not None else None
    wrong = trouble(files, container, seen.now)
    if wrong is not None:
        says_so_itself = record.get("phase") == "failed" and wrong.phase == "failed"
        if not says_so_itself:
            words = f"{wrong.words}; before that: {words}" if words else wrong.words
        record |= {"phase": wrong.phase, "reason": wrong.words}
    shown = {"healthy": wrong is None, "summary": words}
    shown |= {key: record.get(key) for key in SHOWN if key not in shown}
    return {**shown, RECORD: {**record, "container": container_words(container)}}


def container_words(container: ContainerState | None) -> str:
    """Return a container's state in words, such as `running (healthy)`."""
    if container is None:
        return "missing"
    health = f" ({container.health})" if container.health else ""
    return f"{container.status}{health}"


def _of_record(record: StatusRecord) -> dict[str, Any]:
    data = _rounded(record.model_dump(mode="json"))
    camel = {_camel(key): value for key, value in data.items()}
    camel["runningAgent"] = camel.pop("agentVersion")
    camel["errors"] = [f"{error['at']} {error['message']}" for error in data["errors"]]
    camel["master"] = {_camel(key): value for key, value in data["master"].items()}
    camel["sources"] = [
        {_camel(key): value for key, value in use.items()} for use in data["sources"]
    ]
    return camel


def _rounded(value: Any) -> Any:
    """Round every fraction to thousandths (seconds: milliseconds): more is noise in an output."""
    if isinstance(value, float):
        return round(value, 3)
    if isinstance(value, Mapping):
        return {key: _rounded(entry) for key, entry in value.items()}
    return value


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)
