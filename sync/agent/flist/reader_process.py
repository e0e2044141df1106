"""A reader process: one JSON request a line on standard input, one answer a line on the output.

Its memory and processor time are limited, so the worst that a hostile flist can do is to end it.
"""

import base64
import contextlib
import json
import resource
import sys
from pathlib import Path
from typing import Any, Final

from sync.agent.digests import file_digest
from sync.agent.flist import read_flist, rewrite_flist
from sync.agent.flist.database import Backend, Contents, DirectoryCache
from sync.agent.flist.errors import FlistError
from sync.agent.flist.keys import pack_keys

MEMORY_BYTES: Final = 1 << 30


def answer(request: dict[str, Any], cache: DirectoryCache) -> dict[str, Any]:
    """Read the flist that the request names, and rewrite it in place where it says so."""
    flist, scratch = Path(request["flist"]), Path(request["scratch"])
    try:
        contents = read_flist(flist, scratch, cache, keep=bool(request["rewriting"]))
        backend = _new_backend(request, contents.backend)
        rewritten = None
        if backend is not None:
            rewrite_flist(scratch, flist, backend)
            rewritten = file_digest(flist)
    except FlistError as error:
        return {"wrong": str(error)}
    except OSError as error:
        return {"errno": error.errno, "error": str(error)}
    finally:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)
    named = directories(contents, cache)
    return {"backend": contents.backend, "rewritten": rewritten, **named}


def _new_backend(request: dict[str, Any], named: Backend | None) -> Backend | None:
    """Return the backend to write, by the one that the flist names now; None: leave it."""
    for backend, instead in request["rewriting"]:
        if backend is None or named == Backend(*backend):
            return Backend(*instead)
    return None


def directories(contents: Contents, cache: DirectoryCache) -> dict[str, Any]:
    """Return the directories of a flist as reader_pool.KnownDirectories reads them.

    directories: their numbers. new: number and keys of those that were not sent before.
    first: numbers below this one will not come again.
    """
    new = [directory for directory in contents.directories if not directory.sent]
    message = {
        "directories": [directory.number for directory in contents.directories],
        "new": [[one.number, base64.b64encode(pack_keys(one.keys)).decode()] for one in new],
        "first": cache.first,
    }
    for directory in new:
        directory.sent = True
    return message


def main() -> None:
    """Answer until the input ends."""
    # Of the address space, so that it also bounds what zlib and SQLite allocate.
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    cache = DirectoryCache()
    for line in sys.stdin:
        try:
            reply = answer(json.loads(line), cache)
        except MemoryError:
            reply = {"wrong": f"needs more than {MEMORY_BYTES} bytes of memory to be read"}
        sys.stdout.write(json.dumps(reply) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    # The job that asked may have ended.
    with contextlib.suppress(BrokenPipeError):
        main()
