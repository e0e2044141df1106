"""What is wrong with a job, by its container and its status record."""

from dataclasses import dataclass
from datetime import datetime

from sync.contract.freshness import STALE_SECONDS
from sync.providers.jobs.view import ContainerState, JobFiles


@dataclass(frozen=True)
class Trouble:
    """Why a job needs a repair. phase: missing, stopped, failed or stalled."""

    phase: str
    words: str


def trouble(files: JobFiles, container: ContainerState | None, now: datetime) -> Trouble | None:
    """Return what is wrong with the job, if anything; now: the host's clock."""
    if container is None:
        return Trouble("missing", "its container is missing")
    if not container.running:
        killed = ", killed for memory" if container.oom_killed else ""
        ended = f"{container.status} (exit code {container.exit_code}{killed})"
        return Trouble("stopped", f"its container is {ended}")
    return _of_the_record(files, now, unhealthy=container.health == "unhealthy")


def _of_the_record(files: JobFiles, now: datetime, *, unhealthy: bool) -> Trouble | None:
    record = files.record
    if files.in_its_place:
        words = f"{files.in_its_place}, so its status cannot be read; remove it (rm -r)"
        return Trouble("failed", f"{words}: the job writes a new one within seconds")
    if record is None:
        hangs = Trouble("failed", "it is unhealthy and has written no record")
        return hangs if unhealthy else Trouble("missing", "it has written no status record")
    if record.phase == "failed":
        return Trouble("failed", f"it failed: {record.reason}")
    age = (now - record.updated_at).total_seconds()
    if age > STALE_SECONDS:
        return Trouble("stalled", f"it stalled: its record is {age:.0f} s old")
    return Trouble("failed", "its container is unhealthy") if unhealthy else None


def container_words(container: ContainerState | None) -> str:
    """Return a container's state in words, such as `running (healthy)`."""
    if container is None:
        return "missing"
    health = f" ({container.health})" if container.health else ""
    return f"{container.status}{health}"
