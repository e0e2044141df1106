"""A job's inputs: where it is installed, its spec, and how far `up` waits for it."""

from typing import Annotated, Final

from pydantic import Field

from sync.contract import spec as contract
from sync.contract.layout import Job
from sync.contract.status import Ready
from sync.providers.base import HostInputs
from sync.providers.jobs.view import JobsView, view

_SHARED_SECONDS: Final = 0.4


class InstalledJob(HostInputs):
    """The part of a job's inputs that its removal needs, whatever release wrote its spec."""

    job: Job
    container_name: str
    purge: bool

    def look(self) -> JobsView:
        """Look while waiting; jobs that wait at the same time share their views."""
        return view(self.data_root, _SHARED_SECONDS)


class JobInputs(InstalledJob):
    """See resources.JobSync."""

    spec: Annotated[contract.JobSpec, Field(discriminator="job")]
    agent_version: str
    ready: Ready
    ready_timeout_seconds: float
