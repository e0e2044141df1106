"""The jobs are looked at through files that the jobs own: none of them stalls or misleads it."""

import base64
import json
import os
from pathlib import Path

import pytest

from sync.contract import layout
from sync.contract.spec import canonical
from sync.providers.host.connection import HostConnection
from sync.providers.host.host import DataRoot
from sync.providers.jobs import view as job_view
from sync.providers.jobs.outputs import outputs
from sync.providers.jobs.trouble import trouble
from sync.providers.jobs.view import JobsView
from tests.planted import NO_FILES, SECRET
from tests.providers.job_views import CONTAINER, NOW, SPEC, a_record, wanted_job

# The test fails of it where anything waits; nothing here takes a second.
_PATIENCE_SECONDS = 10.0


class SeenHost:
    """A data root with the jobs' folders, on this machine, whose docker has no containers."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.programs = folder / "bin"
        self.programs.mkdir()
        self.program("docker", "exit 0")
        monkeypatch.setenv("PATH", f"{self.programs}:{os.environ['PATH']}")
        monkeypatch.setattr(job_view, "_SECONDS", _PATIENCE_SECONDS)
        self.root = folder / "root"
        for job in layout.JOBS:
            for path in (layout.job_spec_dir(job), layout.job_state_dir(job)):
                (self.root / path).mkdir(parents=True)
        self.spec = self.root / layout.job_spec_dir("users") / layout.SPEC_FILE
        self.spec.write_bytes(canonical(SPEC))
        self.record = self.root / layout.job_state_dir("users") / layout.STATUS_FILE
        beside = self.root / layout.job_state_dir("kernels") / layout.STATUS_FILE
        beside.write_text(a_record(job="kernels").model_dump_json())

    def program(self, name: str, script: str) -> None:
        path = self.programs / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def look(self) -> JobsView:
        connection = HostConnection("unix:///nowhere")
        return job_view.view(DataRoot(connection, str(self.root)), kept_seconds=0)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SeenHost:
    return SeenHost(tmp_path, monkeypatch)


@pytest.mark.parametrize("what", NO_FILES)
def test_what_a_job_puts_in_place_of_its_record_is_named_and_hides_nothing_else(
    host: SeenHost, what: str
) -> None:
    NO_FILES[what](host.record)
    seen = host.look()
    files = seen.files["users"]
    assert files.record is None
    assert files.in_its_place.startswith(f"{host.record} is a")
    assert files.spec == SPEC
    assert seen.files["kernels"].record == a_record(job="kernels")
    wrong = trouble(files, CONTAINER, NOW)
    assert wrong is not None
    assert wrong.phase == "failed"
    assert f"{host.record} is a" in wrong.words
    assert "remove it" in wrong.words
    outs = outputs(wanted_job("started"), JobsView(NOW, seen.files, {"users": CONTAINER}), None)
    assert outs.healthy is False
    assert SECRET not in str(outs)


@pytest.mark.parametrize("what", [*NO_FILES, "a huge file"])
def test_a_record_that_is_exchanged_while_it_is_looked_at_is_not_followed(
    host: SeenHost, what: str, tmp_path: Path
) -> None:
    host.record.write_text(a_record().model_dump_json())
    if what == "a huge file":
        (tmp_path / "planted").touch()
        os.truncate(tmp_path / "planted", 1 << 40)
    else:
        NO_FILES[what](tmp_path / "planted")
    host.program(
        "dd",
        f"""case "$*" in *{host.record}*)
              rm {host.record}; mv {tmp_path / "planted"} {host.record};; esac
            PATH=${{PATH#*:}} exec dd "$@" """,
    )
    seen = host.look()
    assert seen.files["users"].record is None
    assert seen.files["kernels"].record == a_record(job="kernels")
    assert SECRET not in str(seen)


@pytest.mark.parametrize("size_bytes", [(512 << 10) + 1, 7 << 20, 1 << 40])
def test_a_record_larger_than_any_is_named_and_not_read(host: SeenHost, size_bytes: int) -> None:
    host.record.touch()
    os.truncate(host.record, size_bytes)
    seen = host.look()
    assert seen.files["users"].in_its_place == f"{host.record} is larger than 524288 bytes"
    assert seen.files["kernels"].record is not None


def test_the_largest_records_of_all_jobs_are_read(host: SeenHost) -> None:
    for job in layout.JOBS:
        path = host.root / layout.job_state_dir(job) / layout.STATUS_FILE
        text = a_record(job=job).model_dump_json()
        path.write_text(text + " " * ((512 << 10) - len(text)))
    assert all(files.record is not None for files in host.look().files.values())


@pytest.mark.parametrize("what", ["a hard link", "control characters", "no JSON", "deep JSON"])
def test_a_file_that_is_no_record_is_none(host: SeenHost, what: str, tmp_path: Path) -> None:
    if what == "a hard link":
        (tmp_path / "other").write_text(SECRET)
        host.record.hardlink_to(tmp_path / "other")
    else:
        texts = {"control characters": '{"version":1}\0\n\x1b]0;x\a', "no JSON": "\udcff!\n!"}
        text = texts.get(what, "[" * 200_000)
        host.record.write_bytes(text.encode(errors="surrogateescape"))
    seen = host.look()
    assert seen.files["users"].record is None
    assert seen.files["kernels"].record is not None


@pytest.mark.parametrize("number", ["1e999", "-1e999", "NaN", "Infinity", "9" * 400, "9" * 5000])
@pytest.mark.parametrize("field", ["lag", "rate_items_per_second", "done", "details", "retries"])
def test_a_number_that_no_state_can_hold_is_in_no_record(number: str, field: str) -> None:
    values = {"lag": '{"seconds":N}', "done": '{"items":N}', "details": '{"x":N}'}
    record = a_record().model_dump(mode="json")
    value = values.get(field, "N").replace("N", number, 1)
    text = json.dumps({**record, field: "HERE"}).replace('"HERE"', value)
    assert job_view.parse(printed(text)).files["users"].record is None
    assert job_view.parse(printed(json.dumps(record))).files["users"].record == a_record()


def printed(record: str) -> str:
    encoded = base64.b64encode(record.encode()).decode()
    return f"{NOW.timestamp():.0f}\n\n{encoded}\n\n\n\n\n"


@pytest.mark.parametrize("what", ["a full directory", "a link to a secret"])
def test_a_spec_that_became_something_else_is_a_change_not_a_job_that_is_gone(
    host: SeenHost, what: str
) -> None:
    host.spec.unlink()
    NO_FILES[what](host.spec)
    files = host.look().files["users"]
    assert (files.spec, files.spec_written) == (None, True)


def test_a_dd_without_flags_still_reads_plain_files_only(host: SeenHost) -> None:
    host.program(
        "dd",
        """case "$*" in *iflag*) exit 1;; esac
           PATH=${PATH#*:} exec dd "$@" """,
    )
    host.record.write_text(a_record().model_dump_json())
    assert host.look().files["users"].record == a_record()
    host.record.unlink()
    NO_FILES["a FIFO"](host.record)
    assert (
        host.look().files["users"].in_its_place.endswith("a FIFO, socket or device, no plain file")
    )
