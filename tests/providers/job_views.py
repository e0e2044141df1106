"""A users job as providers see it: its inputs, its status record, its host."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from sync.contract import spec as contract
from sync.contract.status import (
    Amount,
    Lag,
    MasterIdentity,
    StatusRecord,
)
from sync.providers.jobs.inputs import JobInputs
from sync.providers.jobs.outputs import outputs
from sync.providers.jobs.provider import JobProvider
from sync.providers.jobs.view import ContainerState, JobFiles, JobsView

NOW = datetime(2026, 11, 23, 16, 0, tzinfo=UTC)
AGENT = "0123456789abcdef"
PROVIDER = JobProvider()
ZDB = contract.ZdbEndpoint(host="203.0.113.1")
SPEC = contract.UsersSpec(
    stack="test",
    sources=["https://hub.example.org", "https://hub.example.net"],
    sources_zdb=[ZDB],
    local_zdb=ZDB,
)
CONTAINER = ContainerState(name="users", running=True, status="running", health="healthy")


def given_inputs(**changes: Any) -> dict[str, Any]:
    inputs = {
        "host": {"dockerHost": "unix:///var/run/docker.sock"},
        "root": "/srv",
        "job": "users",
        "spec": SPEC.model_dump(mode="json"),
        "agentVersion": AGENT,
        "containerName": "users",
        "ready": "started",
        "readyTimeoutSeconds": 10,
        "purge": False,
    }
    return {**inputs, **changes}


def as_the_engine_gives(value: Any) -> Any:
    """Every number a float, as property bags have it."""
    return json.loads(json.dumps(value), parse_int=float)


def wanted_job(ready: str, **changes: Any) -> JobInputs:
    return JobInputs.model_validate(given_inputs(ready=ready, **changes))


def a_record(**changes: Any) -> StatusRecord:
    record = StatusRecord(
        job="users",
        spec_digest=contract.digest(SPEC),
        agent_version=AGENT,
        phase="idle",
        started_at=NOW - timedelta(hours=1),
        updated_at=NOW - timedelta(seconds=2),
        bootable_at=NOW - timedelta(minutes=50),
        first_pass_at=NOW - timedelta(minutes=40),
        done=Amount(items=12, bytes=1_234_567),
        total=Amount(items=12, bytes=1_234_567),
        lag=Lag(items=0, bytes=0, seconds=0),
        master=MasterIdentity(source=SPEC.source, identity="master-1", seen_at=NOW),
    )
    return record.model_copy(update=changes)


def a_view(record: StatusRecord | None, container: ContainerState | None = CONTAINER) -> JobsView:
    nothing = JobFiles(None, False, None)
    users = JobFiles(SPEC, True, record)
    containers = {container.name: container} if container else {}
    return JobsView(NOW, {"users": users, "kernels": nothing, "flists": nothing}, containers)


def outs_of(view: JobsView, **changes: Any) -> dict[str, Any]:
    outs = {**given_inputs(), **recorded_of(view), "specDrift": "", **changes}
    return {k: v for k, v in as_the_engine_gives(outs).items() if v is not None}


def recorded_of(view: JobsView) -> dict[str, Any]:
    return outputs(wanted_job("started"), view, None).model_dump(by_alias=True, exclude_none=True)
