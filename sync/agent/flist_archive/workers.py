"""Reader processes: decoding uses another core than fetching, and a crash ends a process only."""

import base64
import json
import os
import queue
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from sync.agent.flist_archive.database import Backend
from sync.agent.flist_archive.errors import FlistError
from sync.agent.flist_archive.keys import unpack_keys

# The largest flist known takes seconds.
LONGEST_SECONDS: Final = 300.0
_MOST: Final = 4


@dataclass(frozen=True)
class Rewriting:
    """What a flist shall name as its backend, by what it names now; default None: leave it."""

    default: Backend | None = None
    instead: tuple[tuple[Backend, Backend], ...] = ()


@dataclass(frozen=True)
class Read:
    """What a reader found; size_bytes and md5 are those of the rewritten file, None if left."""

    backend: Backend | None
    keys: frozenset[bytes]
    size_bytes: int | None
    md5: str | None


def _fields(backend: Backend | None) -> list[Any] | None:
    return [backend.host, backend.port, backend.namespace] if backend else None


class _Reader:
    """One process, used by one thread at a time."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-m", "sync.agent.flist_archive"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )

    def ask(self, request: dict[str, Any]) -> dict[str, Any] | None:
        """Return the answer, or None when the process ended or took too long."""
        process = self._process
        if process.stdin is None or process.stdout is None:
            return None
        timer = threading.Timer(LONGEST_SECONDS, process.kill)
        timer.daemon = True
        timer.start()
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
            answer: dict[str, Any] = json.loads(process.stdout.readline())
        except (OSError, ValueError):
            return None
        finally:
            timer.cancel()
        return answer

    def close(self) -> None:
        process = self._process
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        process.kill()
        process.wait()


class Readers:
    """As many processes as there are cores, at most 4; started by `start` or when needed."""

    def __init__(self) -> None:
        self._most = min(_MOST, os.cpu_count() or 1)
        self._slots = threading.Semaphore(self._most)
        self._idle: queue.SimpleQueue[_Reader] = queue.SimpleQueue()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.rest()

    def start(self) -> None:
        """Start the processes, so that they are ready when the first flist has come."""
        for _ in range(self._most - self._idle.qsize()):
            self._idle.put(_Reader())

    def rest(self) -> None:
        """End the processes that have nothing to do; the next flist starts them again."""
        with suppress(queue.Empty):
            while True:
                self._idle.get_nowait().close()

    def read(self, flist: Path, scratch: Path, rewriting: Rewriting) -> Read:
        """Read a flist and rewrite it in place. Threads may share this.

        Raises FlistError, also for a flist that ends its reader; OSError of the disk.
        """
        request = {
            "flist": str(flist),
            "scratch": str(scratch),
            "default": _fields(rewriting.default),
            "instead": [[_fields(one), _fields(other)] for one, other in rewriting.instead],
        }
        with self._slots:
            try:
                reader = self._idle.get_nowait()
            except queue.Empty:
                reader = _Reader()
            answer = reader.ask(request)
            if answer is None:
                reader.close()
                scratch.unlink(missing_ok=True)
                raise FlistError("its reader ended: it costs more than a flist may")
            self._idle.put(reader)
        return _read(answer)


def _read(answer: dict[str, Any]) -> Read:
    if "wrong" in answer:
        raise FlistError(answer["wrong"])
    if "error" in answer:
        raise OSError(answer["errno"], answer["error"])
    backend = Backend(*answer["backend"]) if answer["backend"] else None
    keys = frozenset(unpack_keys(base64.b64decode(answer["keys"])))
    return Read(backend, keys, answer["size"], answer["md5"])
