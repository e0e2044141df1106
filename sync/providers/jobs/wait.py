"""Waiting until a job is as far as the stack asks, with a bound."""

import time
from datetime import datetime
from typing import Final

import pulumi

from sync.contract import spec as contract
from sync.contract.status import StatusRecord
from sync.providers.jobs.inputs import InstalledJob, JobInputs
from sync.providers.jobs.outputs import summary
from sync.providers.jobs.trouble import trouble

_POLL_SECONDS: Final = 0.5
_LONGEST_POLL_SECONDS: Final = 5.0
_PROGRESS_SECONDS: Final = 5.0
# How long a job may look hopeless before it is believed: the record may be of before a restart.
_HOPELESS_SECONDS: Final = 6.0
_STOP_SECONDS: Final = 20.0


def reached(wanted: JobInputs, record: StatusRecord) -> bool:
    """Return whether the record shows the wanted spec in effect, and as far as asked."""
    in_effect = (record.spec_digest, record.agent_version)
    if in_effect != (contract.digest(wanted.spec), wanted.agent_version):
        return False
    if wanted.ready == "started" or wanted.spec.paused:
        return True
    if wanted.ready == "bootable":
        return record.bootable_at is not None
    passed = record.first_pass_at is not None
    # Before the first contact the lag is the one of a former life.
    in_sync = passed and record.phase != "starting" and record.lag.items == 0
    return passed if wanted.ready == "first-pass" else in_sync


def wait_until_ready(wanted: JobInputs, restarted_at: datetime | None) -> str:
    """Wait at most as long as wanted; returns what was reached or not, for the state.

    restarted_at: host's time of a restart of ours; a record of before it shows the former life.
    Running out of time is a warning and no error: the job goes on by itself, and the resource is
    not lost by it. Progress is logged every few seconds, where there is any.
    """
    job, ready, limit_seconds = wanted.job, wanted.ready, wanted.ready_timeout_seconds
    started = logged_at = time.monotonic()
    logged = ""
    hopeless_since: float | None = None
    poll_seconds = _POLL_SECONDS
    while True:
        seen = wanted.look()
        record, container = seen.files[job].record, seen.containers.get(wanted.container_name)
        wrong = trouble(seen.files[job], container, seen.now)
        former = record and restarted_at and record.started_at < restarted_at
        if wrong is None and record is not None and not former and reached(wanted, record):
            skipped = wanted.spec.paused and ready != "started"
            return f"{ready}: " + ("not waited for, the job is paused" if skipped else "reached")
        words = wrong.words if wrong is not None else _state(wanted, record)
        now = time.monotonic()
        hopeless = container is None or (record is not None and record.phase == "failed")
        hopeless_since = (hopeless_since or now) if hopeless else None
        if hopeless_since is not None and now - hopeless_since > _HOPELESS_SECONDS:
            state = f"{ready}: not reached, {words}"
            break
        if now - started >= limit_seconds:
            state = (
                f"{ready}: not reached within {limit_seconds:g} s, {words}; the job goes on by "
                "itself: pulumi refresh records where it stands"
            )
            break
        if words != logged and now - logged_at >= _PROGRESS_SECONDS:
            logged, logged_at = words, now
            pulumi.log.info(f"{job}: {words}")
        time.sleep(max(0.0, min(poll_seconds, started + limit_seconds - now)))
        poll_seconds = min(poll_seconds * 1.2, _LONGEST_POLL_SECONDS)
    pulumi.log.warn(f"{job}: {state}")
    return state


def _state(wanted: JobInputs, record: StatusRecord | None) -> str:
    if record is None:
        return "no status record yet"
    if record.agent_version != wanted.agent_version:
        return f"agent {record.agent_version} still runs"
    return summary(wanted.job, record)


def wait_until_stopped(installed: InstalledJob) -> None:
    """Wait (bounded) until the agent noticed that its spec is gone, or its container ended."""
    deadline = time.monotonic() + _STOP_SECONDS
    while time.monotonic() < deadline:
        seen = installed.look()
        container = seen.containers.get(installed.container_name)
        record = seen.files[installed.job].record
        if container is None or not container.running or record is None:
            return
        if record.waiting_for == "spec":
            return
        time.sleep(_POLL_SECONDS)
    words = f"the agent did not stop within {_STOP_SECONDS:g} s; its container does"
    pulumi.log.warn(f"{installed.job}: {words}")
