"""Reader processes: decoding uses another core than fetching, and a crash ends a process only."""

import base64
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
from typing import Any, Final, TypeAlias
from weakref import WeakValueDictionary

from sync.agent.flist.database import Backend
from sync.agent.flist.errors import FlistError
from sync.agent.flist.keys import KeyGroup

# The largest flist known takes seconds.
LONGEST_SECONDS: Final = 300.0
_MOST: Final = 4
_BUFFER_BYTES: Final = 1 << 16
# Backends that a flist may name now (None: any) and what it shall name then: the first that fits.
Rewriting: TypeAlias = Sequence[tuple[Backend | None, Backend]]


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
        self, answer: dict[str, Any], shared: Callable[[bytes], KeyGroup]
    ) -> tuple[KeyGroup, ...]:
        """Return the groups that an answer names; shared: returns the group of packed keys."""
        for number, packed in answer["new"]:
            self.kept[number] = shared(base64.b64decode(packed))
        groups = tuple(self.kept[number] for number in answer["directories"])
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
        self.directories = KnownDirectories()

    def ask(self, request: dict[str, Any]) -> dict[str, Any] | None:
        """Return the answer, or None when the process ended or took too long."""
        try:
            self._socket.settimeout(LONGEST_SECONDS)
            self._socket.sendall(json.dumps(request).encode() + b"\n")
            answer: dict[str, Any] = json.loads(self._answers.readline())
        except (OSError, ValueError):
            return None
        return answer

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
        self._most = min(_MOST, os.cpu_count() or 1)
        self._slots = threading.Semaphore(self._most)
        self._idle: queue.SimpleQueue[_Reader] = queue.SimpleQueue()
        self._groups: WeakValueDictionary[bytes, KeyGroup] = WeakValueDictionary()

    def start(self) -> None:
        """Start the processes, so that they are ready when the first flist has come."""
        for _ in range(self._most - self._idle.qsize()):
            self._idle.put(_Reader())

    def stop_idle(self) -> None:
        """End the processes that have nothing to do; the next flist starts them again."""
        with suppress(queue.Empty):
            while True:
                self._idle.get_nowait().close()

    def read(self, flist: Path, scratch: Path, rewriting: Rewriting) -> Read:
        """Read a flist and rewrite it in place. Threads may share this.

        Raises FlistError, also for a flist that ends its reader; OSError of the disk.
        """
        request = {"flist": str(flist), "scratch": str(scratch), "rewriting": rewriting}
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
            try:
                return self._result(reader, answer)
            finally:
                self._idle.put(reader)

    def _result(self, reader: _Reader, answer: dict[str, Any]) -> Read:
        if "wrong" in answer:
            raise FlistError(answer["wrong"])
        if "error" in answer:
            raise OSError(answer["errno"], answer["error"])
        backend = Backend(*answer["backend"]) if answer["backend"] else None
        groups = reader.directories.groups(answer, self._shared)
        return Read(backend, groups, tuple(answer["rewritten"] or ()) or None)

    def _shared(self, packed: bytes) -> KeyGroup:
        """Return the group of these keys: the same for all readers, while a flist is under way."""
        # Two threads may each make one; the keys of the second are then asked for again, no more.
        group = self._groups.get(packed)
        if group is None:
            group = self._groups[packed] = KeyGroup(packed)
        return group
