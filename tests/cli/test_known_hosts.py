"""`gridhub known-hosts` shows and pins what an SSH server offers, and never without being asked."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sync.providers.host.commands import Command
from sync.providers.host.connection import HostConnection
from sync.providers.host.ssh import SshHost
from tests.cli.conftest import run
from tests.sandbox.host import sshd


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sshd.Sshd]:
    if reason := sshd.missing():
        pytest.skip(reason)
    with sshd.running(tmp_path_factory.mktemp("sshd"), sshd.SshdSettings()) as running:
        yield running


def test_show_and_pin_a_host_key(server: sshd.Sshd, tmp_path: Path) -> None:
    path = tmp_path / "project" / "known_hosts"
    arguments = [server.url("root", "::1"), "--known-hosts", str(path)]
    shown = run("known-hosts", "show", *arguments)
    assert shown.exit_code == 0
    assert "SHA256:" in shown.stdout
    assert f"gridhub known-hosts pin {' '.join(arguments)}" in shown.stdout
    for answer in ("", "no\n"):
        refused = run("known-hosts", "pin", *arguments, stdin=answer)
        assert refused.exit_code == 1
        assert "not confirmed; nothing was pinned" in refused.stderr
    assert run("known-hosts", "pin", *arguments, "--yes", "--dry-run").exit_code == 0
    assert not path.exists()
    assert run("known-hosts", "pin", *arguments, stdin="Yes\n").exit_code == 0
    assert run("known-hosts", "pin", *arguments, "--yes").exit_code == 0
    assert len(path.read_text().splitlines()) == 1
    here = server.connection("root", "", "::1")
    transport = SshHost(HostConnection(here["dockerHost"], here["sshKeyPath"], str(path)))
    assert transport.run(Command(["echo", "in"])).stdout == b"in\n"
    transport.close()


def test_a_changed_key_is_pinned_only_on_request(server: sshd.Sshd, tmp_path: Path) -> None:
    other = sshd.generate_key(tmp_path / "other").with_suffix(".pub").read_text()
    path = tmp_path / "known_hosts"
    before = f"# kept\nexample.org {other}[127.0.0.1]:{server.port} {other}"
    path.write_text(before)
    arguments = [server.url("root"), "--known-hosts", str(path)]
    assert run("known-hosts", "show", *arguments).exit_code == 1
    refused = run("known-hosts", "pin", *arguments, "--yes")
    assert refused.exit_code == 1
    assert "repeat with --replace" in refused.stderr
    wrong = ["--replace", "--fingerprint", "SHA256:wrong"]
    assert run("known-hosts", "pin", *arguments, *wrong).exit_code == 1
    assert path.read_text() == before
    assert run("known-hosts", "pin", *arguments, "--replace", "--yes").exit_code == 0
    lines = path.read_text().splitlines()
    assert lines[:2] == ["# kept", f"example.org {other.strip()}"]
    assert len(lines) == 3


NO_SSHD = {
    "a web server": b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
    "one that hangs up": b"",
    "one that has too many": b"Exceeded MaxStartups\r\n",
    "what is no text": bytes(range(256)) * 4,
    "one that hangs up later": b"SSH-2.0-x\r\n",
    "one that talks nonsense": b"SSH-2.0-x\r\n\0\0\0\x0c\x0a\x14" + bytes(30),
    "one of long ago": b"SSH-1.5-x\r\n",
}


@pytest.mark.parametrize("said", NO_SSHD.values(), ids=NO_SSHD)
def test_what_is_no_sshd_is_named_with_a_remedy(said: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            taken, _ = listener.accept()
            with taken, contextlib.suppress(OSError):
                taken.sendall(said)

        thread = threading.Thread(target=answer)
        thread.start()
        shown = run("known-hosts", "show", f"ssh://root@127.0.0.1:{listener.getsockname()[1]}")
        thread.join()
    assert shown.exit_code == 2
    assert "is it sshd that listens there, on this port?" in shown.stderr
    assert "()" not in shown.stderr
