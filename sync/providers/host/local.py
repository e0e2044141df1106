"""Commands on this machine, for a mirror whose Docker answers on a unix socket."""

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Iterable, Sequence
from typing import IO, Final

from sync.providers.host.connection import (
    Command,
    Completed,
    HostError,
    HostTimeoutError,
    Running,
)

_PIECE_BYTES: Final = 1 << 16


class LocalTransport:
    """Runs commands as the user that runs Pulumi."""

    def run(self, command: Command) -> Completed:
        """Run to the end; HostError when the program is missing, slow or talks too much."""
        try:
            process = subprocess.Popen(
                list(command.argv),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except FileNotFoundError as error:
            return Completed(127, b"", f"{error.filename}: not found".encode())
        except OSError as error:
            raise HostError(f"{command.argv[0]}: {error.strerror}; is it executable?") from error
        with process:
            try:
                return _converse(process, command)
            except BaseException:
                _kill(process)
                raise

    def start(self, argv: Sequence[str]) -> Running:
        """Start a command whose output is read while it runs; the caller ends it."""
        try:
            process = subprocess.Popen(
                list(argv),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is ours to answer
            )
        except OSError as error:
            raise HostError(f"{argv[0]}: {error.strerror}; is it installed?") from error
        if process.stdin is None or process.stdout is None:
            raise HostError("no pipes to the process")
        return Running(process.stdout.readline, process.wait, process.stdin.close)

    def close(self) -> None:
        """Nothing to end."""


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(10)


class _Feed:
    """Pieces for stdin, written as far as the pipe takes them."""

    def __init__(self, pieces: Iterable[bytes], pipe: IO[bytes]) -> None:
        self._pieces = iter(pieces)
        self._pending = memoryview(b"")
        self.pipe = pipe

    def write(self) -> bool:
        """Write once; False when all is written or nobody reads any more."""
        if not self._pending:
            piece = next(self._pieces, None)
            if piece is None:
                return False
            self._pending = memoryview(piece)
        try:
            written = os.write(self.pipe.fileno(), self._pending[:_PIECE_BYTES])
        except BlockingIOError:
            return True
        except BrokenPipeError:
            return False
        self._pending = self._pending[written:]
        return True


def _converse(process: subprocess.Popen[bytes], command: Command) -> Completed:
    if process.stdin is None or process.stdout is None or process.stderr is None:
        raise HostError("no pipes to the process")
    deadline = time.monotonic() + command.timeout_seconds
    collected = {process.stdout.fileno(): bytearray(), process.stderr.fileno(): bytearray()}
    feed = _Feed(command.stdin, process.stdin)
    os.set_blocking(process.stdin.fileno(), False)
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdin, selectors.EVENT_WRITE)
        for stream in (process.stdout, process.stderr):
            selector.register(stream, selectors.EVENT_READ)
        while selector.get_map():
            for key, _events in selector.select(_remaining(deadline, command)):
                if key.fileobj is process.stdin:
                    going_on = feed.write()
                else:
                    going_on = _read(key.fd, collected[key.fd], command)
                if not going_on:
                    selector.unregister(key.fileobj)
                    _close(key.fileobj)
    outputs = [bytes(output) for output in collected.values()]
    try:
        status = process.wait(_remaining(deadline, command))
    except subprocess.TimeoutExpired:
        raise _timed_out(command) from None
    return Completed(status, outputs[0], outputs[1])


def _close(stream: object) -> None:
    if hasattr(stream, "close"):
        with contextlib.suppress(BrokenPipeError):
            stream.close()


def _read(descriptor: int, collected: bytearray, command: Command) -> bool:
    piece = os.read(descriptor, _PIECE_BYTES)
    collected += piece
    if len(collected) > command.output_limit_bytes:
        raise HostError(f"{command.argv[0]}: printed over {command.output_limit_bytes} bytes")
    return bool(piece)


def _remaining(deadline: float, command: Command) -> float:
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise _timed_out(command)
    return remaining


def _timed_out(command: Command) -> HostTimeoutError:
    return HostTimeoutError(
        f"{command.argv[0]}: not finished after {command.timeout_seconds:g} s; see what the host "
        "is busy with, then run pulumi up again"
    )
