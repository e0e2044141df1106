"""SSH to a host over networks as they are: NAT that forgets, addresses that lead nowhere."""

import contextlib
import dataclasses
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest

from sync.contract import dialing
from sync.providers.host import ssh
from sync.providers.host.commands import Command, Completed
from sync.providers.host.connection import HostUnreachableError
from sync.providers.host.ssh import SshHost
from tests.providers.conftest import connection
from tests.sandbox.host import netns, sshd
from tests.sandbox.wan import Link, Relay

NAME = "mirror.example"
LONG_SECONDS = 3600.0
SOON_SECONDS = 30.0
_T = TypeVar("_T")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sshd.Sshd]:
    if reason := sshd.missing():
        pytest.skip(reason)
    with sshd.running(tmp_path_factory.mktemp("sshd"), sshd.SshdSettings()) as running:
        yield running


@pytest.fixture(autouse=True)
def nothing_seen() -> Iterator[None]:
    dialing.forget()
    yield
    dialing.forget()


def reached_as(server: sshd.Sshd, host: str, port: int, folder: Path) -> SshHost:
    """Return the host under another name or port, at which its key is pinned too."""
    known = folder / "known_hosts"
    line = server.known_hosts.read_text().splitlines()[0]
    known.write_text(f"[{host}]:{port} {line.split(' ', 1)[1]}\n")
    other = dataclasses.replace(server, port=port, known_hosts=known)
    return SshHost(connection(other.connection("root", "", host)))


def soon(work: Callable[[], _T]) -> _T:
    """Return what the work does; fail if that takes long."""
    pool = ThreadPoolExecutor(1)
    try:
        return pool.submit(work).result(SOON_SECONDS)
    finally:
        pool.shutdown(wait=False)


def resolves(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    resolve = socket.getaddrinfo

    def answer(host: str, port: Any, *rest: Any, **options: Any) -> Any:
        if host != NAME or options.get("flags"):
            return resolve(host, port, *rest, **options)
        return [found for one in addresses for found in resolve(one, port, *rest, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", answer)


def test_a_connection_that_nat_forgot_is_made_anew_without_its_time_out(
    server: sshd.Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh, "_RESTED_SECONDS", 0.3)
    monkeypatch.setattr(ssh, "_RESTED_SESSION_SECONDS", 1.0)
    monkeypatch.setattr(ssh, "CONNECT_SECONDS", LONG_SECONDS)
    with Relay(("127.0.0.1", server.port), Link(forgets_seconds=2.0)) as nat:
        host = reached_as(server, "127.0.0.1", nat.address[1], tmp_path)
        with contextlib.closing(host):
            for _ in range(2):
                assert soon(lambda: host.run(Command(["echo", "in"]))).stdout == b"in\n"
                time.sleep(3)
        assert nat.accepted == 2


def test_a_busy_connection_is_not_taken_for_forgotten(
    server: sshd.Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh, "_RESTED_SECONDS", 0.1)
    monkeypatch.setattr(ssh, "_RESTED_SESSION_SECONDS", 0.0)
    with Relay(("127.0.0.1", server.port)) as relay:
        host = reached_as(server, "127.0.0.1", relay.address[1], tmp_path)
        with contextlib.closing(host), ThreadPoolExecutor(1) as pool:
            long = pool.submit(host.run, Command(["sleep", "1"]))
            time.sleep(0.5)
            assert host.run(Command(["echo", "in"])).stdout == b"in\n"
            assert long.result(SOON_SECONDS) == Completed(0, b"", b"")
        assert relay.accepted == 1


@pytest.mark.parametrize("silent", ["::1"])
def test_an_address_that_accepts_in_silence_costs_one_time_out(
    server: sshd.Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, silent: str
) -> None:
    monkeypatch.setattr(ssh, "CONNECT_SECONDS", 5.0)
    kept: list[socket.socket] = []
    family = socket.AF_INET6 if ":" in silent else socket.AF_INET
    with (
        Relay(("127.0.0.1", server.port)) as relay,
        socket.create_server((silent, relay.address[1]), family=family) as listener,
    ):
        resolves(monkeypatch, silent, "127.0.0.1")
        threading.Thread(target=_accept, args=[listener, kept], daemon=True).start()
        for _ in range(3):
            with contextlib.closing(reached_as(server, NAME, relay.address[1], tmp_path)) as host:
                assert host.run(Command(["echo", "in"])).stdout == b"in\n"
                # Docker's own ssh does not know, so preflight says it.
                assert host.dead_addresses() == (silent,)
        assert len(kept) == 1
    for client in kept:
        client.close()


def _accept(listener: socket.socket, kept: list[socket.socket]) -> None:
    with contextlib.suppress(OSError):
        while True:
            kept.append(listener.accept()[0])


def test_a_resolver_that_fails_for_a_while_is_named(
    server: sshd.Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    host = SshHost(connection(server.connection("root", "", NAME)))
    with pytest.raises(HostUnreachableError, match=r"no answer for now .*/etc/resolv.conf"):
        host.run(Command(["true"]))


def test_a_way_that_breaks_in_silence_ends_the_command_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if reason := netns.missing() or sshd.missing():
        pytest.skip(reason)
    monkeypatch.setattr(ssh, "_KEEPALIVE_SECONDS", 1)
    monkeypatch.setattr(ssh, "_UNACKNOWLEDGED_SECONDS", 2)
    with netns.own_network(), sshd.running(tmp_path, sshd.SshdSettings()) as server:
        host = SshHost(connection(server.connection("root", "")))
        with contextlib.closing(host), ThreadPoolExecutor(1) as pool:
            host.run(Command(["true"]))
            slow = pool.submit(host.run, Command(["sleep", "300"], timeout_seconds=LONG_SECONDS))
            time.sleep(0.5)
            netns.lose_everything()
            with pytest.raises(HostUnreachableError, match="broke in mid-command"):
                slow.result(SOON_SECONDS)
