"""A command on the host, the same locally and over SSH: its streams, its bounds, its end."""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol, Self

from sync.providers.host.connection import HostError, HostTimeoutError

PIECE_BYTES: Final = 1 << 15


@dataclass(frozen=True)
class Command:
    """One program to run on the host.

    stdin: pieces written to it in order (a bundle is streamed so). output_limit_bytes bounds
    stdout and stderr each; more is an error.
    """

    argv: Sequence[str]
    stdin: Iterable[bytes] = ()
    timeout_seconds: float = 60
    output_limit_bytes: int = 8 << 20


@dataclass(frozen=True)
class Completed:
    """How a command ended: exit status (negative: killed by a signal), stdout, stderr."""

    status: int
    stdout: bytes
    stderr: bytes

    @property
    def error_text(self) -> str:
        """The end of stderr, for a message."""
        return self.stderr.decode(errors="replace").strip()[-2000:]


@dataclass(frozen=True)
class Running:
    """A command that still runs on the host.

    readline: returns the next line of stdout and stderr, merged, or the first so many bytes of it;
    nothing at the end. status: waits for the end and returns the exit status; HostUnreachableError
    where the connection broke. end: closes its stdin, which `until_stdin_ends` waits for.
    """

    readline: Callable[[int], bytes]
    status: Callable[[], int]
    end: Callable[[], None]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


_UNTIL_STDIN_ENDS: Final = """
exec 3<&0
"$@" 3<&- < /dev/null & command=$!
{ read -r _ <&3; kill "$command"; } > /dev/null 2>&1 & watch=$!
wait "$command"; status=$?
kill "$watch" 2> /dev/null
exit "$status"
"""


def until_stdin_ends(*argv: str) -> list[str]:
    """Return the command that runs `argv`, and ends it when its own stdin does.

    Neither sshd nor Docker ends a command that prints nothing when its client goes away (RFC 4254,
    5.3: a closed channel is all that the server learns); the end of stdin reaches every kind.
    """
    return ["sh", "-c", _UNTIL_STDIN_ENDS, "sh", *argv]


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
    ends_at = time.monotonic() + command.timeout_seconds
    stdout, stderr = bytearray(), bytearray()
    failures: list[BaseException] = []

    def guarded(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001  raised again below
            failures.append(error)
            program.end()  # so that the other two return

    streams: tuple[Callable[[], None], ...] = (
        partial(_feed, program, command),
        partial(_collect, program.read_stdout, stdout, command),
        partial(_collect, program.read_stderr, stderr, command),
    )
    threads = [threading.Thread(target=guarded, args=[one], daemon=True) for one in streams]

    def ended() -> int:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, ends_at - time.monotonic()))
        if failures:
            raise failures[0]
        status = program.wait(max(0.0, ends_at - time.monotonic()))
        if any(thread.is_alive() for thread in threads):
            raise TimeoutError
        return status

    try:
        return Completed(ended(), bytes(stdout), bytes(stderr))
    except TimeoutError:
        program.end()
        raise HostTimeoutError(
            f"{command.argv[0]}: not finished after {command.timeout_seconds:g} s; see what the "
            "host is busy with, then run pulumi up again"
        ) from None
    except BaseException:
        program.end()
        raise


def _feed(program: Program, command: Command) -> None:
    try:
        for piece in command.stdin:
            if not program.write(piece):
                return  # it ended without reading all of it; its status says why
    finally:
        program.close_stdin()


def _collect(read: Callable[[], bytes], output: bytearray, command: Command) -> None:
    while piece := read():
        output += piece
        if len(output) > command.output_limit_bytes:
            raise HostError(f"{command.argv[0]}: printed over {command.output_limit_bytes} bytes")
