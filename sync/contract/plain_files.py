"""Plain files, in folders where something else may have their names: what is none is not opened.

A link leads anywhere, a FIFO is waited for, /dev/zero never ends. Whoever owns a folder may put
such there, also between a look at it and its opening: so it is the open file that is judged.
"""

import contextlib
import errno
import os
import stat
from pathlib import Path
from typing import Final

_FLAGS: Final = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
# open(2): a link (O_NOFOLLOW), a FIFO that nobody reads or a socket, a directory to be written.
_NO_FILE: Final = frozenset({errno.ELOOP, errno.ENXIO, errno.EISDIR})
_KINDS: Final = (
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
)


class NotPlainError(OSError):
    """What has a file's name is no plain file, or too large; `str()` has path and remedy."""

    def __init__(self, path: Path | str, what: str) -> None:
        super().__init__(f"{path}: is {what}; move it away or remove it (rm -r)")


def opened(path: Path | str, flags: int = os.O_RDONLY, mode: int = 0o644) -> int:
    """Return a descriptor of a plain file; flags, mode: of open(2). Raises OSError."""
    try:
        descriptor = os.open(path, flags | _FLAGS, mode)
    except OSError as error:
        if error.errno in _NO_FILE:
            raise NotPlainError(path, _what_is_there(path)) from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise NotPlainError(path, _what_is_there(path))
    return descriptor


def read(path: Path | str, limit_bytes: int) -> bytes:
    """Return what a plain file holds. Raises OSError, NotPlainError where it is more."""
    with os.fdopen(opened(path), "rb") as file:
        content = file.read(limit_bytes + 1)
    if len(content) > limit_bytes:
        raise NotPlainError(path, f"larger than {limit_bytes} bytes")
    return content


def require(path: Path | str) -> None:
    """Raise NotPlainError where something else than a plain file has the name; none is fine.

    For what a library opens by itself: it cannot be kept from what comes a moment later.
    """
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(os.lstat(path).st_mode):
            raise NotPlainError(path, _what_is_there(path))


def _what_is_there(path: Path | str) -> str:
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return "gone again"
    kind = next((words for is_it, words in _KINDS if is_it(mode)), "a device")
    return f"{'exchanged' if stat.S_ISREG(mode) else kind}, no plain file"
