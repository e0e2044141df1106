"""The program's process: started with its own interpreter, its output shown as messages."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tests.sandbox.engine import spans
from tests.sandbox.engine.errors import EngineError
from tests.sandbox.engine.events import Diagnostic, Severity
from tests.sandbox.engine.monitor import StackInfo
from tests.sandbox.engine.plugins import default_python
from tests.sandbox.engine.project import Project

_RUNNER = Path(__file__).with_name("runner.py")
_SHOWN_EXIT_CODE = 32
_STOP_SECONDS = 10


def interpreter(project: Project) -> Path:
    """Tell the program's interpreter: that of its `virtualenv` option, else ours.

    Raises EngineError where the virtual environment is not there.
    """
    virtualenv = project.runtime_options.get("virtualenv")
    if not virtualenv:
        return default_python()
    directory = (project.directory / str(virtualenv)).absolute()
    python = directory / "bin" / "python"
    if not python.exists():
        raise EngineError(
            f"The 'virtualenv' option in Pulumi.yaml is set to {str(virtualenv)!r}, but "
            f"{directory} is no virtual environment; create it with `python3 -m venv` "
            "and install the program's requirements into it"
        )
    return python


@dataclass(frozen=True)
class Addresses:
    """Where the program finds the engine's services."""

    monitor: str
    engine: str


class Program:
    """A running program."""

    def __init__(
        self,
        project: Project,
        info: StackInfo,
        addresses: Addresses,
        show: Callable[[Diagnostic], None],
    ) -> None:
        main = project.program
        if not main.exists():
            raise EngineError(f"could not find main: no {main}; see `main` in {project.file}")
        directory = str(main if main.is_dir() else main.parent)
        given = {
            "monitor": addresses.monitor,
            "engine": addresses.engine,
            "project": info.project,
            "stack": info.stack,
            "parallel": info.parallel,
            "dry_run": info.preview,
            "root_directory": str(project.directory),
            "program": str(main),
            "directory": directory,
        }
        python = interpreter(project)
        environment = {
            **os.environ,
            "PULUMI_CONFIG": json.dumps(info.config),
            "PULUMI_CONFIG_SECRET_KEYS": json.dumps(info.secret_keys),
            "PYTHONUNBUFFERED": "1",
            "PATH": f"{python.parent}{os.pathsep}{os.environ.get('PATH', '')}",
        }
        self._show = show
        self._started = time.monotonic()
        self._process = subprocess.Popen(
            [str(python), "-u", str(_RUNNER), json.dumps(given)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=directory,
            env=environment,
            process_group=0,
        )
        self._readers = [
            self._read(self._process.stdout, "info"),
            self._read(self._process.stderr, "info#err"),
        ]

    def _read(self, stream: IO[bytes] | None, severity: Severity) -> threading.Thread:
        assert stream is not None

        def read() -> None:
            for line in stream:
                text = line.decode(errors="replace").rstrip("\n")
                self._show(Diagnostic("", text, severity))

        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        return thread

    def wait(self) -> tuple[int, bool]:
        """Wait for the end: the exit code, and whether the failure has been shown."""
        code = self._process.wait()
        spans.record(spans.PROGRAM, "Run", "", self._started)
        for reader in self._readers:
            reader.join(_STOP_SECONDS)
        return code, code == _SHOWN_EXIT_CODE

    def stop(self, *, at_once: bool) -> None:
        """Let the program end by itself for a while, unless at once; then end it."""
        if at_once:
            self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
