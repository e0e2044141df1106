"""Each way that SSH fails has its own message; one connection serves all that works."""

import errno
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sync.providers.host import ssh
from sync.providers.host.commands import Command
from sync.providers.host.connection import (
    HostDockerError,
    HostError,
    HostKeyError,
    HostLoginError,
    HostSessionsError,
    HostSpaceError,
    HostTimeoutError,
    HostUnreachableError,
    SshAddress,
)
from sync.providers.host.host import DataRoot
from sync.providers.host.ssh import SshHost
from tests.providers.conftest import connection
from tests.sandbox.host import sshd
from tests.sandbox.host.ports import free_port

pytestmark = pytest.mark.docker


def _connected(host: dict[str, str]) -> SshHost:
    return SshHost(connection(host))


@pytest.fixture
def root_host(ssh_server: sshd.Sshd, helper_image: str) -> dict[str, str]:
    return ssh_server.connection("root", helper_image)


@pytest.fixture
def transport(root_host: dict[str, str]) -> Iterator[SshHost]:
    made = _connected(root_host)
    yield made
    made.close()


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_command_gets_its_stdin_and_gives_both_outputs_and_its_status(
    ssh_server: sshd.Sshd, address: str
) -> None:
    transport = _connected(ssh_server.connection("root", "", address))
    script = "cat; echo trouble >&2; exit 3"
    completed = transport.run(Command(["sh", "-c", script], [b"one ", b"two"]))
    transport.close()
    assert (completed.status, completed.stdout, completed.stderr) == (3, b"one two", b"trouble\n")


def test_arguments_reach_the_program_unharmed(transport: SshHost) -> None:
    arguments = ["a b", "$HOME", "'\"`", "*", "ü"]
    completed = transport.run(Command(["printf", "%s\\n", *arguments]))
    assert completed.stdout.decode().splitlines() == arguments


def test_twenty_megabytes_pass_both_ways(transport: SshHost) -> None:
    piece = bytes(range(256)) * 4096
    completed = transport.run(Command(["cat"], [piece] * 20, output_limit_bytes=32 << 20))
    assert completed.stdout == piece * 20


def test_one_connection_is_reused(transport: SshHost) -> None:
    ports = {transport.run(Command(["sh", "-c", "echo $SSH_CONNECTION"])).stdout for _ in range(5)}
    assert len(ports) == 1


def test_a_broken_connection_is_opened_anew(transport: SshHost) -> None:
    transport.run(Command(["true"]))
    transport._transport().close()
    assert transport.run(Command(["echo", "again"])).stdout == b"again\n"


def test_endless_output_is_bounded(transport: SshHost) -> None:
    with pytest.raises(HostError, match="printed over 1000 bytes"):
        transport.run(Command(["sh", "-c", "while :; do echo y; done"], output_limit_bytes=1000))


def test_a_slow_command_times_out_by_name(transport: SshHost) -> None:
    with pytest.raises(HostTimeoutError, match=r"sleep: not finished after 0\.5 s"):
        transport.run(Command(["sleep", "30"], timeout_seconds=0.5))


def test_refused(root_host: dict[str, str]) -> None:
    port = free_port()
    host = {**root_host, "dockerHost": f"ssh://root@127.0.0.1:{port}"}
    with pytest.raises(HostUnreachableError, match="connection refused; is sshd running"):
        _connected(host).run(Command(["true"]))


def test_name_that_does_not_resolve(root_host: dict[str, str]) -> None:
    host = {**root_host, "dockerHost": "ssh://root@mirror.invalid"}
    with pytest.raises(HostUnreachableError, match="the name does not resolve"):
        _connected(host).run(Command(["true"]))


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (OSError(errno.EHOSTUNREACH, "No route to host"), "unreachable .No route to host.; is the"),
        (OSError(errno.ENETUNREACH, "Network is unreachable"), "is there a route to it"),
        (TimeoutError(), "no answer within 15 s; is the host up"),
    ],
)
def test_unreachable(
    root_host: dict[str, str], monkeypatch: pytest.MonkeyPatch, failure: OSError, words: str
) -> None:
    def fail(*_: object) -> None:
        raise failure

    monkeypatch.setattr(ssh, "dial_any", fail)
    with pytest.raises(HostUnreachableError, match=words):
        _connected(root_host).run(Command(["true"]))


def test_the_port_that_a_firewall_must_let_in_is_the_one_that_was_tried(
    root_host: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise TimeoutError

    monkeypatch.setattr(ssh, "dial_any", fail)
    host = {**root_host, "dockerHost": "ssh://root@203.0.113.10:2222"}
    with pytest.raises(HostUnreachableError, match="firewall let port 2222 in"):
        _connected(host).run(Command(["true"]))


def test_a_host_that_accepts_and_says_nothing_is_named(
    root_host: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sync.providers.host.ssh.CONNECT_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host = {**root_host, "dockerHost": f"ssh://root@127.0.0.1:{silent.getsockname()[1]}"}
        with pytest.raises(HostSessionsError, match="ended the connection before it began"):
            _connected(host).run(Command(["true"]))


def test_unknown_host_key(root_host: dict[str, str], tmp_path: Path) -> None:
    empty = tmp_path / "known_hosts"
    empty.write_text("")
    with pytest.raises(HostKeyError, match=r"not in .*known_hosts; see its fingerprint and pin it"):
        _connected({**root_host, "knownHostsPath": str(empty)}).run(Command(["true"]))


@pytest.mark.parametrize("path", ["", "/nonexistent/known_hosts"])
def test_no_known_hosts_at_all(root_host: dict[str, str], path: str) -> None:
    with pytest.raises(HostKeyError, match=r"known.hosts pin"):
        _connected({**root_host, "knownHostsPath": path}).run(Command(["true"]))


def test_changed_host_key_stops_before_anything_is_sent(
    ssh_server: sshd.Sshd, root_host: dict[str, str], tmp_path: Path
) -> None:
    other = sshd.generate_key(tmp_path / "other").with_suffix(".pub").read_text()
    wrong = tmp_path / "known_hosts"
    wrong.write_text(f"[127.0.0.1]:{ssh_server.port} {other}")
    log = ssh_server.directory / "sshd.log"
    accepted = log.read_text().count("Accepted")
    with pytest.raises(HostKeyError, match=r"HOST KEY CHANGED: pinned is .*SHA256:.* offers"):
        _connected({**root_host, "knownHostsPath": str(wrong)}).run(Command(["true"]))
    assert log.read_text().count("Accepted") == accepted


def test_wrong_key(root_host: dict[str, str], tmp_path: Path) -> None:
    key = sshd.generate_key(tmp_path / "stranger")
    with pytest.raises(HostLoginError, match=r"user root is not let in with key .*stranger"):
        _connected({**root_host, "sshKeyPath": str(key)}).run(Command(["true"]))


def test_missing_key(root_host: dict[str, str], tmp_path: Path) -> None:
    key = tmp_path / "missing"
    with pytest.raises(HostLoginError, match=r"host\.sshKeyPath .*/missing does not exist"):
        _connected({**root_host, "sshKeyPath": str(key)}).run(Command(["true"]))


def test_encrypted_key(root_host: dict[str, str], tmp_path: Path) -> None:
    key = sshd.generate_key(tmp_path / "locked")
    subprocess.run(
        ["ssh-keygen", "-q", "-p", "-P", "", "-N", "a passphrase", "-f", str(key)],
        check=True,
        timeout=30,
        stdout=subprocess.DEVNULL,
    )
    with pytest.raises(HostLoginError, match=r"encrypted.*ssh-keygen -p -N '' -f"):
        _connected({**root_host, "sshKeyPath": str(key)}).run(Command(["true"]))


def test_a_file_that_is_no_key(root_host: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "nonsense"
    path.write_text("not a key")
    with pytest.raises(HostLoginError, match="cannot be used"):
        _connected({**root_host, "sshKeyPath": str(path)}).run(Command(["true"]))


def test_no_docker_group(ssh_server: sshd.Sshd, stranger: str, helper_image: str) -> None:
    host = _connected(ssh_server.connection(stranger, helper_image))
    with pytest.raises(HostDockerError, match="add it to the docker group"):
        host.run_docker("version")


def test_docker_is_not_installed(ssh_server: sshd.Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    host = _connected(ssh_server.connection("root", ""))
    monkeypatch.setattr(host, "docker", lambda *_: ["docker-that-is-not-there"])
    with pytest.raises(HostDockerError, match="install Docker"):
        host.run_docker("version")


def test_docker_does_not_run(ssh_server: sshd.Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    host = _connected(ssh_server.connection("root", ""))
    nobody = ["docker", "--host", "unix:///nonexistent.sock", "version"]
    monkeypatch.setattr(host, "docker", lambda *_: nobody)
    with pytest.raises(HostDockerError, match="start it"):
        host.run_docker("version")


def test_no_space(
    ssh_server: sshd.Sshd, docker_member: str, helper_image: str, tmp_path: Path
) -> None:
    full = tmp_path / "full"
    full.mkdir()
    size = ["-o", "size=64k,mode=755"]
    subprocess.run(["mount", "-t", "tmpfs", *size, "tmpfs", str(full)], check=True, timeout=30)
    try:
        host = connection(ssh_server.connection(docker_member, helper_image))
        content = "QUFB" * 100_000
        file: dict[str, Any] = {"path": "large", "uid": 0, "mode": 0o644, "content": content}
        with pytest.raises(HostSpaceError, match="no space left"):
            DataRoot(host, str(full)).as_root("write_files", files=[file])
        assert list(full.iterdir()) == []
    finally:
        subprocess.run(["umount", str(full)], check=True, timeout=30)


def test_too_many_sessions(
    tmp_path: Path, engine_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = sshd.SshdSettings(docker_host=engine_url, options=["MaxSessions 1"])
    with sshd.running(tmp_path, settings) as server:
        transport = _connected(server.connection("root", ""))
        session = transport._open_session()
        with pytest.raises(HostSessionsError, match=r"too many sessions .* MaxSessions"):
            transport.run(Command(["true"]))
        session.close()
        assert transport.run(Command(["echo", "now"])).stdout == b"now\n"
        transport.close()


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("ssh://root@203.0.113.10", SshAddress("root", "203.0.113.10")),
        ("ssh://hub@mirror.example.org:2222", SshAddress("hub", "mirror.example.org", 2222)),
        ("ssh://root@[2001:db8::1]:22", SshAddress("root", "2001:db8::1")),
    ],
)
def test_addresses(url: str, address: SshAddress) -> None:
    assert SshAddress.parse(url) == address


@pytest.mark.parametrize("url", ["ssh://", "http://x", "ssh://root@x:99999", "ssh://a:b@c"])
def test_wrong_addresses_are_named(url: str) -> None:
    with pytest.raises(HostError, match=r"is not ssh://user@host"):
        SshAddress.parse(url)
