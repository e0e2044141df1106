"""Whatever comes from outside, a status record is written, and can be read, kept and shown."""

import json
import logging
import time
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from cli.status import ServiceStatus, StackStatus, drawn
from sync.agent import durable, health, logs
from sync.agent.status_writer import StatusWriter, name_list, read_status, utc_now
from sync.contract.freshness import LONGEST_BYTES, STALE_SECONDS
from sync.contract.names import LONGEST_TEXT_BYTES, bounded
from sync.contract.status import SourceUse, StatusRecord
from sync.providers.jobs.outputs import summary
from tests.agent.mirrors import make_directories, make_status
from tests.sandbox.host import run

HOSTILE: Final = (
    *(
        "\ud800",
        "a\udfffb",
        "\x1b[2J\x1b]0;title\x07",
        "\x9b31m",
        "\r\n\x00\x7f",
        "\u202eevil\u2066",
    ),
    *(
        "\u2028\u2029",
        "x" * 10_000_000,
        "\u0301" * 100_000,
        '"' * 5000,
        "\\" * 5000,
        "\U0001f600" * 5000,
    ),
    *("[/foo][link=http://evil]click[/link]", "[bold red]", "{{.}}", "%s%n", ""),
)
texts = st.one_of(st.sampled_from(HOSTILE), st.text(st.characters(), max_size=300))
numbers = st.one_of(st.integers(), st.floats(), st.sampled_from([1e999, -1e999, 10**400]))


def written(root: Path, **changes: Any) -> tuple[StatusRecord, bytes]:
    """Return a record as it is read from the file, and the file."""
    directories = make_directories(root)
    status = make_status("users", directories, "s")
    try:
        status.error(changes.pop("error", "none"))
        status.update(**changes)
    finally:
        status.close()
    path = directories.state / "status.json"
    record = read_status(path)
    assert record is not None
    return record, path.read_bytes()


def all_texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [*value, *(text for one in value.values() for text in all_texts(one))]
    if isinstance(value, list):
        return [text for one in value for text in all_texts(one)]
    return [value] if isinstance(value, str) else []


@settings(max_examples=60, deadline=None)
@given(text=texts, names=st.lists(texts, max_size=150), number=numbers)
def test_a_record_is_written_and_read_whatever_is_in_it(
    text: str, names: list[str], number: float
) -> None:
    with run.in_memory() as root:
        record, data = written(
            Path(root),
            error=text,
            reason=text,
            cursor=text,
            refused=name_list(names),
            broken=name_list([text] * 300),
            sources=[SourceUse(service="hub", name=text, reason=text)] * 24,
            details={text: number, "also": text},
        )
    assert len(data) <= LONGEST_BYTES
    assert record.broken.count == 300
    for found in all_texts(json.loads(data)):
        assert found.isprintable()
        assert len(found.encode()) <= LONGEST_TEXT_BYTES
    line = summary("users", record)
    assert line.isprintable()
    shown_on = Console(width=100, record=True, force_terminal=True, color_system=None, quiet=True)
    service = ServiceStatus(healthy=True, container="running", summary=line, record=record)
    shown_on.print(drawn(StackStatus(stack="s", host="h", healthy=True, services={"u": service})))


@settings(max_examples=200, deadline=None)
@given(text=texts, longest=st.integers(8, 900))
def test_a_kept_text_is_printable_short_and_stays_as_it_is(text: str, longest: int) -> None:
    kept = bounded(text, longest)
    assert kept.isprintable()
    assert len(kept.encode()) <= longest
    assert bounded(kept, longest) == kept


def test_a_long_reason_keeps_its_subject_and_its_remedy() -> None:
    reason = f"spec.json: {'wrong ' * 1000}; run `pulumi up` to write it anew"
    kept = bounded(reason)
    assert kept.startswith("spec.json: wrong")
    assert kept.endswith("; run `pulumi up` to write it anew")


def test_the_fullest_record_is_one_that_its_readers_take(tmp_path: Path) -> None:
    worst = '"' * 5000
    _, data = written(
        tmp_path,
        error=worst,
        reason=worst,
        refused=name_list([worst] * 500),
        broken=name_list([worst] * 500),
        sources=[SourceUse(service="hub", name=worst, reason=worst)] * 24,
        details={f"{number}{worst}": worst for number in range(100)},
        errors=[{"at": utc_now(), "message": worst}] * 10,
    )
    assert len(data) <= LONGEST_BYTES


class BrokenDisk:
    """Lets a write fail as often as is wanted, in a way of its own."""

    def __init__(self, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
        self.error: Exception | None = error
        self._write = durable.publish_bytes
        monkeypatch.setattr(durable, "publish_bytes", self)

    def __call__(self, *arguments: Any, **options: Any) -> None:
        if self.error is not None:
            raise self.error
        self._write(*arguments, **options)


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        OSError(30, "Read-only file system"),
        PermissionError(13, "Permission denied"),
        UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"),
        ValueError("a value that cannot be serialized"),
        MemoryError(),
        RecursionError(),
    ],
    ids=lambda one: type(one).__name__,
)
def test_what_keeps_a_record_from_being_written_is_told_and_the_thread_lives_on(
    error: Exception,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    directories = make_directories(tmp_path)
    path = directories.state / "status.json"
    status: StatusWriter = make_status("users", directories, "s")
    try:
        status.flush()
        disk = BrokenDisk(error, monkeypatch)
        for number in range(20):
            status.update(retries=number)
            status.flush()
        told = [one for one in caplog.records if "status record not written" in one.message]
        # Once; twice where the thread's last good write ends after the first bad one.
        assert 1 <= len(told) <= 2
        later = time.time() + STALE_SECONDS + 1
        monkeypatch.setattr(time, "time", lambda: later)
        assert health.main(["users", str(directories.state)]) == 1
        monkeypatch.undo()
        status.update(retries=7)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            record = read_status(path)
            if record is not None and record.retries == 7:
                break
            time.sleep(0.05)
        assert record is not None
        assert record.retries == 7, "the thread has written it by itself"
        assert record.updated_at - utc_now() < timedelta(seconds=1)
        assert disk.error is error
    finally:
        status.close()


def test_a_line_of_the_log_is_bounded_and_printable() -> None:
    def fails() -> None:
        raise ValueError("\x1b[2J\u202e" + "\ud800" * 10_000)

    record = logging.LogRecord("x", logging.ERROR, "f", 1, "\x1b" * 1_000_000, None, None)
    try:
        fails()
    except ValueError as error:
        record.exc_info = (type(error), error, error.__traceback__)
    line = logs.JsonLines().format(record)
    assert line.isprintable()
    assert len(line.encode()) < 100_000
    assert "ValueError" in json.loads(line)["trace"]
