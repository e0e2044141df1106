"""A login shell that prints, or that runs nothing, on the way to a host by SSH."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sync.providers.host.commands import Command, Completed
from sync.providers.host.connection import HostShellError
from sync.providers.host.login_shell import Framed, Streamed
from sync.providers.host.ssh import SshHost
from tests.providers.conftest import connection
from tests.sandbox.host import sshd

WHERE = "ssh://root@mirror"
# What start files do, as a shell that is given a command by `-c`.
PRINTING = {
    "a line": "echo Welcome to mirror",
    "no line end": "printf 'welcome> '",
    "colours and a title": "printf '\\033[1;32mhi\\033[0m\\033]0;title\\007\\n'",
    "many lines": "seq 2000",
    "what is no text": "printf '\\377\\376\\200\\000\\n'",
    "to stderr": "echo 'mesg: ttyname failed: Inappropriate ioctl for device' >&2",
    "to both": "echo out; echo err >&2",
    "at exit too": "trap 'echo goodbye; echo bye >&2' EXIT",
    "with the answer of another": "echo '{\"result\": 1}'",
}
SILENT_ENDS = {
    "exits": "exit 0",
    "says why": "echo This account is currently not available.; exit 1",
    "is another program": "exec true",
    "reads and ends": "exec cat > /dev/null",
}


def shell(start: str, line: str, stdin: bytes = b"") -> Completed:
    """Run a line as sshd has a login shell run it, whose start files do that."""
    done = subprocess.run(
        ["bash", "-c", f"{start}\n{line}"],
        input=stdin,
        capture_output=True,
        timeout=30,
        check=False,
    )
    return Completed(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("start", PRINTING.values(), ids=PRINTING.keys())
def test_only_the_commands_own_output_is_its_output(start: str) -> None:
    framed = Framed(["sh", "-c", 'cat; echo "$1"; echo trouble >&2; exit 3', "sh", "a 'b' $c"])
    done, printed = framed.opened(WHERE, shell(start, framed.line, b"one\0two\n"))
    assert done == Completed(3, b"one\0two\na 'b' $c\n", b"trouble\n")
    assert bool(printed) == bool(shell(start, ":").stdout.rstrip(b"\0") and "EXIT" not in start)
    assert printed.isprintable()
    assert len(printed) <= 200


@pytest.mark.parametrize("start", SILENT_ENDS.values(), ids=SILENT_ENDS.keys())
def test_a_shell_that_runs_nothing_is_named_with_the_remedy(start: str) -> None:
    framed = Framed(["true"])
    with pytest.raises(HostShellError, match=r"login shell did not run .*authorized_keys"):
        framed.opened(WHERE, shell(start, framed.line))


@settings(max_examples=300)
@given(before=st.binary(max_size=50), out=st.binary(max_size=50), after=st.binary(max_size=50))
def test_whatever_is_printed_around_it_is_cut_off(before: bytes, out: bytes, after: bytes) -> None:
    framed = Framed(["true"])
    mark = framed._mark
    raw = Completed(0, before + mark + out + mark + after, before + mark + out + mark + after)
    done, printed = framed.opened(WHERE, raw)
    assert (done.stdout, done.stderr) == (out, out)
    assert printed.isprintable()
    killed = Completed(-9, before + mark + out, before)
    assert framed.opened(WHERE, killed)[0].stdout == out


@pytest.mark.parametrize("start", PRINTING.values(), ids=PRINTING.keys())
def test_a_stream_begins_with_the_commands_first_line(start: str) -> None:
    streamed = Streamed(["sh", "-c", "echo first; echo second >&2"])
    argv = ["bash", "-c", f"exec 2>&1\n{start}\n{streamed.line}"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        readline = streamed.from_mark(WHERE, process.stdout.readline)
        assert [readline(100), readline(100)] == [b"first\n", b"second\n"]


def test_a_stream_that_never_begins_is_named() -> None:
    lines = iter([b"no shell for you\n", b""])
    readline = Streamed(["true"]).from_mark(WHERE, lambda _: next(lines))
    with pytest.raises(HostShellError, match="it printed: no shell for you"):
        readline(100)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sshd.Sshd]:
    if reason := sshd.missing():
        pytest.skip(reason)
    # Of a person who logs in with bash and a greeting.
    name = f"hub-shell-{os.getpid()}"
    folder = tmp_path_factory.mktemp("sshd")
    with contextlib.ExitStack() as stack:
        stack.enter_context(sshd.temporary_user(name, socket_path=None))
        home = tmp_path_factory.mktemp("home")
        greeting = home / "shell"
        greeting.write_text('#!/bin/bash\necho "Welcome to mirror"\nexec bash "$@"\n')
        for path in (home, *home.parents[:3]):
            path.chmod(path.stat().st_mode | 0o055)
        greeting.chmod(0o755)
        subprocess.run(["usermod", "--shell", str(greeting), name], check=True, timeout=30)
        settings = sshd.SshdSettings((name, "root"))
        yield stack.enter_context(sshd.running(folder, settings))


def test_a_real_login_with_a_greeting(server: sshd.Sshd) -> None:
    name = next(user for user in server.users if user != "root")
    host = SshHost(connection(server.connection(name, "")))
    with contextlib.closing(host):
        assert host.run(Command(["cat"], [b"piece"])) == Completed(0, b"piece", b"")
        assert host.shell_prints == "Welcome to mirror"
        with host.start(["echo", "streamed"]) as running:
            assert running.readline(100) == b"streamed\n"
            assert running.status() == 0


def test_a_real_key_with_a_forced_command(server: sshd.Sshd) -> None:
    keys = server.directory / "authorized" / "root"
    before = keys.read_text()
    keys.write_text(f'command="echo only backups" {before}')
    host = SshHost(connection(server.connection("root", "")))
    try:
        with contextlib.closing(host), pytest.raises(HostShellError, match="only backups"):
            host.run(Command(["true"]))
    finally:
        keys.write_text(before)


def test_a_shell_that_prints_nothing_is_no_finding(server: sshd.Sshd, tmp_path: Path) -> None:
    del tmp_path
    with contextlib.closing(SshHost(connection(server.connection("root", "")))) as host:
        assert host.run(Command(["echo", "in"])).stdout == b"in\n"
        assert host.shell_prints == ""
