"""A run of the tests or of the bench: it ends in order when it is interrupted, and leaves nothing.

Whatever a run starts inherits its mark in the environment and the folder that TMPDIR names, be it
started by a test, by a worker of pytest-xdist or by `pulumi`; stacks have the mark in their names.
So the end of a run finds what the end of a test did not come to: a worker may be cut short.
"""

import contextlib
import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Final

import docker
import psutil

MARK: Final = "GRIDHUB_RUN"
# The environment of what outlives the run that started it, as an engine may.
OUTSIDE: Final = {MARK: "", "TMPDIR": "/tmp"}
DATA_ROOTS: Final = Path("/srv")
_MEMORY: Final = Path("/dev/shm")
_KILLED_SECONDS: Final = 10


def prefix() -> str:
    """Return how the name of a temporary folder begins that the end of the run finds anywhere."""
    return f"gridhub-run-{os.environ.get(MARK, '')}-"


def in_memory() -> "tempfile.TemporaryDirectory[str]":
    """Make a folder where files cost no disk, if there is such a place: the same for all."""
    return tempfile.TemporaryDirectory(prefix=prefix(), dir=_MEMORY if _MEMORY.is_dir() else None)


def interruptible() -> None:
    """Let SIGTERM end this process as Ctrl-C does: once, since what cleans up needs its time."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        uninterruptible()
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, interrupt)


def uninterruptible() -> None:
    """Let nothing disturb what cleans up."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def begin() -> str:
    """Mark what this process starts and give its temporary files a folder; returns the mark."""
    mark = os.environ[MARK] = secrets.token_hex(3)
    folder = Path(tempfile.mkdtemp(prefix=prefix()))
    folder.chmod(0o711)  # other users' processes read below it
    os.environ["TMPDIR"] = str(folder)
    tempfile.tempdir = None  # read TMPDIR again
    return mark


def end(mark: str, engine: str | None) -> None:
    """End and remove what is left of a run. engine: the URL of one that answers."""
    uninterruptible()
    _end_processes(mark)
    if engine is not None:
        remove_stacks(engine, f"e2e-{mark}")
    places = {Path(os.environ.pop("TMPDIR")).parent, _MEMORY}
    folders = [folder for place in places for folder in place.glob(f"{prefix()}*")]
    for folder in [*folders, *DATA_ROOTS.glob(f"gridhub-e2e-{mark}*")]:
        shutil.rmtree(folder, ignore_errors=True)
    del os.environ[MARK]
    tempfile.tempdir = None


@contextlib.contextmanager
def whole() -> Iterator[None]:
    """Do a run that uses no engine of its own, to its end."""
    mark = begin()
    interruptible()
    try:
        yield
    finally:
        end(mark, None)


def _end_processes(mark: str) -> None:
    found = [
        process
        for process in psutil.process_iter(["environ"])
        if (process.info["environ"] or {}).get(MARK) == mark and process.pid != os.getpid()
    ]
    for process in found:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(found, _KILLED_SECONDS)


def remove_stacks(url: str, prefix: str) -> None:
    """Remove containers and networks of the stacks whose names begin so, whatever their state."""
    with contextlib.closing(docker.DockerClient(base_url=url, timeout=60)) as client:
        for container in client.containers.list(
            all=True, filters={"name": f"^/gridhub-{prefix}"}, ignore_removed=True
        ):
            container.remove(v=True, force=True)
        for network in client.networks.list(names=[f"^gridhub-{prefix}"]):
            network.remove()
