"""Commands on this machine: streams, bounds, and no process left behind."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sync.providers.host.commands import Command
from sync.providers.host.connection import HostConnection, HostError, HostTimeoutError
from sync.providers.host.local import LocalHost
from tests.sandbox.host.processes import pid_has_ended, wait_until

HOST = LocalHost(HostConnection("unix:///var/run/docker.sock"))


def test_stdin_both_outputs_and_the_status() -> None:
    script = "cat; echo trouble >&2; exit 3"
    completed = HOST.run(Command(["sh", "-c", script], [b"one ", b"", b"two"]))
    assert (completed.status, completed.stdout, completed.stderr) == (3, b"one two", b"trouble\n")


def test_much_data_passes_both_ways_at_once() -> None:
    piece = os.urandom(1 << 20)
    completed = HOST.run(Command(["cat"], [piece] * 20, output_limit_bytes=32 << 20))
    assert completed.stdout == piece * 20


def test_a_program_that_does_not_read_its_stdin_is_no_error() -> None:
    completed = HOST.run(Command(["true"], [bytes(1 << 20)] * 4))
    assert completed.status == 0


def test_a_missing_program_is_like_the_shells_127() -> None:
    assert HOST.run(Command(["no-such-program"])).status == 127


def test_endless_output_is_bounded() -> None:
    with pytest.raises(HostError, match="printed over 1000 bytes"):
        HOST.run(Command(["yes"], output_limit_bytes=1000))


def test_a_slow_command_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    script = f"sleep 60 & echo $! > {pid}; wait"
    with pytest.raises(HostTimeoutError, match="not finished after 1 s"):
        HOST.run(Command(["sh", "-c", script], timeout_seconds=1))
    wait_until(lambda: pid_has_ended(int(pid.read_text())), "the grandchild's end", 10)


def test_a_child_that_keeps_the_outputs_open_is_ended_at_the_deadline(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    script = f"sleep 60 & echo $! > {pid}"
    with pytest.raises(HostTimeoutError, match="not finished after 1 s"):
        HOST.run(Command(["sh", "-c", script], timeout_seconds=1))
    wait_until(lambda: pid_has_ended(int(pid.read_text())), "the child's end", 10)


def test_a_failure_of_what_feeds_the_stdin_is_raised_and_ends_the_program(tmp_path: Path) -> None:
    pid = tmp_path / "pid"

    def pieces() -> Iterator[bytes]:
        yield b"x"
        wait_until(lambda: pid.exists() and pid.read_text().endswith("\n"), "its number", 30)
        raise OSError("the file is gone")

    script = f"echo $$ > {pid}; cat; sleep 60"
    with pytest.raises(OSError, match="the file is gone"):
        HOST.run(Command(["sh", "-c", script], pieces()))
    wait_until(lambda: pid_has_ended(int(pid.read_text())), "its end", 10)
