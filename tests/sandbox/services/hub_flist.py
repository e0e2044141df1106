"""How the hub handles flists: with `zflist-bin` in a workspace of its own, and with tar.

Sources: 0-hub, src/hub/flist.py (HubFlist), src/flist-uploader.py.
"""

import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

# Takes zflist's arguments and environment; returns its exit code and output.
Execute = Callable[[Sequence[str], Mapping[str, str]], tuple[int, str]]
_PROTECTED: Final = frozenset({"readme", "backend", "entrypoint", "environ", "port", "volume"})
_READMES: Final = (".README.md", ".README")


@dataclass(frozen=True)
class Backend:
    """A 0-db as the configuration names it; password: None is none at all, "" an empty one."""

    host: str
    port: int
    namespace: str
    password: str | None = None

    def arguments(self) -> list[str]:
        """Return zflist's arguments for it, without a password."""
        return ["--host", self.host, "--port", str(self.port), "--namespace", self.namespace]


@dataclass(frozen=True)
class Workshop:
    """What every work on a flist needs. internal: where chunks go, public: what flists name."""

    public_directory: Path
    work_directory: Path
    internal: Backend
    public: Backend
    execute: Execute

    @contextmanager
    def flist(self) -> Iterator["HubFlist"]:
        """Give a workspace for one flist, and remove it."""
        with self.workspace() as directory:
            yield HubFlist(self, directory)

    @contextmanager
    def workspace(self) -> Iterator[Path]:
        """Give an empty directory of the user that the hub runs as, and remove it."""
        with tempfile.TemporaryDirectory(prefix="workspace-", dir=self.work_directory) as directory:
            yield Path(directory)


def executable(path: str) -> Execute:
    """Run zflist as a program; it inherits the hub's environment."""

    def execute(arguments: Sequence[str], environ: Mapping[str, str]) -> tuple[int, str]:
        command = [path, *arguments]
        print(command, flush=True)  # upstream's log: a password that is passed stands in it
        done = subprocess.run(
            command, env={**os.environ, **environ}, capture_output=True, text=True, check=False
        )
        print(f"Code: {done.returncode}\nError: {done.stderr}", flush=True)
        return done.returncode, done.stdout

    return execute


class HubFlist:
    """A flist in work, in a workspace that is zflist's mount point."""

    def __init__(self, workshop: Workshop, directory: Path) -> None:
        self._shop, self._directory = workshop, directory

    def run(self, command: str, *arguments: str) -> dict[str, Any]:
        """Run a command of zflist; return its answer and, as `status`, its exit code."""
        internal = self._shop.internal
        backend = {
            "host": internal.host,
            "port": internal.port,
            "password": internal.password,
            "namespace": internal.namespace,
        }
        environ = {
            "ZFLIST_MNT": str(self._directory),
            "ZFLIST_BACKEND": json.dumps(backend),
            "ZFLIST_JSON": "1",
            "ZFLIST_PROGRESS": "1",
        }
        code, output = self._shop.execute([command, *arguments], environ)
        lines = output.splitlines()  # reports of progress stand before the answer
        return {**(json.loads(lines[-1]) if lines else {}), "status": code}

    # -- at start ----------------------------------------------------------------------------

    def check(self) -> bool:
        """Try zflist and the 0-db, with the password that is configured, even an empty one."""
        if self.run("init")["status"] != 0:
            return False
        internal = self._shop.internal
        host, namespace = internal.arguments()[:4], internal.arguments()[4:]
        # A password None ends the hub here: subprocess takes texts only.
        password: Any = internal.password
        self.run("metadata", "backend", *host, "--password", password, *namespace)
        return bool(self.run("check")["status"] == 0)

    # -- reading -----------------------------------------------------------------------------

    def contents(self, file: Path) -> Any:
        """Return every path of a flist; of what is none, nothing."""
        self.run("open", str(file))
        found = self.run("find")["response"]
        self.run("close")
        return found

    def metadata(self, file: Path) -> dict[str, Any]:
        """Return what a flist says of itself."""
        self.run("open", str(file))
        listed = self.run("metadata")
        names = listed["response"] if listed["success"] else []
        found = {name: self.run("metadata", name)["response"]["value"] for name in names}
        if "backend" not in found:
            public = self._shop.public
            forced = {"host": public.host, "port": public.port, "namespace": public.namespace}
            found["backend-forced"] = forced
        self.run("close")
        return found

    def validate(self, file: Path) -> dict[str, Any]:
        """Return how many of a flist's files lack chunks in the hub's 0-db."""
        self.run("open", str(file))
        self.run("metadata", "backend", *self._shop.internal.arguments())
        checked = self.run("check")
        self.run("close")
        return checked

    # -- writing -----------------------------------------------------------------------------

    def create(self, source: Path, target: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
        """Pack a directory; what zflist could not pack still becomes a flist."""
        self.run("init")
        packed = self.run("putdir", str(source), "/")
        for name in _READMES:
            if (source / name).exists():
                self.run("metadata", "readme", "--import", str(source / name))
        for name, value in metadata.items():
            if name not in _PROTECTED:
                self.run("metadata", name, value)
        self.run("metadata", "backend", *self._shop.public.arguments())
        self.run("commit", str(target))
        self.run("close")
        return packed

    def merge(self, sources: Sequence[str], target: Path) -> bool:
        """Put flists (REPO/F.flist) on top of each other, the first one's names first."""
        first, *others = [str(self._shop.public_directory / source) for source in sources]
        self.run("open", first)
        if not all(self.run("merge", source)["success"] for source in others):
            return False
        self.run("commit", str(target))
        return True


def unpack(archive: Path, target: Path) -> None:
    """Unpack with tar as the user that the hub runs as: what that one may not do is left out."""
    subprocess.run(["tar", "-xpf", str(archive), "-C", str(target)], check=False)
