"""The exchange with a program on the host, the same locally and over SSH: within bounds."""

import threading
import time
from collections.abc import Callable
from typing import Protocol

from sync.providers.host.connection import Command, Completed, HostError, HostTimeoutError

PIECE_BYTES = 1 << 15


class Program(Protocol):
    """A running program. All but `end` block, and return at once when `end` was called."""

    def write(self, piece: bytes) -> bool:
        """Write a piece to stdin; False where nobody reads it any more."""

    def close_stdin(self) -> None:
        """Let the program see the end of its input."""

    def read_stdout(self) -> bytes:
        """Return what was printed, at most PIECE_BYTES; empty at the end."""

    def read_stderr(self) -> bytes:
        """Return what was printed to stderr, likewise."""

    def wait(self, seconds: float) -> int:
        """Return the exit status; TimeoutError if the program runs longer."""

    def end(self) -> None:
        """End the program and all that it started."""


def exchange(program: Program, command: Command) -> Completed:
    """Feed stdin and collect both outputs at once; where that fails, the program is ended.

    Raises HostTimeoutError, and HostError for too much output.
    """
    try:
        return _Exchange(program, command).complete()
    except TimeoutError:
        program.end()
        raise HostTimeoutError(
            f"{command.argv[0]}: not finished after {command.timeout_seconds:g} s; see what the "
            "host is busy with, then run pulumi up again"
        ) from None
    except BaseException:
        program.end()
        raise


class _Exchange:
    """Three threads, one for each stream; the first failure of one ends all."""

    def __init__(self, program: Program, command: Command) -> None:
        self._program = program
        self._command = command
        self._deadline = time.monotonic() + command.timeout_seconds
        self._failures: list[BaseException] = []

    def complete(self) -> Completed:
        stdout, stderr = bytearray(), bytearray()
        threads = [
            self._started(self._feed),
            self._started(lambda: self._collect(self._program.read_stdout, stdout)),
            self._started(lambda: self._collect(self._program.read_stderr, stderr)),
        ]
        for thread in threads:
            thread.join(self._remaining_seconds())
        if self._failures:
            raise self._failures[0]
        status = self._program.wait(self._remaining_seconds())
        if any(thread.is_alive() for thread in threads):
            raise TimeoutError
        return Completed(status, bytes(stdout), bytes(stderr))

    def _started(self, work: Callable[[], None]) -> threading.Thread:
        def guarded() -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001  raised again by complete()
                self._failures.append(error)
                self._program.end()  # so that the other two return

        thread = threading.Thread(target=guarded, daemon=True)
        thread.start()
        return thread

    def _feed(self) -> None:
        try:
            for piece in self._command.stdin:
                if not self._program.write(piece):
                    return  # it ended without reading all of it; its status says why
        finally:
            self._program.close_stdin()

    def _collect(self, read: Callable[[], bytes], output: bytearray) -> None:
        while piece := read():
            output += piece
            if len(output) > self._command.output_limit_bytes:
                limit = self._command.output_limit_bytes
                raise HostError(f"{self._command.argv[0]}: printed over {limit} bytes")

    def _remaining_seconds(self) -> float:
        return max(0.0, self._deadline - time.monotonic())
