"""The ssh of Docker's client believes the project's files alone, whatever is configured for ssh."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from components.host import ssh_options
from components.settings.model import HostSettings
from tests.sandbox.host import sshd

# Of the machine (/etc/ssh/ssh_config) and of the user (~/.ssh/config), as ssh_config(5) has them.
CONFIGURED: Final = {
    "nothing": "",
    "another machine": "HostName 127.0.0.9",
    "a way of their own": "ProxyCommand false",
    "a command of their own": "RemoteCommand echo theirs",
    "a terminal": "RequestTTY force",
    "no input": "StdinNull yes",
    "no session": "SessionType none",
    "background": "ForkAfterAuthentication yes",
    "another name of the key": "HostKeyAlias other",
    "a forwarding that fails": "LocalForward 127.0.0.1:1 127.0.0.1:1\nExitOnForwardFailure yes",
    "a shared connection": "ControlMaster yes\nControlPath /nonexistent/socket",
    "other ciphers": "Ciphers aes128-cbc",
    "what this ssh does not know": "Sorcery yes",
}
_ELSEWHERE: Final = """
mount --bind "$1" /etc/ssh/ssh_config
mount -t tmpfs tmpfs /root
mkdir -m 0700 /root/.ssh
cp "$1" /root/.ssh/config
chmod 0600 /root/.ssh/config
shift
exec "$@"
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sshd.Sshd]:
    if reason := sshd.missing():
        pytest.skip(reason)
    if not Path("/etc/ssh/ssh_config").exists():
        pytest.skip("needs /etc/ssh/ssh_config, to put another one in its place")
    with sshd.running(tmp_path_factory.mktemp("sshd"), sshd.SshdSettings()) as running:
        yield running


def by_ssh(
    server: sshd.Sshd, known_hosts: Path, configured: Path, *command: str
) -> subprocess.CompletedProcess[bytes]:
    """Run a command by ssh, as Docker's client does, on a machine that is configured so."""
    settings = HostSettings(
        docker=server.url("root"),
        ssh_key_path=str(server.users["root"].private_key),
        known_hosts_path=str(known_hosts),
    )
    ssh = ["ssh", "-l", "root", "-p", str(server.port), *(ssh_options(settings) or []), "-T"]
    return subprocess.run(
        [
            "unshare",
            "-m",
            "sh",
            "-ec",
            _ELSEWHERE,
            "sh",
            str(configured),
            *ssh,
            "--",
            "127.0.0.1",
            *command,
        ],
        input=b"in",
        capture_output=True,
        timeout=30,
        check=False,
        env={**os.environ, "HOME": "/root"},
    )


@pytest.mark.parametrize("what", CONFIGURED)
def test_no_configuration_comes_between(server: sshd.Sshd, tmp_path: Path, what: str) -> None:
    configured = tmp_path / "config"
    configured.write_text(f"{CONFIGURED[what]}\n")
    done = by_ssh(server, server.known_hosts, configured, "cat; echo ' and out'")
    assert (done.returncode, done.stdout) == (0, b"in and out\n"), done.stderr


@pytest.mark.parametrize("way", ["KnownHostsCommand", "GlobalKnownHostsFile", "checks no key"])
def test_no_configuration_makes_a_host_known(server: sshd.Sshd, tmp_path: Path, way: str) -> None:
    nobody = tmp_path / "known_hosts"
    nobody.touch()
    configured = tmp_path / "config"
    configured.write_text(
        {
            "KnownHostsCommand": f"KnownHostsCommand /bin/cat {server.known_hosts}\n",
            "GlobalKnownHostsFile": f"GlobalKnownHostsFile {server.known_hosts}\n",
            "checks no key": "StrictHostKeyChecking no\nNoHostAuthenticationForLocalhost yes\n",
        }[way]
    )
    done = by_ssh(server, nobody, configured, "echo in")
    assert (done.returncode, done.stdout) == (255, b"")
    assert b"Host key verification failed" in done.stderr


def test_no_configuration_runs_a_program_here(server: sshd.Sshd, tmp_path: Path) -> None:
    configured = tmp_path / "config"
    configured.write_text(f'Match exec "touch {tmp_path}/ran"\n')
    assert by_ssh(server, server.known_hosts, configured, "true").returncode == 0
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("folder", ["my hub", "two  blanks", "it's", "a#b", "a~b", "a$b", "x=y,z"])
def test_the_projects_files_may_be_in_any_folder(
    server: sshd.Sshd, tmp_path: Path, folder: str
) -> None:
    configured = tmp_path / "config"
    configured.touch()
    moved = tmp_path / folder
    moved.mkdir()
    known_hosts = moved / "known_hosts"
    known_hosts.write_bytes(server.known_hosts.read_bytes())
    assert by_ssh(server, known_hosts, configured, "true").returncode == 0
