"""The local (DIY) backend: `file://` state, history, backups and locks.

Layout of pkg/backend/diy: `.pulumi/{meta.yaml,stacks,history,backups,locks}`, stacks by project.
Every file is written beside its place, fsynced and renamed.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import socket
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.sandbox.engine.errors import EngineError, StackNotFoundError
from tests.sandbox.engine.state import now

_PREFIX = "file://"


def write_durably(path: Path, text: str) -> None:
    """Write a file so that a reader, or a power loss, meets the old or the new text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # The dot keeps a left-over of a killed run out of the stack listing.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}")
    with temporary.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


@dataclass(frozen=True)
class StackRef:
    """A stack's project and name."""

    project: str
    name: str

    @property
    def qualified(self) -> str:
        """The name as the checkpoint has it."""
        return f"organization/{self.project}/{self.name}"


class Backend:
    """The stacks below one directory."""

    def __init__(self, url: str) -> None:
        if not url.startswith(_PREFIX):
            raise EngineError(
                f"backend {url!r} is not known here; this engine knows file:// backends only"
            )
        path = unquote(url.removeprefix(_PREFIX).split("?")[0])
        self.url = url
        self.directory = Path(path.replace("~", str(Path.home()), 1)).absolute()
        if not self.directory.is_dir():
            raise EngineError(f"unable to open bucket {url}: no directory {self.directory}")
        self._root = self.directory / ".pulumi"
        self._lock_id = str(uuid.uuid4())

    def _prepare(self) -> None:
        meta = self._root / "meta.yaml"
        if not meta.exists():
            write_durably(meta, "version: 1\n")

    def checkpoint_path(self, ref: StackRef) -> Path:
        """Tell where a stack's checkpoint is."""
        return self._root / "stacks" / ref.project / f"{ref.name}.json"

    def exists(self, ref: StackRef) -> bool:
        """Whether the stack is there."""
        return self.checkpoint_path(ref).exists()

    def stacks(self) -> list[StackRef]:
        """List every stack of every project."""
        found = sorted((self._root / "stacks").glob("*/*.json"))
        return [StackRef(p.parent.name, p.stem) for p in found if not p.name.startswith(".")]

    def load(self, ref: StackRef) -> dict[str, Any] | None:
        """Read a stack's deployment; None for a stack that was never updated.

        Raises EngineError where the stack is missing or its checkpoint is not one.
        """
        try:
            document = json.loads(self.checkpoint_path(ref).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise StackNotFoundError(f"no stack named '{ref.name}' found") from error
        except json.JSONDecodeError as error:
            raise EngineError(f"the checkpoint of {ref.name!r} is no JSON: {error}") from error
        if document.get("version") != 3:
            raise EngineError(f"the checkpoint of {ref.name!r} is not of version 3")
        latest: dict[str, Any] | None = document["checkpoint"].get("latest")
        return latest

    def create(self, ref: StackRef) -> None:
        """Make an empty stack; raises EngineError where it exists."""
        self._prepare()
        if self.exists(ref):
            raise EngineError(f"stack '{ref.qualified}' already exists")
        self._write(ref, None)

    def _write(self, ref: StackRef, deployment: dict[str, Any] | None) -> str:
        checkpoint: dict[str, Any] = {"stack": ref.qualified}
        if deployment is not None:
            checkpoint["latest"] = deployment
        text = json.dumps(
            {"version": 3, "checkpoint": checkpoint}, separators=(",", ":"), ensure_ascii=False
        )
        write_durably(self.checkpoint_path(ref), text)
        return text

    def save(self, ref: StackRef, deployment: dict[str, Any]) -> None:
        """Write a stack's checkpoint, keeping the former one as `.bak`."""
        path = self.checkpoint_path(ref)
        if path.exists():
            # The checkpoint is never written in place, so a second name keeps the former one.
            spare = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
            os.link(path, spare)
            spare.replace(path.with_name(path.name + ".bak"))
        self._write(ref, deployment)

    def remove(self, ref: StackRef) -> None:
        """Remove a stack with its history and backups."""
        path = self.checkpoint_path(ref)
        for victim in path.parent.glob(f"{path.name}*"):
            victim.unlink()
        for kind in ("history", "backups"):
            directory = self._root / kind / ref.project / ref.name
            for victim in directory.glob("*"):
                victim.unlink()
            with contextlib.suppress(OSError):
                directory.rmdir()

    def record(self, ref: StackRef, update: dict[str, Any]) -> None:
        """Add an update to the stack's history, with a copy of the checkpoint it left."""
        stamp = time.time_ns()
        text = self.checkpoint_path(ref).read_text(encoding="utf-8")
        history = self._root / "history" / ref.project / ref.name
        write_durably(history / f"{ref.name}-{stamp}.history.json", json.dumps(update))
        write_durably(history / f"{ref.name}-{stamp}.checkpoint.json", text)
        backups = self._root / "backups" / ref.project / ref.name
        write_durably(backups / f"{ref.name}.{time.time_ns()}.json", text)

    def history(self, ref: StackRef) -> list[dict[str, Any]]:
        """Read the stack's updates, newest first."""
        directory = self._root / "history" / ref.project / ref.name
        files = sorted(directory.glob("*.history.json"), reverse=True)
        return [json.loads(file.read_text(encoding="utf-8")) for file in files]

    def _locks(self, ref: StackRef) -> list[Path]:
        directory = self._root / "locks" / "organization" / ref.project / ref.name
        return sorted(p for p in directory.glob("*.json") if not p.name.startswith("."))

    def _check_lock(self, ref: StackRef, own: Path) -> None:
        others = [lock for lock in self._locks(ref) if lock != own]
        if not others:
            return
        message = (
            f"the stack is currently locked by {len(others)} lock(s). Either wait for the other "
            "process(es) to end or delete the lock file with `pulumi cancel`."
        )
        for lock in others:
            try:
                content = json.loads(lock.read_text(encoding="utf-8"))
            except (FileNotFoundError, json.JSONDecodeError):
                content = {}
            url = _PREFIX + str(urlsplit(self.url).path.rstrip("/")) + "/"
            message += (
                f"\n  {url}{lock.relative_to(self.directory)}: created by "
                f"{content.get('username')}@{content.get('hostname')} (pid {content.get('pid')}) "
                f"at {content.get('timestamp')}"
            )
        raise EngineError(message)

    @contextlib.contextmanager
    def locked(self, ref: StackRef) -> Iterator[None]:
        """Hold the stack's lock; raises EngineError naming who holds it already."""
        own = self._root / "locks" / "organization" / ref.project / ref.name
        own /= f"{self._lock_id}.json"
        self._check_lock(ref, own)
        content = {
            "pid": os.getpid(),
            "username": getpass.getuser(),
            "hostname": socket.gethostname(),
            "timestamp": now(),
        }
        write_durably(own, json.dumps(content))
        try:
            self._check_lock(ref, own)
            yield
        finally:
            own.unlink(missing_ok=True)

    def cancel(self, ref: StackRef) -> None:
        """Remove every lock of the stack."""
        for lock in self._locks(ref):
            lock.unlink(missing_ok=True)
