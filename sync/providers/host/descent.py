"""A way into directories whose owners root does not trust: by descriptors, never by a whole path.

They may put anything there, as deep as they like, and exchange it at any moment. So no symbolic
link is followed, what is judged is held, nothing is opened to be judged, and there is no recursion.
Only the standard library of Python 3.11: it is sent to the host before root_helper, which uses it.
"""

import contextlib
import errno
import os
from collections.abc import Callable, Iterator

_SHOWN_CHARACTERS = 500
_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_NO_DIRECTORY = frozenset({errno.ELOOP, errno.ENOTDIR})


class RefusedError(Exception):
    """A request that cannot be carried out; `str()` names the path and the remedy."""


def parts(relative: str) -> list[str]:
    """Return the names in a path; RefusedError where it may leave the data root."""
    names = relative.split("/")
    if not relative or any(part in ("", ".", "..") for part in names):
        raise RefusedError(f"path {relative!r} does not stay below the data root")
    return names


@contextlib.contextmanager
def opened(root: str, relative: str) -> Iterator[int]:
    """Yield a descriptor of the directory `relative` below root; no symbolic link on the way."""
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for part in parts(relative) if relative else ():
            try:
                child = os.open(part, _DIRECTORY_FLAGS, dir_fd=descriptor)
            except OSError as error:
                if error.errno in _NO_DIRECTORY:
                    raise RefusedError(
                        f"{root}/{relative}: {part} is a symbolic link or no directory; mount "
                        "the storage there instead of linking to it, or remove what is there"
                    ) from error
                raise OSError(error.errno, error.strerror, f"{root}/{relative}") from error
            os.close(descriptor)
            descriptor = child
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def parent_of(root: str, relative: str) -> Iterator[tuple[int, str]]:
    """Yield a descriptor of the directory that a path is in, and the path's last component."""
    *parents, name = parts(relative)
    with opened(root, "/".join(parents)) as directory, _named(f"{root}/{relative}"):
        yield directory, name


@contextlib.contextmanager
def _named(path: str) -> Iterator[None]:
    """Have an OSError of the block name a whole path."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from error


def walk(
    top: int,
    path: str,
    visit: Callable[[int, list[str]], list[str]],
    leave: Callable[[int, str], object] = lambda _directory, _name: None,
) -> None:
    """Visit a directory and all below it, however deep: one descriptor, no recursion.

    path: of `top`, for messages. visit: is given a directory and the names on the way to it, and
    returns those of its directories to go on with. leave: is given each of them when that is done.
    Raises RefusedError where the way back does not lead to where the way there came from.
    """
    at, way, above = os.dup(top), list[str](), list[tuple[int, int]]()
    try:
        pending = [visit(at, way)]
        while pending:
            if not pending[-1]:
                pending.pop()
                if way:
                    at = _moved(at, "..")
                    if _identity(at) != above.pop():
                        raise RefusedError(
                            f"{'/'.join([path, *way])}: was moved while root was there; stop what "
                            "runs on it, and run pulumi up again"
                        )
                    leave(at, way.pop())
                continue
            name, here = pending[-1].pop(), _identity(at)
            try:
                at = _moved(at, name)
            except OSError as error:
                if error.errno in _NO_DIRECTORY or isinstance(error, FileNotFoundError):
                    continue  # its owner exchanged it
                raise
            above.append(here)
            way.append(name)
            pending.append(visit(at, way))
    except OSError as error:
        raise OSError(error.errno, error.strerror, "/".join([path, *way])) from error
    finally:
        os.close(at)


def _moved(directory: int, name: str) -> int:
    """Return a descriptor of a directory's neighbour in place of its own."""
    moved = os.open(name, _DIRECTORY_FLAGS, dir_fd=directory)
    os.close(directory)
    return moved


def _identity(directory: int) -> tuple[int, int]:
    found = os.fstat(directory)
    return found.st_dev, found.st_ino


@contextlib.contextmanager
def held(directory: int, name: str) -> Iterator[tuple[str, os.stat_result]]:
    """Yield a path to what has a name now, whatever has it later, and what that is.

    Nothing is opened by it (open(2), O_PATH): no link is followed and no FIFO waited for.
    """
    descriptor = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=directory)
    try:
        yield f"/proc/self/fd/{descriptor}", os.fstat(descriptor)
    finally:
        os.close(descriptor)


def shown(text: str) -> str:
    """Return a text as people may read it: names are the services', and may be very long."""
    if len(text) > _SHOWN_CHARACTERS:
        half = _SHOWN_CHARACTERS // 2
        text = f"{text[:half]} … {text[-half:]}"
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)
