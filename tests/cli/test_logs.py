"""`gridhub logs` shows all services at once, in bounded memory, and leaves no process behind."""

import contextlib
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import psutil
import pytest

from tests.cli.conftest import FakeHost, run
from tests.program.declared import PROJECT
from tests.sandbox.host.processes import wait_until

# Prints a line, then nothing, for ever: as the log of a service that has nothing to say.
QUIET = 'echo "$1 is up"\nexec sleep 1000\n'
# Where the tests run under nohup, SIGHUP is ignored, which a program would inherit.
COMMAND = ["env", "--default-signal", sys.executable, "-m", "cli", "logs", "--stack", "demo"]


@pytest.fixture
def two(host: FakeHost) -> FakeHost:
    host.containers("users", "zdb")
    return host


def family(host: FakeHost) -> list[psutil.Process]:
    """Return every process that a test's `gridhub` has started, wherever it hangs by now."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("FAKE") == str(host.answers) and process.pid != os.getpid():
                found.append(process)
    return found


def states(host: FakeHost, word: str) -> list[str]:
    """Return the state of each of them that has this word on its command line."""
    found: list[str] = []
    for process in family(host):
        with contextlib.suppress(psutil.Error):  # it has just ended
            found += [process.status()] if word in process.cmdline() else []
    return found


def quiet(host: FakeHost) -> int:
    """Return how many logs are followed that print nothing more."""
    return len(states(host, "1000"))


@contextlib.contextmanager
def following() -> Iterator["subprocess.Popen[str]"]:
    """Run `gridhub logs` in a process of its own until both services have printed a line."""
    with subprocess.Popen(
        COMMAND,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            seen: set[str] = set()
            while seen != {"users", "zdb"}:
                seen.add(process.stdout.readline().split(" | ")[0].strip())
            yield process
        finally:
            process.kill()


def test_each_line_has_its_service_and_the_end_is_said(two: FakeHost) -> None:
    two.logs('echo "$1 one"; echo "two" >&2')
    result = run("logs", "--stack", "demo", "--no-follow")
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert [line for line in lines if line.startswith("users")] == [
        "users | gridhub-first-users one",
        "users | two",
        "users | (the log ended)",
    ]
    assert next(line for line in lines if line.startswith("zdb")) == "zdb   | gridhub-first-zdb one"


def test_a_stack_without_containers_is_said_to_have_none(host: FakeHost) -> None:
    result = run("logs", "--stack", "demo")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: demo has no container; see what `pulumi preview")


def test_one_service_is_shown_as_it_is(two: FakeHost) -> None:
    two.logs('echo "$1 one"')
    result = run("logs", "--stack", "demo", "--no-follow", "zdb")
    assert result.output.splitlines()[0] == "gridhub-first-zdb one"
    result = run("logs", "--stack", "demo", "caddy")
    assert result.exit_code == 2
    assert "no container of caddy" in result.stderr


def test_what_a_terminal_would_obey_is_shown_as_text(two: FakeHost) -> None:
    two.logs(r"printf 'a\033[2Jb\tc\r\n'")
    output = run("logs", "--stack", "demo", "--no-follow", "zdb").output
    assert output.splitlines()[0] == r"a\x1b[2Jb  c"


def test_docker_is_asked_for_what_the_options_say(two: FakeHost) -> None:
    program = two.programs / "docker"
    noted = 'echo "$*" >> "$FAKE/asked"\nshift 2'
    program.write_text(program.read_text().replace("shift 2", noted))
    two.logs("")
    run("logs", "--stack", "demo", "--tail", "7", "zdb")
    asked = (two.answers / "asked").read_text().splitlines()
    assert asked[-1].endswith(" logs --tail 7 --follow gridhub-first-zdb")


def test_an_endless_line_comes_in_pieces(two: FakeHost) -> None:
    two.logs("head -c 1000000 /dev/zero | tr '\\0' x")
    lines = run("logs", "--stack", "demo", "--no-follow", "zdb").output.splitlines()
    assert sum(line.count("x") for line in lines) == 1_000_000
    assert max(map(len, lines)) == 1 << 16


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
def test_nothing_outlives_it_even_where_nothing_is_logged(
    two: FakeHost, sent: signal.Signals
) -> None:
    two.logs(QUIET)
    with following() as process:
        wait_until(lambda: quiet(two) == 2, "both logs", 30)
        process.send_signal(sent)
        assert process.wait(30) == (0 if sent == signal.SIGINT else -sent)
        wait_until(lambda: family(two) == [], "the end of all processes", 30)


def test_a_reader_that_goes_away_ends_it(two: FakeHost) -> None:
    two.logs('while :; do echo "$1"; done')
    with following() as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(30) == 1
        wait_until(lambda: family(two) == [], "the end of all processes", 30)


def test_a_reader_that_pauses_stops_the_logs_and_not_the_memory(two: FakeHost) -> None:
    two.logs('while :; do echo "$1"; done')
    with following() as process:
        wait_until(lambda: _pause(two), "the logs to pause", 30)
        assert psutil.Process(process.pid).memory_info().rss < 200 << 20


def _pause(host: FakeHost) -> bool:
    """Return whether the logs write nothing: their pipes are full."""
    return states(host, str(host.answers / "logs")) == [psutil.STATUS_SLEEPING] * 2


@pytest.mark.skipif(shutil.which("tmux") is None, reason="needs tmux, as `make test` installs")
@pytest.mark.parametrize("end", ["Ctrl-C", "the terminal goes away"])
def test_the_panes_end_together(two: FakeHost, end: str) -> None:
    two.logs(QUIET)
    pid, terminal = pty.fork()
    if pid == 0:
        environment = {**os.environ, "PYTHONPATH": str(PROJECT), "TERM": "xterm", "TMUX": "nested"}
        os.execvpe(COMMAND[0], COMMAND, environment)
    screen = _Screen(terminal)
    try:
        wait_until(lambda: quiet(two) == 2, "two panes", 30)
        wait_until(lambda: b"gridhub-first-zdb is up" in screen.shown, "a pane's log", 30)
        if end == "Ctrl-C":
            os.write(terminal, b"\x03")
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        else:
            screen.close()
            os.waitpid(pid, 0)
        wait_until(lambda: family(two) == [], "the end of all processes", 30)
    finally:
        screen.close()
        for process in family(two):
            process.kill()


class _Screen:
    """What a terminal was sent; read all the time, as the program waits otherwise."""

    def __init__(self, terminal: int) -> None:
        self.shown = b""
        self._terminal = terminal
        self._stop, self._stopped = os.pipe()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # EIO: nobody has the other side open any more
            while self._stop not in select.select([self._terminal, self._stop], [], [])[0]:
                self.shown += os.read(self._terminal, 1 << 16)

    def close(self) -> None:
        if self._reader.is_alive():
            os.close(self._stopped)
            self._reader.join()
            os.close(self._terminal)
