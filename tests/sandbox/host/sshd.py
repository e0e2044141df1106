"""An SSH server on loopback: the sandbox's remote host, with keys and users of its own.

It listens on 127.0.0.1 and ::1 on one free port, lets in by generated keys only, and trusts
nothing of the machine's own sshd. Needs root (to make users and to log in as them) and Debian's
openssh-server.
"""

import contextlib
import grp
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil

from tests.sandbox.host.ports import free_port

# What it takes, and the Debian package of each program.
PROGRAMS: Final = {"sshd": "openssh-server", "ssh-keygen": "openssh-client"}
_START_SECONDS: Final = 10.0
_STOP_SECONDS: Final = 10.0


@dataclass(frozen=True)
class SshUser:
    """A user that may log in; private_key is the path of its key."""

    name: str
    private_key: Path


@dataclass(frozen=True)
class Sshd:
    """A running server. known_hosts holds its pinned key for both addresses."""

    port: int
    directory: Path
    known_hosts: Path
    users: dict[str, SshUser] = field(default_factory=dict)

    def url(self, user: str, address: str = "127.0.0.1") -> str:
        """`ssh://` URL as host.dockerHost takes it."""
        host = f"[{address}]" if ":" in address else address
        return f"ssh://{user}@{host}:{self.port}"

    def connection(
        self, user: str, helper_image: str, address: str = "127.0.0.1"
    ) -> dict[str, str]:
        """Return the `host` input of every resource."""
        return {
            "dockerHost": self.url(user, address),
            "sshKeyPath": str(self.users[user].private_key),
            "knownHostsPath": str(self.known_hosts),
            "helperImage": helper_image,
        }


@dataclass(frozen=True)
class SshdSettings:
    """users: names that may log in. docker_host: what DOCKER_HOST is over there.

    options: further lines of sshd_config, for tests of its limits.
    """

    users: Sequence[str] = ("root",)
    docker_host: str = ""
    options: Sequence[str] = ()


def missing() -> str:
    """Say why no server can run here, or nothing."""
    if os.geteuid() != 0:
        return "needs root, to make users and to log in as them"
    packages = [package for name, package in PROGRAMS.items() if _program(name) is None]
    return f"needs Debian's {' and '.join(packages)}" if packages else ""


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def generate_key(path: Path) -> Path:
    """Make an ed25519 key pair without a passphrase; returns the private key's path."""
    keygen = _program("ssh-keygen") or "ssh-keygen"
    subprocess.run(
        [keygen, "-q", "-t", "ed25519", "-N", "", "-C", "sandbox", "-f", str(path)],
        check=True,
        timeout=30,
    )
    return path


@contextlib.contextmanager
def running(directory: Path, settings: SshdSettings) -> Iterator[Sshd]:
    """Yield a server whose keys, configuration and log stand in `directory`; ends it after."""
    port = free_port()
    host_key = generate_key(directory / "host_key")
    users = {
        name: SshUser(name, generate_key(directory / f"key-{name}")) for name in settings.users
    }
    _write_authorized_keys(directory, users)
    known_hosts = directory / "known_hosts"
    public = host_key.with_suffix(".pub").read_text().rsplit(" ", 1)[0]
    known_hosts.write_text("".join(f"[{a}]:{port} {public}\n" for a in ("127.0.0.1", "::1")))
    configuration = directory / "sshd_config"
    configuration.write_text("\n".join(_configuration(directory, port, settings)) + "\n")
    server = Sshd(port, directory, known_hosts, users)
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd's own privilege separation folder
    with (directory / "sshd.log").open("wb") as log:
        process = subprocess.Popen(
            [_program("sshd") or "sshd", "-D", "-e", "-f", str(configuration)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        _wait_until_listening(server, process)
        yield server
    finally:
        _end(process)


def _configuration(directory: Path, port: int, settings: SshdSettings) -> list[str]:
    environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
    if settings.docker_host:
        environment["DOCKER_HOST"] = settings.docker_host
    variables = " ".join(f"{name}={value}" for name, value in environment.items())
    return [
        f"Port {port}",
        "ListenAddress 127.0.0.1",
        "ListenAddress ::1",
        f"HostKey {directory / 'host_key'}",
        f"PidFile {directory / 'sshd.pid'}",
        f"AuthorizedKeysFile {directory}/authorized/%u",
        "StrictModes no",
        "UsePAM no",
        "PasswordAuthentication no",
        "KbdInteractiveAuthentication no",
        "PermitRootLogin prohibit-password",
        f"AllowUsers {' '.join(settings.users)}",
        "PrintMotd no",
        f"SetEnv {variables}",
        "Subsystem sftp internal-sftp",
        *settings.options,
    ]


def _write_authorized_keys(directory: Path, users: dict[str, SshUser]) -> None:
    folder = directory / "authorized"
    folder.mkdir()
    for user in users.values():
        public = user.private_key.with_suffix(".pub").read_text()
        (folder / user.name).write_text(public)
    # sshd reads the file as the user who logs in.
    for path in [directory, *directory.parents]:
        if path.stat().st_mode & 0o011 != 0o011:
            path.chmod(path.stat().st_mode | 0o011)


def _wait_until_listening(server: Sshd, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("::1", server.port), 1):
            return
        time.sleep(0.05)
    raise RuntimeError(f"sshd did not start: {(server.directory / 'sshd.log').read_text()[-500:]}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the server and the sessions it has, which would outlive it."""
    try:
        family = [*psutil.Process(process.pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        family = []
    process.terminate()
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.terminate()
    _gone, alive = psutil.wait_procs(family, _STOP_SECONDS)
    for member in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(_STOP_SECONDS)


@contextlib.contextmanager
def temporary_user(name: str, *, socket_path: Path | None) -> Iterator[str]:
    """Make an unprivileged user without a home, in the group of Docker's socket, and remove it.

    socket_path: Docker's socket, whose group the user joins; None for a user without Docker.
    """
    groups = ["--groups", _group_of(socket_path)] if socket_path is not None else []
    add, remove = _program("useradd") or "useradd", _program("userdel") or "userdel"
    command = [add, "--no-create-home", "--home-dir", "/nonexistent", "--shell", "/bin/sh"]
    # `*` is no password, yet the account is not locked: sshd refuses locked ones.
    subprocess.run([*command, "--password", "*", *groups, name], check=True, timeout=30)
    try:
        yield name
    finally:
        subprocess.run([remove, name], check=True, timeout=30)


def _group_of(socket_path: Path) -> str:
    group = socket_path.stat().st_gid
    if group == 0:
        raise RuntimeError(
            f"{socket_path} belongs to group root: start its engine with --group docker"
        )
    return grp.getgrgid(group).gr_name
