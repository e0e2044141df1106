"""Commands through a login shell that may print, or that runs nothing.

sshd gives a command to the user's login shell, whose start files run first (sshd(8), LOGIN PROCESS;
bash(1), INVOCATION: it reads ~/.bashrc when sshd runs it). What those print comes before, and what
they do at exit after the command's own output: so that is put between marks.
"""

import secrets
import shlex
from collections.abc import Callable, Sequence
from typing import Final

from sync.providers.host.commands import Completed
from sync.providers.host.connection import HostShellError

_FRAMED: Final = (
    'printf %s "$0"; printf %s "$0" >&2; "$@"; s=$?; printf %s "$0"; printf %s "$0" >&2; exit $s'
)
_STREAMED: Final = 'printf "%s\\n" "$0"; exec "$@"'
_MOST_LINES: Final = 10_000
_LINE_BYTES: Final = 1 << 16
_SHOWN_CHARACTERS: Final = 200


def _new_mark() -> bytes:
    return f"gridhub-{secrets.token_hex(16)}".encode()


def _shown(printed: bytes) -> str:
    """Return what a shell has printed as one line for a message."""
    text = " ".join(printed.decode(errors="replace").split())
    return "".join(one if one.isprintable() else "?" for one in text)[:_SHOWN_CHARACTERS]


def _nothing_ran(where: str, printed: bytes) -> HostShellError:
    said = _shown(printed)
    return HostShellError(
        f"{where}: its login shell did not run the command"
        f"{f', it printed: {said}' if said else ''}; the user needs a shell that runs commands "
        "(chsh -s /bin/bash), start files that do not exit, and no command= before its key in "
        "authorized_keys"
    )


class Framed:
    """One command, and how to tell its output from the shell's."""

    def __init__(self, argv: Sequence[str]) -> None:
        self._mark = _new_mark()
        self.line = shlex.join(["sh", "-c", _FRAMED, self._mark.decode(), *argv])

    def opened(self, where: str, completed: Completed) -> tuple[Completed, str]:
        """Return the command's own outcome, and what its shell printed to stdout before it.

        where: the host, for the error. Raises HostShellError where the command did not run.
        """
        before, began, stdout = completed.stdout.partition(self._mark)
        if not began:
            raise _nothing_ran(where, completed.stdout + completed.stderr)
        # One that was killed with its shell has no end.
        whole, ended, _after = stdout.partition(self._mark)
        said, _, errors = completed.stderr.partition(self._mark)
        stderr = (errors or said).partition(self._mark)[0]
        return Completed(completed.status, whole if ended else stdout, stderr), _shown(before)


class Streamed:
    """A command whose output is read while it runs."""

    def __init__(self, argv: Sequence[str]) -> None:
        self._mark = _new_mark()
        self.line = shlex.join(["sh", "-c", _STREAMED, self._mark.decode(), *argv])

    def from_mark(self, where: str, readline: Callable[[int], bytes]) -> Callable[[int], bytes]:
        """Return a readline that begins after the mark. That raises HostShellError without one."""
        waiting = True

        def read(limit: int) -> bytes:
            nonlocal waiting
            if waiting:
                waiting = False
                self._skip(where, readline)
            return readline(limit)

        return read

    def _skip(self, where: str, readline: Callable[[int], bytes]) -> None:
        printed = b""
        for _ in range(_MOST_LINES):
            line = readline(_LINE_BYTES)
            if line.rstrip(b"\r\n").endswith(self._mark):
                return
            if not line:
                break
            printed = (printed + line)[-_LINE_BYTES:]
        raise _nothing_ran(where, printed)
