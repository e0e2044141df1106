"""Background processes of the sandbox: started detached, known by pid file, ended by id."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True)
class Background:
    """A process with a pid file `<name>.pid` and a log `<name>.log` in `directory`."""

    name: str
    directory: Path

    @property
    def log(self) -> Path:
        """Where stdout and stderr of the process go."""
        return self.directory / f"{self.name}.log"

    @property
    def _pid_file(self) -> Path:
        return self.directory / f"{self.name}.pid"

    def process(self) -> psutil.Process | None:
        """Return the running process, or None; a reused pid does not count."""
        try:
            pid, started = self._pid_file.read_text().split()
            process = psutil.Process(int(pid))
            same = abs(process.create_time() - float(started)) < 1
        except (OSError, ValueError, psutil.NoSuchProcess):
            return None
        return process if same and not has_ended(process) else None

    def start(self, command: list[str], environment: Mapping[str, str] | None = None) -> None:
        """Start `command` in a session of its own; nothing happens when it runs already."""
        if self.process() is not None:
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **(environment or {})},
            )
        started = psutil.Process(child.pid).create_time()
        self._pid_file.write_text(f"{child.pid} {started}\n")

    def stop(self, grace_seconds: float = 15) -> bool:
        """End the process (SIGTERM, then SIGKILL); tell whether one was running."""
        process = self.process()
        if process is not None:
            _end(process, grace_seconds)
        self._pid_file.unlink(missing_ok=True)
        return process is not None

    def kill(self) -> None:
        """Let the process die at once, as in a crash; what it started goes on."""
        process = self.process()
        if process is None:
            raise RuntimeError(f"{self.name} does not run")
        process.kill()
        _await_end(process, 10)


def has_ended(process: psutil.Process) -> bool:
    """Tell whether it runs no more; its parent, if not this process, may yet collect it."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def pid_has_ended(pid: int) -> bool:
    """Tell the same of a process id."""
    try:
        return has_ended(psutil.Process(pid))
    except psutil.NoSuchProcess:
        return True


def _await_end(process: psutil.Process, seconds: float) -> None:
    wait_until(lambda: has_ended(process), f"the end of process {process.pid}", seconds)
    with contextlib.suppress(psutil.TimeoutExpired):
        process.wait(0)  # collects a child of ours


def _end(process: psutil.Process, grace_seconds: float) -> None:
    for sign, patience in ((signal.SIGTERM, grace_seconds), (signal.SIGKILL, 5.0)):
        try:
            process.send_signal(sign)
            _await_end(process, patience)
        except psutil.NoSuchProcess:
            return
        except TimeoutError:
            continue
        else:
            return


def wait_until(
    ready: Callable[[], bool],
    what: str,
    seconds: float,
    log: Path | None = None,
    poll_seconds: float = 0.1,
) -> None:
    """Poll `ready` until it is true, else raise TimeoutError with the end of `log`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if ready():
            return
        time.sleep(poll_seconds)
    tail = ""
    if log is not None and log.exists():
        tail = "\n" + "\n".join(log.read_text(errors="replace").splitlines()[-10:])
    raise TimeoutError(f"{what} was not ready within {seconds:.0f} s{tail}")
