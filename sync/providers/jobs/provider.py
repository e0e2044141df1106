"""The three sync jobs in the stack: spec out, status record back.

One provider serves users, kernels and flists. It copies no data: it writes the job's spec to the
host, where the agent's container picks it up, and reads the status record back as outputs.
"""

import base64
import contextlib
from collections.abc import Mapping
from datetime import datetime
from typing import Final

import pulumi
from pulumi.dynamic import CheckFailure, CheckResult
from pulumi.runtime.rpc import contains_unknowns
from pydantic import TypeAdapter, ValidationError

from sync.contract import layout
from sync.contract import spec as contract
from sync.contract.addresses import HttpUrl
from sync.contract.layout import Job
from sync.providers.base import Bag, Provider, plainly
from sync.providers.host.cache import invalidate
from sync.providers.host.connection import DataRootGoneError
from sync.providers.jobs.inputs import InstalledJob, JobInputs
from sync.providers.jobs.outputs import JobOutputs, outputs
from sync.providers.jobs.trouble import trouble
from sync.providers.jobs.view import JobsView, view
from sync.providers.jobs.wait import wait_until_ready, wait_until_stopped

_RESTART_SECONDS: Final = 60
_NAMES: Final[TypeAdapter[list[str | contract.ZdbEndpoint]]] = TypeAdapter(
    list[HttpUrl | contract.ZdbEndpoint]
)
# What happens to the data when a job follows another master.
_KEPT_DATA: Final[Mapping[str, str]] = {
    "users": "what was mirrored stays and is served; the first pass over the new master removes "
    "what that one does not have, as far as the removal limit lets it",
    "kernels": "the kernels stay and are served; the first pass over the new master removes those "
    "that it does not have, as far as the removal limit lets it",
    "flists": "all chunks stay; those that both masters have are not copied again",
}


class JobProvider(Provider[JobInputs, JobOutputs]):
    """Installs a job's spec, waits as asked, records the mirror's state, repairs what failed."""

    inputs_type = JobInputs
    outputs_type = JobOutputs
    id_form = "{0.root}#{0.job}"
    replaced_by = "root"
    refreshes_inputs = True
    # How long an earlier run would have waited is no change.
    not_compared = frozenset({"ready_timeout_seconds"})
    delete_before_replace = True

    def check(self, _olds: Bag, news: Bag) -> CheckResult:
        """Name every wrong key of the spec; what a preview does not know yet is not judged."""
        inputs = self.given(news)
        if contains_unknowns(news.get("spec")):
            return CheckResult(inputs, [])
        try:
            spec = contract.parse(news["spec"])
        except ValidationError as error:
            failures = [
                CheckFailure(f"spec.{'.'.join(str(part) for part in entry['loc'])}", entry["msg"])
                for entry in error.errors()
            ]
            return CheckResult(inputs, failures)
        other = CheckFailure("spec.job", f"is {spec.job}, not {news['job']}")
        return CheckResult(inputs, [other] if spec.job != news["job"] else [])

    def apply(self, inputs: JobInputs, _before: JobOutputs | None) -> JobOutputs:
        """Write the spec if it differs, restart a job that failed or stalled, wait as asked.

        A job that runs with this very spec is adopted.
        """
        seen = view(inputs.data_root, kept_seconds=0)
        if seen.files[inputs.job].spec != inputs.spec:
            content = base64.b64encode(contract.canonical(inputs.spec)).decode()
            file = {"path": _spec_path(inputs.job), "uid": 0, "mode": 0o644, "content": content}
            inputs.data_root.as_root("write_files", files=[file])
        restarted_at = _restart_if_in_trouble(inputs, seen)
        state = wait_until_ready(inputs, restarted_at)
        return outputs(inputs, view(inputs.data_root), state)

    def observe(self, inputs: JobInputs, before: JobOutputs) -> JobOutputs | None:
        """See where the job stands now; a job whose spec is gone is not installed."""
        seen = view(inputs.data_root)
        if not seen.files[inputs.job].spec_written:
            return None
        return outputs(inputs, seen, before.ready_state)

    def repairs(self, before: JobOutputs, inputs: JobInputs | None) -> list[str]:
        """Repair a job that is in trouble, whose spec was edited, or that an older agent runs."""
        reasons = []
        if before.healthy is False:
            reasons.append(f"{before.reason}; pulumi up repairs it")
        if before.spec_drift:
            reasons.append(f"{before.spec_drift}; pulumi up writes it anew")
        running = before.running_agent
        if inputs is not None and running and running != inputs.agent_version:
            reasons.append(f"agent {running} runs, {inputs.agent_version} is wanted")
        return reasons

    def replacements(self, olds: Bag, news: Bag) -> dict[str, str]:
        """Replace a job that follows another master: none of the names stays."""
        before, after = _masters(olds), _masters(news)
        if not before or not after or not set(before).isdisjoint(after):
            return {}
        return {
            "spec": f"another master, {before[0]} becomes {after[0]}: the job is replaced; "
            + _KEPT_DATA[str(news["job"])]
        }

    @plainly
    def delete(self, _id: str, _props: Bag) -> None:
        """Stop the job and keep what it mirrored; purge also drops the job's own state.

        The published data belong to the directories: only their purge removes them.
        """
        installed = InstalledJob.model_validate(_props)
        job, root = installed.job, installed.data_root
        with contextlib.suppress(DataRootGoneError):
            root.as_root("remove_files", paths=[_spec_path(job)])
            wait_until_stopped(installed)
            if installed.purge:
                root.as_root("empty", paths=[layout.job_state_dir(job)])


def _spec_path(job: Job) -> str:
    return f"{layout.job_spec_dir(job)}/{layout.SPEC_FILE}"


def _restart_if_in_trouble(inputs: JobInputs, seen: JobsView) -> datetime | None:
    """Return the host's time of a restart, None where none was needed."""
    name = inputs.container_name
    wrong = trouble(seen.files[inputs.job], seen.containers.get(name), seen.now)
    if wrong is None or wrong.phase == "missing":
        return None  # a container that is missing is made by its own resource
    pulumi.log.info(f"{inputs.job}: {wrong.words}; restarting it")
    try:
        inputs.data_root.on_host().run_docker("restart", name, timeout_seconds=_RESTART_SECONDS)
    finally:
        invalidate()
    return seen.now


def _masters(props: Bag) -> list[str]:
    """Return the master's names in a spec of any release; none where they are not all known."""
    spec = props.get("spec")
    if not isinstance(spec, Mapping):
        return []
    try:
        named = _NAMES.validate_python(spec.get("sources") or [spec.get("source")])
    except ValidationError:
        return []
    return [str(name) for name in named]
