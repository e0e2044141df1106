"""A busy server and a broken connection have attempts of their own, and a bound."""

import io
from collections.abc import Callable, Iterator
from typing import Any

import paramiko
import pytest
import stamina

from sync.providers.host import ssh
from sync.providers.host.commands import Command
from sync.providers.host.connection import (
    HostConnection,
    HostError,
    HostLoginError,
    HostSessionsError,
    HostUnreachableError,
)
from sync.providers.host.ssh import SshHost

BUSY = HostSessionsError("does not greet")
FULL = paramiko.ChannelException(4, "Administratively prohibited")
BROKEN = EOFError("ended while idle")


class Server:
    """An SSH server, and the client of it: each step is what it answers, or raises."""

    def __init__(self, *steps: Exception | str) -> None:
        self.steps = list(steps)

    def step(self, *_arguments: Any, **_options: Any) -> Any:
        step = self.steps.pop(0)
        if isinstance(step, Exception):
            raise step
        return self

    connect = open_session = step

    def get_transport(self) -> "Server":
        return self

    def is_active(self) -> bool:
        return True

    def close(self) -> None:
        """End nothing."""


@pytest.fixture(autouse=True)
def without_pauses() -> Iterator[None]:
    with stamina.set_testing(True, attempts=100, cap=True):
        yield


def _open(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh, "connect", server.connect)
    SshHost(HostConnection("ssh://root@203.0.113.10"))._open_session()


@pytest.mark.parametrize(
    "steps",
    [
        [BUSY, BUSY, BUSY, "connected", "open"],
        ["connected", FULL, FULL, FULL, "open"],
        # A server that greets at last may still have no session left: neither takes the other's.
        [BUSY, BUSY, BUSY, "connected", FULL, FULL, FULL, "open"],
        ["connected", BROKEN, BUSY, BUSY, BUSY, "connected", FULL, BROKEN, "connected", "open"],
    ],
)
def test_a_session_is_opened_at_the_last_attempt(
    steps: list[Exception | str], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server(*steps)
    _open(server, monkeypatch)
    assert server.steps == []


@pytest.mark.parametrize(
    ("steps", "kind", "words"),
    [
        ([BUSY] * 4, HostSessionsError, "does not greet"),
        (["connected", *[FULL] * 4], HostSessionsError, "too many sessions .* MaxSessions"),
        (["connected", BROKEN] * 4, HostUnreachableError, "breaks again and again"),
        ([HostLoginError("not let in")], HostLoginError, "not let in"),
        (["connected", BROKEN, HostLoginError("not let in")], HostLoginError, "not let in"),
    ],
)
def test_attempts_are_bounded_and_the_last_failure_is_named(
    steps: list[Exception | str],
    kind: type[HostError],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = Server(*steps)
    with pytest.raises(kind, match=words):
        _open(server, monkeypatch)
    assert server.steps == []


class Shell(Server):
    """A connection whose one command ends without a status: its channel is closed."""

    def __init__(self, *, broken: bool) -> None:
        super().__init__("connected", "open")
        # One that breaks is inactive only when its thread has ended.
        self._broken, self._ended = broken, False

    def set_combine_stderr(self, combine: bool) -> None:
        pass

    def exec_command(self, _line: str) -> None:
        pass

    def makefile(self, _mode: str) -> io.BytesIO:
        return io.BytesIO()

    def recv_exit_status(self) -> int:
        return -1

    def join(self, _seconds: float) -> None:
        self._ended = self._broken

    def is_active(self) -> bool:
        return not self._ended


def test_a_command_killed_by_a_signal_is_no_broken_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for broken in (False, True):
        monkeypatch.setattr(ssh, "connect", Shell(broken=broken).connect)
        running = SshHost(HostConnection("ssh://root@203.0.113.10")).start(["true"])
        if broken:
            with pytest.raises(HostUnreachableError, match="the connection broke"):
                running.status()
        else:
            assert running.status() == -1


class Broken(Server):
    """A connection that breaks when a command starts, and again when its channel is closed."""

    def set_combine_stderr(self, combine: bool) -> None:
        pass

    def exec_command(self, _line: str) -> None:
        raise paramiko.SSHException("Channel closed.")

    def close(self) -> None:
        raise EOFError


@pytest.mark.parametrize("ask", [SshHost.run, SshHost.start])
def test_a_connection_that_breaks_at_a_commands_start_is_named_with_its_remedy(
    ask: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh, "connect", Broken("connected", "open").connect)
    transport = SshHost(HostConnection("ssh://root@203.0.113.10"))
    command = Command(["true"]) if ask is SshHost.run else ["true"]
    with pytest.raises(HostUnreachableError, match=r"in mid-command .* run pulumi up again"):
        ask(transport, command)
