"""A reader process: one JSON request a line on standard input, answers on standard output.

An answer is a line of JSON; for a flist that was read a second one follows, of its directories, and
the chunk keys that it counts, as they are.
Its memory and processor time are limited, so the worst that a hostile flist can do is to end it.
"""

import contextlib
import json
import resource
import sys
from pathlib import Path
from typing import Any, Final

from sync.agent.digests import file_digest
from sync.agent.first_to_die import die_first
from sync.agent.flist import Grant, read_flist, rewrite_flist
from sync.agent.flist.database import Backend, Contents, DirectoryCache
from sync.agent.flist.errors import FlistError, NeedsMoreError

# Beside what a request grants: the cache of directories, and what an allocator keeps.
_OWN_BYTES: Final = 24 << 20


def answer(request: dict[str, Any], cache: DirectoryCache) -> tuple[dict[str, Any], list[bytes]]:
    """Read the flist that the request names, and rewrite it in place where it says so.

    Returns the line to answer, and what is to follow it.
    """
    flist, scratch = Path(request["flist"]), Path(request["scratch"])
    try:
        contents, following = _read(request, cache)
        backend = _new_backend(request, contents.backend)
        rewritten = None
        if backend is not None:
            rewrite_flist(scratch, flist, backend)
            rewritten = file_digest(flist)
    except NeedsMoreError as error:
        return {"needs": error.scratch_bytes}, []
    except FlistError as error:
        # Its directories may count as sent.
        cache.clear()
        return {"wrong": str(error)}, []
    except OSError as error:
        cache.clear()
        return {"errno": error.errno, "error": str(error)}, []
    finally:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)
    return {"backend": contents.backend, "rewritten": rewritten}, following


def _read(request: dict[str, Any], cache: DirectoryCache) -> tuple[Contents, list[bytes]]:
    """Read the flist; returns as well what is to be said of its directories.

    Both before it is rewritten, as both may take more than was granted: hundreds of thousands of
    directories do. Raises FlistError, NeedsMoreError, OSError.
    """
    try:
        contents = read_flist(
            Path(request["flist"]),
            Path(request["scratch"]),
            cache,
            keep=bool(request["rewriting"]),
            grant=Grant(*request["grant"]),
        )
        named, keys = directories(contents, cache)
        return contents, [json.dumps(named).encode() + b"\n", *keys]
    except MemoryError:
        cache.clear()
        raise NeedsMoreError from None


def _new_backend(request: dict[str, Any], named: Backend | None) -> Backend | None:
    """Return the backend to write, by the one that the flist names now; None: leave it."""
    for backend, instead in request["rewriting"]:
        if backend is None or named == Backend(*backend):
            return Backend(*instead)
    return None


def directories(contents: Contents, cache: DirectoryCache) -> tuple[dict[str, Any], list[bytes]]:
    """Return the directories of a flist as reader_pool.KnownDirectories reads them.

    directories: their numbers. new: of those that were not sent before the number, the size of the
    keys that follow, and whether it may come again. first: numbers below this one will not.
    """
    new = [directory for directory in contents.directories if not directory.sent]
    message = {
        "directories": [directory.number for directory in contents.directories],
        "new": [(one.number, len(one.packed), one.cached) for one in new],
        "first": cache.first,
    }
    for directory in new:
        directory.sent = True
    return message, [directory.packed for directory in new]


def _limit_memory(baseline_bytes: int, granted_bytes: int) -> None:
    # Of the address space, so that it also bounds what zlib and SQLite allocate.
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (baseline_bytes + _OWN_BYTES + granted_bytes, hard))


def _address_space_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


def main() -> None:
    """Answer until the input ends."""
    die_first()
    cache, baseline_bytes = DirectoryCache(), _address_space_bytes()
    for line in sys.stdin:
        request = json.loads(line)
        _limit_memory(baseline_bytes, request["memory"])
        try:
            reply, following = answer(request, cache)
        except MemoryError:
            # Not in reading it, so that there is no saying whether the file is as it was.
            cache.clear()
            reply, following = {"wrong": "needs more memory to be rewritten than it was given"}, []
        sys.stdout.buffer.write(json.dumps(reply).encode() + b"\n")
        for part in following:
            sys.stdout.buffer.write(part)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    # The job that asked may have ended.
    with contextlib.suppress(BrokenPipeError):
        main()
