"""Reader processes: decoding uses another core than fetching, and a crash ends a process only."""

import json
import os
import queue
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias
from weakref import WeakValueDictionary

from sync.agent.flist.database import Backend
from sync.agent.flist.errors import FlistError, NeedsMoreError
from sync.agent.flist.keys import KeyGroup
from sync.contract.names import bounded

# The largest flist known takes seconds.
LONGEST_SECONDS: Final = 300.0
_MOST: Final = 4
_BUFFER_BYTES: Final = 1 << 16
MIB: Final = 1 << 20
# What a reader process takes by itself, here and there, with the directories that it knows.
READER_BYTES: Final = 28 * MIB
# Backends that a flist may name now (None: any) and what it shall name then: the first that fits.
Rewriting: TypeAlias = Sequence[tuple[Backend | None, Backend]]


class Granted(NamedTuple):
    """What reading a flist may take: memory of the reader, for keys alone, and scratch disk."""

    reader_bytes: int
    key_bytes: int
    scratch_bytes: int


# Enough for nearly all: the database, one of its directories at a time, and 128,000 keys in few
# directories, or 14,000 directories.
USUAL: Final = Granted(16 * MIB, 2 * MIB, 64 * MIB)


@dataclass(frozen=True)
class Read:
    """What a reader found; rewritten: size in bytes and MD5 of the file if it is a new one."""

    backend: Backend | None
    groups: tuple[KeyGroup, ...]
    rewritten: tuple[int, str] | None


class KnownDirectories:
    """The directories that a reader process sent, by its numbers, for as long as it keeps them."""

    def __init__(self) -> None:
        self.kept: dict[int, KeyGroup] = {}
        self._first = 0

    def groups(
        self, answer: dict[str, Any], shared: Callable[[int], KeyGroup]
    ) -> tuple[KeyGroup, ...]:
        """Return the groups that an answer names; shared: takes a group of so many bytes."""
        named = dict[int, KeyGroup]()
        for number, size, cached in answer["new"]:
            named[number] = shared(size)
            if cached:
                self.kept[number] = named[number]
        groups = tuple(
            named[number] if number in named else self.kept[number]
            for number in answer["directories"]
        )
        if answer["first"] > self._first:
            self._first = answer["first"]
            self.kept = {one: group for one, group in self.kept.items() if one >= self._first}
        return groups


class _Reader:
    """One process, used by one thread at a time."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        with theirs:
            # -S: without site-packages, as only the standard library is needed, it starts sooner.
            self._process = subprocess.Popen(
                [sys.executable, "-S", "-m", "sync.agent.flist.reader_process"],
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        self._answers = self._socket.makefile("rb", _BUFFER_BYTES)
        self._directories = KnownDirectories()

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the answer. Raises OSError, ValueError when the process ends or is too slow."""
        self._socket.settimeout(LONGEST_SECONDS)
        self._socket.sendall(json.dumps(request).encode() + b"\n")
        return self._line()

    def _line(self) -> dict[str, Any]:
        line: dict[str, Any] = json.loads(self._answers.readline())
        return line

    def groups(self, shared: Callable[[bytes], KeyGroup]) -> tuple[KeyGroup, ...]:
        """Return the groups of keys that follow the answer; raises as `ask`."""

        def take(size: int) -> KeyGroup:
            packed = self._answers.read(size)
            if len(packed) < size:
                raise ValueError("the reader ended in its answer")
            return shared(packed)

        return self._directories.groups(self._line(), take)

    def close(self) -> None:
        """End the process."""
        with suppress(OSError):
            self._answers.close()
        self._socket.close()
        self._process.kill()
        self._process.wait()


class ReaderPool:
    """As many processes as there are cores, at most 4; started by `start` or when needed."""

    def __init__(self) -> None:
        self._cores = min(_MOST, os.cpu_count() or 1)
        self._idle: queue.SimpleQueue[_Reader] = queue.SimpleQueue()
        self._groups: WeakValueDictionary[bytes, KeyGroup] = WeakValueDictionary()
        self.limit(self._cores)

    def limit(self, most: int) -> None:
        """Have so many processes at most; called while none reads."""
        self.most = max(1, min(most, self._cores))
        self._slots = threading.Semaphore(self.most)
        while self._idle.qsize() > self.most:
            self._idle.get_nowait().close()

    def start(self) -> None:
        """Start the processes, so that they are ready when the first flist has come."""
        for _ in range(self.most - self._idle.qsize()):
            self._idle.put(_Reader())

    def stop_idle(self) -> None:
        """End the processes that have nothing to do; the next flist starts them again."""
        with suppress(queue.Empty):
            while True:
                self._idle.get_nowait().close()

    def read(
        self, flist: Path, scratch: Path, rewriting: Rewriting, grant: Granted = USUAL
    ) -> Read:
        """Read a flist and rewrite it in place, within what is granted. Threads may share this.

        Raises FlistError, also for a flist that ends its reader, NeedsMoreError; OSError of the
        disk.
        """
        request = {
            "flist": str(flist),
            "scratch": str(scratch),
            "rewriting": rewriting,
            "memory": grant.reader_bytes,
            "grant": (grant.scratch_bytes, grant.key_bytes),
        }
        with self._slots:
            try:
                reader = self._idle.get_nowait()
            except queue.Empty:
                reader = _Reader()
            try:
                answer = reader.ask(request)
                groups = reader.groups(self._shared) if "backend" in answer else ()
            except (OSError, ValueError):
                reader.close()
                scratch.unlink(missing_ok=True)
                raise FlistError("its reader ended: it costs more than a flist may") from None
            if grant == USUAL:
                self._idle.put(reader)
            else:
                # What it took would stay with it.
                reader.close()
            return _result(answer, groups)

    def _shared(self, packed: bytes) -> KeyGroup:
        """Return the group of these keys: the same for all readers, while a flist is under way."""
        # Two threads may each make one; the keys of the second are then asked for again, no more.
        group = self._groups.get(packed)
        if group is None:
            group = self._groups[packed] = KeyGroup(packed)
        return group


def _result(answer: dict[str, Any], groups: tuple[KeyGroup, ...]) -> Read:
    if "needs" in answer:
        raise NeedsMoreError(answer["needs"])
    if "wrong" in answer:
        raise FlistError(bounded(answer["wrong"]))
    if "error" in answer:
        raise OSError(answer["errno"], answer["error"])
    backend = Backend(*answer["backend"]) if answer["backend"] else None
    return Read(backend, groups, tuple(answer["rewritten"] or ()) or None)
