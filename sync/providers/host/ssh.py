"""Commands on a remote host by SSH: one connection, reused by every provider of the process.

Only the project's known_hosts file is trusted. A host key that is not there, or is another one,
stops before our key is offered.
"""

import contextlib
import shlex
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import paramiko
import stamina

from sync.contract.dialing import bad_addresses, fell_silent_at
from sync.contract.dialing import dial as dial_any
from sync.providers.host.commands import PIECE_BYTES, Command, Completed, Running, exchange
from sync.providers.host.connection import (
    HostConnection,
    HostError,
    HostKeyError,
    HostLoginError,
    HostSessionsError,
    HostUnreachableError,
    SshAddress,
)
from sync.providers.host.host import Host
from sync.providers.host.host_keys import fingerprint, load
from sync.providers.host.key_text import fault_of_key, fault_of_mode
from sync.providers.host.login_shell import Framed, Streamed

CONNECT_SECONDS: Final = 15.0
_WINDOW_BYTES: Final = 1 << 22
_RETRYING: Final = stamina.RetryingCaller(attempts=4, timeout=None, wait_initial=0.5, wait_jitter=0)
# Sessions of ours at once: sshd's MaxSessions is 10 by default and Docker's client has its own.
_SESSIONS: Final = 4
_KEEPALIVE_SECONDS: Final = 15
_UNACKNOWLEDGED_SECONDS: Final = 45
# A connection on which nothing ran for so long gets this long to open a session, before another
# one is made.
_RESTED_SECONDS: Final = 10.0
_RESTED_SESSION_SECONDS: Final = 4.0
_NO_STATUS: Final = -1  # paramiko's: the channel closed without one
_ENDING_SECONDS: Final = 2.0
_PIN: Final = "gridhub known-hosts pin"
_BREAKS: Final = (paramiko.SSHException, EOFError, OSError)


class SshHost(Host):
    """A host by one SSH connection, opened on first use and reopened when it broke."""

    def __init__(self, connection: HostConnection) -> None:
        super().__init__(connection)
        self._address = SshAddress.parse(connection.docker_host)
        self._lock = threading.Lock()
        self._sessions = threading.BoundedSemaphore(_SESSIONS)
        self._client: paramiko.SSHClient | None = None
        # Sessions in use, and when (monotonic) the last one ended.
        self._in_use = 0
        self._used_at = 0.0

    def run(self, command: Command) -> Completed:
        """Run to the end; HostError for everything that kept it from running."""
        # Closing a channel of a connection that is gone raises too: it is named likewise.
        framed = Framed(command.argv)
        with self._sessions, self._named(), contextlib.closing(self._open_session()) as channel:
            try:
                channel.exec_command(framed.line)
                completed = exchange(_RemoteProgram(channel), command)
            finally:
                self._note_use(-1)
        completed, printed = framed.opened(str(self._address), completed)
        self.shell_prints = self.shell_prints or printed
        return completed

    def dead_addresses(self) -> tuple[str, ...]:
        """Return addresses of the host at which nobody answered though another one did."""
        return tuple(bad_addresses(self._address.host, self._address.port))

    def start(self, argv: Sequence[str]) -> Running:
        """Start a command whose output is read while it runs; the caller ends it."""
        streamed = Streamed(argv)
        channel = self._open_session()
        with self._named():
            channel.set_combine_stderr(True)
            channel.exec_command(streamed.line)

        def status() -> int:
            try:
                return _status(channel)
            except EOFError as error:
                raise HostUnreachableError(f"{self._address}: the connection broke") from error

        readline = streamed.from_mark(str(self._address), channel.makefile("rb").readline)
        return Running(readline, status, channel.close)

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except _BREAKS as error:
            raise HostUnreachableError(
                f"{self._address}: the connection broke in mid-command ({error}); "
                "run pulumi up again, every operation is safe to repeat"
            ) from error

    def close(self) -> None:
        """End the connection."""
        with self._lock:
            if self._client is not None:
                self._client.close()
                self._client = None

    def _open_session(self) -> paramiko.Channel:
        """Open a session; a server that has none left, or a connection that broke, is retried."""
        try:
            return _RETRYING(_BREAKS, self._try_session)
        except paramiko.ChannelException as error:
            raise HostSessionsError(
                f"{self._address}: too many sessions ({error.text}): run pulumi with "
                "--parallel 4, or raise MaxSessions in the host's sshd_config"
            ) from error
        except _BREAKS as error:
            raise HostUnreachableError(
                f"{self._address}: the connection breaks again and again"
            ) from error

    def _note_use(self, change: int) -> None:
        with self._lock:
            self._in_use += change
            self._used_at = time.monotonic()

    def _patience_seconds(self) -> float:
        """Return for how long to wait for a session: NAT may have forgotten what rested."""
        rested = not self._in_use and time.monotonic() - self._used_at > _RESTED_SECONDS
        return min(CONNECT_SECONDS, _RESTED_SESSION_SECONDS) if rested else CONNECT_SECONDS

    def _try_session(self) -> paramiko.Channel:
        fresh = self._client is None
        transport = self._transport()
        patience = CONNECT_SECONDS if fresh else self._patience_seconds()
        try:
            channel = transport.open_session(window_size=_WINDOW_BYTES, timeout=patience)
        except paramiko.ChannelException:
            raise
        except _BREAKS:
            self.close()  # it broke while idle: the next attempt connects anew
            raise
        self._note_use(1)
        return channel

    def _transport(self) -> paramiko.Transport:
        with self._lock:
            transport = self._client.get_transport() if self._client is not None else None
            if transport is None or not transport.is_active():
                # Attempts of its own: a server too busy to greet us (MaxStartups) takes none of
                # those that a session has.
                self._client = _RETRYING(HostSessionsError, connect, self.connection, self._address)
                transport = self._client.get_transport()
            if transport is None:
                raise HostUnreachableError(f"{self._address}: the connection ended at once")
            return transport


def connect(connection: HostConnection, address: SshAddress) -> paramiko.SSHClient:
    """Open one authenticated connection, or raise the HostError that names what is wrong."""
    client = paramiko.SSHClient()
    client.set_missing_host_key_policy(paramiko.RejectPolicy())
    _load_known_hosts(client, connection)
    stream, key = dial(address), _load_key(connection)
    peer: tuple[Any, ...] | None = None
    with contextlib.suppress(OSError):  # it may have been reset already
        peer = stream.getpeername()
    try:
        client.connect(
            address.host,
            port=address.port,
            username=address.user,
            pkey=key,
            sock=stream,
            look_for_keys=False,
            allow_agent=not connection.ssh_key_path,
            timeout=CONNECT_SECONDS,
            banner_timeout=CONNECT_SECONDS,
            auth_timeout=CONNECT_SECONDS,
            channel_timeout=CONNECT_SECONDS,
        )
        if transport := client.get_transport():
            transport.set_keepalive(_KEEPALIVE_SECONDS)
    except Exception as error:
        if peer is not None and _is_silence(error):
            fell_silent_at(peer)
        client.close()
        raise _failure(connection, address, error) from error
    return client


def _is_silence(error: Exception) -> bool:
    """Return whether the server did not greet in time: said of the banner, or of what follows."""
    timed_out = any(isinstance(one, TimeoutError) for one in (error, error.__context__))
    return timed_out or "No existing session" in str(error)


def dial(address: SshAddress) -> socket.socket:
    """Open the TCP connection, or raise what names it unreachable, refused or unknown."""
    where = f"{address} ({address.host} port {address.port})"
    try:
        stream = dial_any(address.host, address.port, CONNECT_SECONDS)
    except OSError as error:
        match error:
            case socket.gaierror(errno=socket.EAI_AGAIN):
                why = (
                    f"the resolver has no answer for now ({error.strerror}); check this machine's "
                    "DNS (/etc/resolv.conf), then run it again"
                )
            case socket.gaierror():
                why = f"the name does not resolve ({error.strerror}); check host.docker and DNS"
            case ConnectionRefusedError():
                why = f"{_refusal(error)}; is sshd running there, on this port?"
            case TimeoutError():
                why = (
                    f"no answer within {CONNECT_SECONDS:g} s; is the host up, and does its "
                    f"firewall let port {address.port} in from here?"
                )
            case _:
                why = f"unreachable ({error.strerror}); is the host up, and is there a route to it?"
        raise HostUnreachableError(f"{where}: {why}") from error
    if (option := getattr(socket, "TCP_USER_TIMEOUT", None)) is not None:
        # What is not acknowledged for so long never will be: a command says so, and need not wait
        # for its own time-out.
        with contextlib.suppress(OSError):
            stream.setsockopt(socket.IPPROTO_TCP, option, _UNACKNOWLEDGED_SECONDS * 1000)
    return stream


def _refusal(error: ConnectionRefusedError) -> str:
    several = ";" in (error.strerror or "")
    return f"connection refused ({error.strerror})" if several else "connection refused"


def _load_known_hosts(client: paramiko.SSHClient, connection: HostConnection) -> None:
    if not connection.known_hosts_path:
        raise HostKeyError(
            "host.knownHostsPath is not set: name the project's known_hosts file, and pin the "
            f"host's key with: {_PIN} {connection.docker_host}"
        )
    path = Path(connection.known_hosts_path).expanduser()
    if not path.exists():
        raise HostKeyError(
            f"host.knownHostsPath {path} does not exist; see the host's fingerprint and pin it "
            f"with: {_pin_command(connection)}"
        )
    load(path, client.get_host_keys())


def _pin_command(connection: HostConnection) -> str:
    path = shlex.quote(connection.known_hosts_path)
    return f"{_PIN} {connection.docker_host} --known-hosts {path}"


def _load_key(connection: HostConnection) -> paramiko.PKey | None:
    """Return the private key; None lets the SSH agent answer."""
    if not connection.ssh_key_path:
        return None
    path = Path(connection.ssh_key_path).expanduser()
    try:
        # What paramiko reads all the same the ssh of Docker's client does not.
        fault = fault_of_key(path.read_bytes())
        key = None if fault else paramiko.PKey.from_path(path)
        fault = fault or fault_of_mode(path.stat())
    except Exception as error:
        why = f"cannot be used: {error or type(error).__name__}"
        if isinstance(error, FileNotFoundError):
            why = "does not exist; name the private key for the host"
        if isinstance(error, TypeError):  # paramiko asks for a passphrase this way
            why = (
                "is encrypted, and nobody is there to ask for its passphrase; make a key for this "
                "host alone that has none (ssh-keygen -t ed25519), or take the passphrase off: "
                f"ssh-keygen -p -N '' -f {shlex.quote(str(path))}"
            )
        raise HostLoginError(f"host.sshKeyPath {path} {why}") from error
    if fault:
        what, remedy = fault
        raise HostLoginError(
            f"host.sshKeyPath {path} {what}, and ssh does not take it so; "
            f"make it right: {remedy.format(path=shlex.quote(str(path)))}"
        )
    return key


def _failure(connection: HostConnection, address: SshAddress, error: Exception) -> HostError:
    if isinstance(error, paramiko.BadHostKeyException):
        return HostKeyError(
            f"{address}: THE HOST KEY CHANGED: pinned is {fingerprint(error.expected_key)}, the "
            f"host offers {fingerprint(error.key)}. Nothing was sent. If the host was reinstalled, "
            f"compare the fingerprint on its console and pin it with: {_pin_command(connection)} "
            "--replace"
        )
    if isinstance(error, paramiko.AuthenticationException):
        key = connection.ssh_key_path or "the SSH agent's"
        return HostLoginError(
            f"{address}: user {address.user} is not let in with key {key}; add its public half to "
            f"~{address.user}/.ssh/authorized_keys on the host, or name another host.sshKeyPath"
        )
    text = str(error)
    if "not found in known_hosts" in text:
        return HostKeyError(
            f"{address}: its host key is not in {connection.known_hosts_path}; see its fingerprint "
            f"and pin it with: {_pin_command(connection)}"
        )
    return refused_greeting(address, error)


def refused_greeting(address: SshAddress, error: Exception) -> HostError:
    """Return the error for a server with which no SSH connection came about."""
    text = str(error) or type(error).__name__
    reset = isinstance(error, ConnectionResetError | BrokenPipeError | EOFError)
    if reset or not str(error) or "banner" in text or "No existing session" in text:
        return HostSessionsError(
            f"{address}: the SSH server ended the connection before it began, or does not greet "
            f"({text}): is it sshd that listens there, on this port? If so, too many connections "
            "at once? Run pulumi with --parallel 4, or raise MaxStartups in the host's sshd_config"
        )
    return HostUnreachableError(
        f"{address}: SSH failed: {text}; is it sshd that listens there, on this port?"
    )


def _status(channel: paramiko.Channel) -> int:
    """Wait for the exit status; EOFError where the connection ended before the command did.

    A command that a signal has killed has none (RFC 4254, 6.10), and paramiko drops the signal.
    """
    status, connection = channel.recv_exit_status(), channel.get_transport()
    if status == _NO_STATUS:
        # One that breaks closes its channels, and is inactive after that (paramiko: Transport.run).
        connection.join(_ENDING_SECONDS)
        if not connection.is_active():
            raise EOFError("the connection ended before the command did")
    return status


class _RemoteProgram:
    """A command over an SSH channel."""

    def __init__(self, channel: paramiko.Channel) -> None:
        self._channel = channel

    def write(self, piece: bytes) -> bool:
        pending = memoryview(piece)
        with contextlib.suppress(OSError):  # "Socket is closed": nobody reads any more
            while pending and (sent := self._channel.send(bytes(pending[:PIECE_BYTES]))):
                pending = pending[sent:]
        return not pending

    def close_stdin(self) -> None:
        with contextlib.suppress(OSError, EOFError):
            self._channel.shutdown_write()

    def read_stdout(self) -> bytes:
        return self._channel.recv(PIECE_BYTES)

    def read_stderr(self) -> bytes:
        return self._channel.recv_stderr(PIECE_BYTES)

    def wait(self, seconds: float) -> int:
        if not self._channel.status_event.wait(seconds):
            raise TimeoutError
        return _status(self._channel)

    def end(self) -> None:
        # Over a connection that is gone, close() raises what its sending meets.
        with contextlib.suppress(EOFError, OSError):
            self._channel.close()
