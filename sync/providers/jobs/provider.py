"""The three sync jobs in the stack: spec out, status record back.

One provider serves users, kernels and flists. It copies no data: it writes the job's spec to the
host, where the agent's container picks it up, and brings the status record back as outputs.
"""

import base64
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, TypeAlias

import pulumi
from pulumi.dynamic import (
    CheckFailure,
    CheckResult,
    CreateResult,
    DiffResult,
    ReadResult,
    UpdateResult,
)
from pydantic import ValidationError

from sync.contract import layout
from sync.contract import spec as contract
from sync.contract.layout import Job
from sync.providers.base import HostProvider, decided, refreshed
from sync.providers.host.host import DataRootGoneError, connect
from sync.providers.jobs import view
from sync.providers.jobs.outputs import recorded, trouble
from sync.providers.jobs.wait import Wanted, wait_until_ready, wait_until_stopped
from sync.providers.props import changed_inputs, normal, unknown

Spec: TypeAlias = contract.UsersSpec | contract.KernelsSpec | contract.FlistsSpec
# `readyTimeoutSeconds` is left out: how long an earlier run would have waited is no change.
_COMPARED: Final[tuple[str, ...]] = (
    "host",
    "root",
    "job",
    "agentVersion",
    "containerName",
    "ready",
    "purge",
)
_INPUTS: Final[tuple[str, ...]] = (*_COMPARED, "spec", "readyTimeoutSeconds")
_RESTART_SECONDS: Final = 60
_SHARED_SECONDS: Final = 0.4
# What happens to the data when a job follows another master.
_KEPT_DATA: Final[Mapping[Job, str]] = {
    "users": "what was mirrored stays and is served; the first pass over the new master removes "
    "what that one does not have, as far as the removal limit lets it",
    "kernels": "the kernels stay and are served; the first pass over the new master removes those "
    "that it does not have, as far as the removal limit lets it",
    "flists": "all chunks stay; those that both masters have are not copied again",
}


def parse_spec(props: Mapping[str, Any]) -> Spec:
    """Return the typed spec of a resource's inputs; pydantic.ValidationError names wrong keys."""
    return contract.parse(normal(props["spec"]))


def spec_path(job: Job) -> str:
    """Path of the job's spec below the data root."""
    return f"{layout.job_spec_dir(job)}/{layout.SPEC_FILE}"


class JobProvider(HostProvider):
    """Installs a job's spec, waits as asked, records the mirror's state, repairs what failed."""

    def check(self, _olds: dict[str, Any], news: dict[str, Any]) -> CheckResult:
        """Name every wrong key of the spec; what a preview does not know yet is not judged."""
        inputs = {key: news[key] for key in _INPUTS if key in news}
        if unknown(news.get("spec")):
            return CheckResult(inputs, [])
        try:
            spec = parse_spec(news)
        except ValidationError as error:
            failures = [
                CheckFailure(f"spec.{'.'.join(str(part) for part in entry['loc'])}", entry["msg"])
                for entry in error.errors()
            ]
            return CheckResult(inputs, failures)
        wrong = (
            [CheckFailure("spec.job", f"is {spec.job}, not {news['job']}")]
            if spec.job != news["job"]
            else []
        )
        return CheckResult(inputs, wrong)

    def create(self, props: dict[str, Any]) -> CreateResult:
        """Write the spec and wait as asked; a job that runs with this very spec is adopted."""
        return CreateResult(f"{props['root']}#{props['job']}", self._apply(props))

    def update(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> UpdateResult:
        """Write the spec if it differs, restart a job that failed or stalled, wait as asked."""
        return UpdateResult(self._apply(_news))

    def _apply(self, props: Mapping[str, Any]) -> dict[str, Any]:
        spec = parse_spec(props)
        seen = view.view(props, kept_seconds=0)
        if seen.files[spec.job].spec != spec:
            self._write_spec(props, spec)
        restarted_at = self._repair(props, spec.job, seen)
        view.forget()
        version, container = props["agentVersion"], props["containerName"]
        wanted = Wanted(spec, version, container, props["ready"], restarted_at)
        state = wait_until_ready(wanted, lambda: _now(props), float(props["readyTimeoutSeconds"]))
        return {**_record(props), "readyState": state}

    def _write_spec(self, props: Mapping[str, Any], spec: Spec) -> None:
        content = base64.b64encode(contract.canonical(spec)).decode()
        file = {"path": spec_path(spec.job), "uid": 0, "mode": 0o644, "content": content}
        connect(props["host"]).as_root("write_files", props["root"], {"files": [file]})

    def _repair(self, props: Mapping[str, Any], job: Job, seen: view.JobsView) -> datetime | None:
        """Restart a job in trouble; returns the host's time of that, None where none was needed."""
        name = props["containerName"]
        wrong = trouble(seen.files[job], seen.containers.get(name), seen.now)
        if wrong is None or wrong.phase == "missing":
            return None  # a container that is missing is made by its own resource
        pulumi.log.info(f"{job}: {wrong.words}; restarting it")
        connect(props["host"]).run_docker("restart", name, timeout_seconds=_RESTART_SECONDS)
        return seen.now

    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:
        """Record where the job stands now; a job whose spec is gone is not installed."""
        if not view.view(props).files[props["job"]].spec_written:
            return ReadResult(None, {})
        outs = {**_record(props), "readyState": props.get("readyState")}
        return refreshed(id_, {key: props[key] for key in _INPUTS}, outs, _repairs(outs, props))

    def diff(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> DiffResult:
        """Tell spec changes, an older agent, a failed, stalled or missing job, nothing else."""
        job = _news.get("job") or _olds.get("job")
        other_master = _master_changed(_olds, _news)
        reasons = _repairs(_olds, _news)
        for reason in [*other_master, *reasons]:
            pulumi.log.info(f"{job}: {reason}")
        replaces = ["spec"] if other_master else []
        replaces += ["root"] if _olds.get("root") != _news.get("root") else []
        changed = changed_inputs(_COMPARED, _olds, _news) or _spec_changed(_olds, _news)
        return decided(
            _olds,
            changed=bool(changed or replaces),
            repair=bool(reasons),
            replaces=replaces,
            delete_before_replace=True,
        )

    def delete(self, _id: str, _props: dict[str, Any]) -> None:
        """Stop the job and keep what it mirrored; purge also drops the job's own memory.

        The published data belong to the directories: only their purge removes them.
        """
        job: Job = _props["job"]
        host = connect(_props["host"])
        try:
            host.as_root("remove_files", _props["root"], {"paths": [spec_path(job)]})
            wait_until_stopped(job, _props["containerName"], lambda: _now(_props))
            if _props.get("purge"):
                host.as_root("empty", _props["root"], {"paths": [layout.job_state_dir(job)]})
        except DataRootGoneError:
            return
        finally:
            view.forget()


def _now(props: Mapping[str, Any]) -> view.JobsView:
    """Look while waiting; jobs that wait at the same time share their looks."""
    return view.view(props, kept_seconds=_SHARED_SECONDS)


def _record(props: Mapping[str, Any]) -> dict[str, Any]:
    """Return the inputs and what is seen on the host now, without readyState."""
    seen = view.view(props)
    job: Job = props["job"]
    files = seen.files[job]
    drift = "" if files.spec == parse_spec(props) else "the spec on the host was changed"
    return {
        **{key: props[key] for key in _INPUTS},
        **recorded(job, props["containerName"], seen),
        "specDrift": drift,
    }


def _spec_changed(olds: Mapping[str, Any], news: Mapping[str, Any]) -> bool:
    if unknown(news.get("spec")):
        return True
    try:
        return parse_spec(olds) != parse_spec(news)
    except (KeyError, ValidationError):
        return True  # a spec of an earlier version of the program


def _master_changed(olds: Mapping[str, Any], news: Mapping[str, Any]) -> list[str]:
    """Say that another master is followed and what that does to the data; empty if it is not.

    It is the same as long as one of its names stays.
    """
    before, after = _names(olds.get("spec")), _names(news.get("spec"))
    if not before or not after or not set(before).isdisjoint(after):
        return []
    job: Job = news["job"]
    return [
        f"another master, {before[0]} becomes {after[0]}: the job is replaced; " + _KEPT_DATA[job]
    ]


def _names(spec: Any) -> list[str]:
    """Return the names of a spec's master; none where one is not known yet.

    A spec of the release before has one, as `source`.
    """
    given = normal(spec)
    if not isinstance(given, Mapping):
        return []
    sources = given.get("sources") or [given.get("source")]
    if unknown(sources) or any(unknown(source) for source in sources):
        return []
    return [_source(source) for source in sources if source is not None]


def _source(source: Any) -> str:
    if isinstance(source, Mapping):
        return f"{source.get('host')}:{source.get('port', 9900)}/{source.get('namespace', '')}"
    return str(source)


def _repairs(olds: Mapping[str, Any], news: Mapping[str, Any]) -> list[str]:
    """Why an unchanged spec must be applied again, in words."""
    reasons = []
    if olds.get("healthy") is False:
        reasons.append(f"{olds.get('reason')}; pulumi up repairs it")
    if drift := olds.get("specDrift"):
        reasons.append(f"{drift}; pulumi up writes it anew")
    running, wanted = olds.get("runningAgent"), news.get("agentVersion")
    if running and not unknown(wanted) and running != wanted:
        reasons.append(f"agent {running} runs, {wanted} is wanted")
    return reasons
