"""The sandbox's SSH server leaves nothing behind: no process, no user."""

import contextlib
import pwd
from pathlib import Path

import psutil
import pytest

from sync.providers.host.commands import Command
from sync.providers.host.ssh import SshHost
from tests.providers.conftest import connection
from tests.sandbox.host import sshd


def test_sessions_end_with_the_server_and_users_are_removed(tmp_path: Path) -> None:
    if reason := sshd.missing():
        pytest.skip(reason)
    before = _servers()
    with sshd.temporary_user("hub-sandbox-test", socket_path=None) as user:
        assert pwd.getpwnam(user).pw_shell == "/bin/sh"
        with sshd.running(tmp_path, sshd.SshdSettings(("root",))) as server:
            transport = SshHost(connection(server.connection("root", "")))
            assert transport.run(Command(["echo", "up"])).stdout == b"up\n"
            started = _servers() - before
            assert len(started) >= 2
    assert not any(psutil.pid_exists(pid) for pid in started)
    with pytest.raises(KeyError):
        pwd.getpwnam("hub-sandbox-test")
    transport.close()


def _servers() -> set[int]:
    found = set()
    for process in psutil.Process().children(recursive=True):
        # Any of them may end at this moment.
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.name() == "sshd":
                found.add(process.pid)
    return found
