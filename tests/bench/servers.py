"""0-db servers as processes: the real zdbd where there is one, else the stand-in."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final, Self

from sync.agent.zdb.connection import ZdbConnection
from sync.agent.zdb.errors import ZdbError
from sync.contract.spec import ZdbEndpoint
from tests.sandbox.host.ports import free_port

ADMIN_PASSWORD: Final = "bench-admin"
_READY_SECONDS: Final = 20
_STAND_IN: Final = [sys.executable, "-m", "tests.sandbox.services.zdb"]
# In memory it would spend as long on the first touch of each 4 KiB as on storing (malloc(3)).
_LARGE_PAGES: Final = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


def real_zdbd() -> str | None:
    """Return the path of a real zdbd: the one that ZDBD names, or one on PATH; else None."""
    named = os.environ.get("ZDBD")
    if named and not Path(named).is_file():
        raise FileNotFoundError(f"ZDBD={named}: no such file")
    return named or shutil.which("zdbd")


def server_name() -> str:
    """Say which server is measured."""
    real = real_zdbd()
    if real is None:
        return "stand-in (tests.sandbox.services.zdb)"
    told = subprocess.run([real, "--version"], capture_output=True, text=True, check=False)
    words = told.stdout.replace("\x1b", " ").split()
    version = next((word for word in words if word.startswith("v2")), "of unknown version")
    return f"zdbd {version.rstrip(',')}"


class ZdbProcess:
    """One server with its files below `directory`; started, killed and started again by a test.

    in_memory: the stand-in keeps no files, so that it is not what is measured; zdbd always does.
    """

    def __init__(
        self,
        directory: Path,
        *,
        admin: str | None = None,
        data: Path | None = None,
        stand_in: bool = False,
        in_memory: bool = False,
        options: tuple[str, ...] = (),
    ) -> None:
        self.directory = directory
        self.admin = admin
        self.port = free_port()
        self._data = data or directory / "data"
        self._stand_in = stand_in
        self._in_memory = in_memory
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> ZdbEndpoint:
        """Where it serves."""
        return ZdbEndpoint(host="127.0.0.1", port=self.port)

    @property
    def pid(self) -> int:
        """Process id of the running server."""
        if self._process is None:
            raise RuntimeError("the server does not run")
        return self._process.pid

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start and wait until it answers."""
        index = self.directory / "index"
        for path in (self._data, index):
            path.mkdir(parents=True, exist_ok=True)
        real = None if self._stand_in else real_zdbd()
        command = [real] if real else list(_STAND_IN)
        environment = None
        if real or not self._in_memory:
            command += ["--data", str(self._data), "--index", str(index)]
        else:
            environment = os.environ | _LARGE_PAGES
        command += ["--listen", "127.0.0.1", "--port", str(self.port), *self._options]
        if self.admin:
            command += ["--admin", self.admin, "--protect"]
        log = (self.directory / "server.log").open("ab")
        with log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        self._await_answer()

    def _await_answer(self) -> None:
        deadline = time.monotonic() + _READY_SECONDS
        while True:
            try:
                with ZdbConnection.open(self.endpoint, None, 5):
                    return
            except ZdbError:
                if time.monotonic() > deadline:
                    self.kill()
                    raise
                time.sleep(0.02)

    def kill(self) -> None:
        """End it as kill -9 does."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it in order."""
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)

    def connect(self, timeout_seconds: float = 10) -> ZdbConnection:
        """Open a connection that may write."""
        return ZdbConnection.open(self.endpoint, self.admin, timeout_seconds)

    def wipe(self) -> None:
        """Lose all data (while it is stopped)."""
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self._data)
            shutil.rmtree(self.directory / "index")
