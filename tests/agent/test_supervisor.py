"""A job's process: its spec, its engine, its waits, its end."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from sync.agent import supervisor
from sync.agent.job import Control, Directories, Engine, JobFailed, JobPaused, PassIncompleteError
from sync.agent.master.client import HttpError
from sync.agent.status_writer import StatusWriter, read_status, utc_now
from sync.agent.supervisor import EngineLoop
from sync.agent.zdb.errors import ZdbConnectionError
from sync.contract import spec as contract
from sync.contract.spec import Backoff, FlistsSpec, KernelsSpec, Schedule, ZdbEndpoint
from sync.contract.status import StatusRecord
from tests.agent.mirrors import make_directories, make_status
from tests.sandbox.host.processes import wait_until

Run = Callable[[Any, Directories, StatusWriter, Control], None]
PATIENCE_SECONDS = 10


def write_spec(directories: Directories, **settings: object) -> KernelsSpec:
    values: dict[str, object] = {
        "stack": "t",
        "sources": ["http://127.0.0.1:1"],
        "backoff": Backoff(first_seconds=0.01, longest_seconds=0.02),
    }
    spec = KernelsSpec.model_validate(values | settings)
    path = directories.spec / "spec.json"
    path.with_suffix(".new").write_bytes(contract.canonical(spec))
    path.with_suffix(".new").replace(path)
    return spec


class EngineOfTest(Engine[Any]):
    def __init__(self, run: Run, loop: EngineLoop) -> None:
        super().__init__(loop._spec, loop._directories, loop._status, loop._control)
        self._run = run

    def one_pass(self) -> None:
        self._run(self._spec, self._directories, self._status, self._control)


@contextmanager
def running(
    directories: Directories, run: Run, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[Callable[[StatusRecord], bool]], StatusRecord]]:
    """Run a job with an engine of the test; yields a wait for a record that satisfies."""
    monkeypatch.setattr(supervisor, "SPEC_POLL_SECONDS", 0.02)
    monkeypatch.setattr(EngineLoop, "make_engine", lambda loop: EngineOfTest(run, loop))
    process = supervisor._Process("kernels", directories)
    thread = threading.Thread(target=process.run)
    thread.start()

    def until(satisfied: Callable[[StatusRecord], bool]) -> StatusRecord:
        seen: list[StatusRecord] = []

        def is_reached() -> bool:
            record = read_status(directories.state / "status.json")
            if record is not None:
                seen.append(record)
            return record is not None and satisfied(record)

        wait_until(is_reached, "the record", PATIENCE_SECONDS, poll_seconds=0.01)
        return seen[-1]

    try:
        yield until
    finally:
        process.terminate()
        thread.join(PATIENCE_SECONDS)
        assert not thread.is_alive()


def with_spec(digest: str) -> Callable[[StatusRecord], bool]:
    return lambda record: record.spec_digest == digest


def wait_for_stop(_: KernelsSpec, __: Directories, status: StatusWriter, control: Control) -> None:
    status.update(phase="idle")
    control.wait(PATIENCE_SECONDS)


def test_job_waits_for_its_spec_then_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directories = make_directories(tmp_path)
    with running(directories, wait_for_stop, monkeypatch) as until:
        until(lambda record: record.phase == "starting" and record.waiting_for == "spec")
        spec = write_spec(directories)
        record = until(lambda record: record.phase == "idle")
    assert record.spec_digest == contract.digest(spec)
    assert record.master.source == spec.source
    assert record.waiting_for is None


def test_a_record_of_the_release_before_that_waits_for_its_spec_is_understood() -> None:
    written: dict[str, object] = {
        "reason": "waiting for spec.json",
        "job": "users",
        "phase": "starting",
    }
    written |= {"agent_version": "old", "spec_digest": None, "master": {"source": ""}}
    times = dict.fromkeys(("started_at", "updated_at"), "2026-01-01T00:00:00Z")
    assert StatusRecord.model_validate(written | times).waiting_for == "spec"


def test_changed_spec_takes_effect_without_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directories = make_directories(tmp_path)
    write_spec(directories)
    with running(directories, wait_for_stop, monkeypatch) as until:
        until(lambda record: record.phase == "idle")
        second = write_spec(directories, newest=3)
        until(lambda record: record.spec_digest == contract.digest(second))
        write_spec(directories, paused=True)
        until(lambda record: record.phase == "paused" and "operator" in record.reason)


def test_what_a_job_may_not_touch_is_named_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directories = make_directories(tmp_path)
    write_spec(directories)

    def refused(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "/public/users/alice")

    with running(directories, refused, monkeypatch) as until:
        record = until(lambda record: bool(record.errors))
    for text in (record.reason, record.errors[-1].message):
        assert "/public/users/alice" in text
        assert f"chown -R {os.getuid()}:{os.getuid()}" in text


@pytest.mark.parametrize("wrong", ["not json", '{"job":"kernels"}', "{}"])
def test_wrong_spec_fails_by_name_and_heals_with_the_next(
    wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directories = make_directories(tmp_path)
    (directories.spec / "spec.json").write_text(wrong)
    with running(directories, wait_for_stop, monkeypatch) as until:
        record = until(lambda record: record.phase == "failed")
        assert "spec.json" in record.reason
        assert "pulumi up" in record.reason
        write_spec(directories)
        until(lambda record: record.phase == "idle")


def test_failed_paused_and_crashed_engines_show_in_the_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directories = make_directories(tmp_path)
    write_spec(directories)
    outcomes = iter(
        [RuntimeError("a defect"), JobPaused("disk full", 0.01), JobFailed("ask a person")]
    )

    def run(*_: object) -> None:
        raise next(outcomes)

    with running(directories, run, monkeypatch) as until:
        record = until(lambda record: record.phase == "failed")
    assert record.reason == "ask a person"
    assert [error.message for error in record.errors] == [
        "RuntimeError: a defect",
        "disk full",
        "ask a person",
    ]
    assert record.retries == 1


class Waits(Control):
    """Notes waits in place of waiting; stops after so many."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.seconds: list[float] = []
        self._most = most

    def wait(self, timeout: float | None = None) -> bool:
        self.seconds.append(timeout or 0)
        if len(self.seconds) == self._most:
            self.stop()
        return True


def waits_after(
    directories: Directories, outcomes: Sequence[Exception | None]
) -> tuple[int, Waits]:
    """Let passes of a kernels engine end so; returns how many engines were made, and the waits."""
    spec = write_spec(directories, backoff=Backoff(first_seconds=1, longest_seconds=100))
    status = make_status("kernels", directories, spec.source)
    control = Waits(len(outcomes))
    left = iter(outcomes)
    made: list[EngineOfTest] = []

    def one_pass(*_: object) -> None:
        if (outcome := next(left)) is not None:
            raise outcome

    class Loop(EngineLoop):
        def make_engine(self) -> EngineOfTest:
            made.append(EngineOfTest(one_pass, self))
            return made[-1]

    try:
        Loop(spec, directories, status, control).run()
    finally:
        status.close()
    return len(made), control


def test_waits_grow_with_every_failure_and_start_anew_after_a_success(tmp_path: Path) -> None:
    failure, refusal = PassIncompleteError("one failed"), HttpError("busy", retry=True)
    refusal.retry_after_seconds = 60
    outcomes = [failure, failure, failure, None, failure, JobPaused("full", 7), refusal]
    made, control = waits_after(make_directories(tmp_path), outcomes)
    first, second, third, idle, again, paused, asked = control.seconds
    assert [0.5 <= first <= 1, 1 <= second <= 2, 2 <= third <= 4, 0.5 <= again <= 1] == [True] * 4
    assert (idle >= 290, paused, asked) == (True, 7, 60)
    assert made == 1


def test_an_engine_that_crashed_is_closed_and_made_anew(tmp_path: Path) -> None:
    outcomes = [RuntimeError("a defect"), None, OSError(5, "I/O error"), None]
    made, control = waits_after(make_directories(tmp_path), outcomes)
    assert made == 3
    assert max(control.seconds[0], control.seconds[2]) <= 1


def test_an_engine_that_does_not_close_hinders_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(5, "I/O error")

    monkeypatch.setattr(EngineOfTest, "__exit__", fail)
    made, _ = waits_after(make_directories(tmp_path), [RuntimeError("a defect"), None])
    assert made == 2


def test_a_mirror_that_follows_shows_how_it_falls_behind_while_it_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "_LAG_SECONDS", 0.01)
    directories = make_directories(tmp_path)
    zdb = ZdbEndpoint(host="127.0.0.1", port=1)
    spec = FlistsSpec(stack="t", sources=[zdb], local_zdb=zdb, backoff=Backoff(first_seconds=10))
    status = make_status("flists", directories, str(zdb))
    status.update(phase="following", last_success_at=utc_now() - timedelta(seconds=500))
    control = Control()

    def fail(*_: object) -> None:
        raise ZdbConnectionError("refused")

    class Loop(EngineLoop):
        def make_engine(self) -> EngineOfTest:
            return EngineOfTest(fail, self)

    with running_loop(Loop(spec, directories, status, control), status, control):
        wait_until(lambda: (status.record.lag.seconds or 0) >= 500, "the lag", PATIENCE_SECONDS)
    assert status.record.phase == "following"
    assert status.record.reason == "refused"


@contextmanager
def running_loop(loop: EngineLoop, status: StatusWriter, control: Control) -> Iterator[None]:
    thread = threading.Thread(target=loop.run)
    thread.start()
    try:
        yield
    finally:
        control.stop()
        thread.join(PATIENCE_SECONDS)
        status.close()
    assert not thread.is_alive()


def test_progress_is_remembered_over_a_restart_but_not_for_another_master(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directories = make_directories(tmp_path)
    write_spec(directories)
    reached = utc_now()

    def run(_: KernelsSpec, __: Directories, status: StatusWriter, control: Control) -> None:
        status.update(phase="idle", first_pass_at=status.record.first_pass_at or reached)
        control.wait(PATIENCE_SECONDS)

    with running(directories, run, monkeypatch) as until:
        until(lambda record: record.phase == "idle")
    with running(directories, wait_for_stop, monkeypatch) as until:
        assert until(lambda record: record.phase == "idle").first_pass_at == reached
        # Another order of names, and further ones, are no other master.
        for sources in (["http://127.0.0.1:3", "http://127.0.0.1:1"], ["http://127.0.0.1:3"]):
            spec = write_spec(directories, sources=sources)
            wanted = contract.digest(spec)
            record = until(with_spec(wanted))
            assert record.first_pass_at == reached
            assert record.master.source in sources
        write_spec(directories, sources=["http://127.0.0.1:2"])
        until(lambda record: record.first_pass_at is None and record.phase == "idle")


def test_sigterm_ends_the_process_cleanly_and_soon(tmp_path: Path) -> None:
    directories = make_directories(tmp_path)
    write_spec(directories)
    options = ["--spec-dir", directories.spec, "--state-dir", directories.state]
    options += ["--kernels-dir", directories.kernels]
    command = [sys.executable, "-m", "sync.agent", "run", "kernels", *map(str, options)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_SECONDS) == 0
    assert {"time", "level", "logger", "message"} <= first.keys()
    record = read_status(directories.state / "status.json")
    assert record is not None
    assert record.job == "kernels"


def test_passes_are_spread_by_jitter_and_never_negative() -> None:
    plan = Schedule(interval_seconds=100, jitter=0.1)
    assert supervisor.seconds_to_next(plan, 0, 0) == 100
    assert supervisor.seconds_to_next(plan, 0, 0.5) == pytest.approx(105)
    assert supervisor.seconds_to_next(plan, 500, 0.9) == 0


def test_control_wakes_early() -> None:
    control = Control()
    threading.Timer(0.05, control.stop).start()
    started = time.monotonic()
    assert control.wait(30)
    assert time.monotonic() - started < 10
