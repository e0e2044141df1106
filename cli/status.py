"""`gridhub status`: where each job and service of a stack stands, seen on its host right now."""

from pydantic import BaseModel
from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cli.stack import StackOnHost
from components.naming import Stack
from sync.contract.layout import JOBS, Job
from sync.contract.names import bounded
from sync.contract.status import StatusRecord
from sync.providers.jobs.outputs import summary
from sync.providers.jobs.trouble import container_words, trouble
from sync.providers.jobs.view import ContainerState, JobsView, view


class ServiceStatus(BaseModel):
    """One service. summary: a line in words. record: a job's, as in its status.json, else null."""

    healthy: bool
    container: str
    summary: str
    record: StatusRecord | None = None


class StackStatus(BaseModel):
    """All services of a stack, as they were seen at one time; what `--json` prints."""

    stack: str
    host: str
    healthy: bool
    services: dict[str, ServiceStatus]


def look(stack: str) -> StackStatus:
    """Look at every service that the stack file asks for; HostError where the host cannot be."""
    mirror = StackOnHost.of(stack)
    settings = mirror.settings
    seen = view(mirror.root, kept_seconds=0)
    names = mirror.containers()
    wanted = Stack(stack, settings).services
    containers = {name: seen.containers.get(names.get(name, "")) for name in wanted}
    found = {name: _of_service(container) for name, container in containers.items()}
    found |= {job: _of_job(job, containers[job], seen) for job in JOBS if job in containers}
    return StackStatus(
        stack=stack,
        host=settings.host.docker,
        healthy=all(service.healthy for service in found.values()),
        services=found,
    )


def _of_service(container: ContainerState | None) -> ServiceStatus:
    words = container_words(container)
    healthy = container is not None and container.running and container.health != "unhealthy"
    return ServiceStatus(healthy=healthy, container=words, summary=words)


def _of_job(job: Job, container: ContainerState | None, seen: JobsView) -> ServiceStatus:
    record, wrong = seen.files[job].record, trouble(seen.files[job], container, seen.now)
    words = wrong.words if wrong else summary(job, record) if record else ""
    return ServiceStatus(
        healthy=wrong is None, container=container_words(container), summary=words, record=record
    )


def drawn(status: StackStatus) -> Group:
    """Return a line for each service, with a bar for each job as the sandbox shows it."""
    words = "healthy" if status.healthy else "NOT healthy"
    grid = Table(box=None, show_header=False, pad_edge=False)
    for name, service in status.services.items():
        style = "green" if service.healthy else "bold red"
        # As text: what comes from a master must not be read as marks of style, or as links.
        words_of = Text(bounded(service.summary))
        grid.add_row(Text(name, style), *_progress(service.record), words_of)
    return Group(Text(f"{status.stack} on {status.host}: {words}"), grid)


def _progress(record: StatusRecord | None) -> tuple[RenderableType, str]:
    if record is None:
        return "", ""
    done, total = record.done.items or 0, record.total.items
    bar = ProgressBar(total=total or 1, completed=done if total else 0, width=30)
    return bar, f"{done}/{'?' if total is None else total}"
