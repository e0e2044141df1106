"""Commands on this machine, for a mirror whose Docker answers on a unix socket.

subprocess.run would not do: at its timeout it ends the child alone, then waits for whoever else
holds the pipes (subprocess.py, run), and it bounds no output.
"""

import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence
from typing import IO

from sync.providers.host.commands import PIECE_BYTES, Command, Completed, Running, exchange
from sync.providers.host.connection import HostError
from sync.providers.host.host import Host


class LocalHost(Host):
    """The machine that Pulumi runs on; commands run as its user."""

    def docker(self, *arguments: str) -> list[str]:
        """Argument list of the docker CLI, on the socket that the stack names."""
        return ["docker", "--host", self.connection.docker_host, *arguments]

    def run(self, command: Command) -> Completed:
        """Run to the end; HostError when the program is slow or talks too much."""
        try:
            process = _started(command.argv, stderr=subprocess.PIPE)
        except FileNotFoundError as error:
            return Completed(127, b"", f"{error.filename}: not found".encode())
        except OSError as error:
            raise HostError(f"{command.argv[0]}: {error.strerror}; is it executable?") from error
        with process:
            return exchange(_LocalProgram(process), command)

    def start(self, argv: Sequence[str]) -> Running:
        """Start a command whose output is read while it runs; the caller ends it."""
        try:
            process = _started(argv, stderr=subprocess.STDOUT)
        except OSError as error:
            raise HostError(f"{argv[0]}: {error.strerror}; is it installed?") from error
        if process.stdin is None or process.stdout is None:
            raise HostError("no pipes to the process")
        return Running(process.stdout.readline, process.wait, process.stdin.close)


def _started(argv: Sequence[str], stderr: int) -> subprocess.Popen[bytes]:
    """Start a process group of its own: it can be ended as one, and Ctrl-C is ours to answer."""
    pipe = subprocess.PIPE
    return subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=stderr, start_new_session=True)


class _LocalProgram:
    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def write(self, piece: bytes) -> bool:
        pending = memoryview(piece)
        with contextlib.suppress(BrokenPipeError):
            while pending:
                pending = pending[os.write(_number(self._process.stdin), pending) :]
        return not pending

    def close_stdin(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()

    def read_stdout(self) -> bytes:
        return os.read(_number(self._process.stdout), PIECE_BYTES)

    def read_stderr(self) -> bytes:
        return os.read(_number(self._process.stderr), PIECE_BYTES)

    def wait(self, seconds: float) -> int:
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired as error:
            raise TimeoutError from error

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)


def _number(pipe: IO[bytes] | None) -> int:
    return -1 if pipe is None else pipe.fileno()
