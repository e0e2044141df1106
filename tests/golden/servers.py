"""The services that recordings are held against: the sandbox's stand-ins, or real ones.

GRIDHUB_REAL_HUB, GRIDHUB_REAL_BOOTSTRAP and GRIDHUB_REAL_BOOTSTRAP_2023 (its revision of 2023-10,
on Flask 1) each name a command that runs the real service in the foreground with the configuration
file that stands for `{config}`; it must listen on the port named there. GRIDHUB_REAL_ZFLIST is then
the hub's zflist. What is not named is the stand-in; 0-db is the sandbox's in any case.
"""

import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.golden.flists import Recorded
from tests.golden.replay_http import Recording
from tests.sandbox.host.ports import free_port
from tests.sandbox.services import zflist
from tests.sandbox.services.bootstrap import Bootstrap
from tests.sandbox.services.bootstrap_api import BootstrapOptions
from tests.sandbox.services.http import Application, HttpServer
from tests.sandbox.services.hub import Hub
from tests.sandbox.services.zdb import Settings, Store, ZdbServer
from tests.sandbox.services.zdb_client import ZdbClient

PROJECT: Final = Path(__file__).parents[2]
REAL_HUB: Final = os.environ.get("GRIDHUB_REAL_HUB", "")
REAL_BOOTSTRAPS: Final = {
    "newest": os.environ.get("GRIDHUB_REAL_BOOTSTRAP", ""),
    "2023-10": os.environ.get("GRIDHUB_REAL_BOOTSTRAP_2023", ""),
}
REAL_ZFLIST: Final = os.environ.get("GRIDHUB_REAL_ZFLIST", "/usr/bin/zflist")
_START_SECONDS: Final = 30

Config = dict[str, Any]
# Makes of a command one that runs as another user.
AsUser = Callable[[list[str]], list[str]]


@contextmanager
def zdb(settings: Settings) -> Iterator[ZdbServer]:
    """Run a 0-db that holds the chunks of names.flist, as the recorded one did."""
    server = ZdbServer(Store(settings)).start()
    try:
        with ZdbClient("127.0.0.1", server.port) as client:
            client.select("default", settings.admin)
            for key, payload in Recorded.of("names").payloads.items():
                client.command("SET", key, payload)
        yield server
    finally:
        server.stop()


def hub_config(recording: Recording, place: Path, zdb_port: int, **changes: Any) -> Config:
    """Return the recorded configuration with the places and ports of this run."""
    config: Config = {
        **recording.document["config"],
        "threebot-seed": bytes(recording.document["config"]["threebot-seed"]),
        "userdata-root-path": str(place / "public"),
        "workdir-root-path": str(place / "work"),
        "backend-internal-port": zdb_port,
        "listen-port": 0,
        "zflist-bin": REAL_ZFLIST,
    }
    return config | {name.replace("_", "-"): value for name, value in changes.items()}


@contextmanager
def hub(config: Config, place: Path) -> Iterator[str]:
    """Run a hub and give its URL; the stand-in calls its zflist without a process for each call."""
    if not REAL_HUB:
        (place / "work").mkdir()
        with _standin(Hub(config, zflist.run)) as url:
            yield url
        return
    config = {**config, "listen-port": free_port()}
    with started(shlex.split(REAL_HUB), config, place) as service:
        service.wait_until_it_listens()
        yield service.url


@contextmanager
def bootstrap(config: Config, place: Path, options: BootstrapOptions) -> Iterator[str]:
    """Run a bootstrap server of a revision and give its URL."""
    real = REAL_BOOTSTRAPS[options.revision]
    if not real:
        with _standin(Bootstrap(config, options)) as url:
            yield url
        return
    config = {**config, "http-port": free_port()}
    with started(shlex.split(real), config, place) as service:
        service.wait_until_it_listens()
        yield service.url


@contextmanager
def _standin(application: Application) -> Iterator[str]:
    server = HttpServer(application).start()
    try:
        yield server.url
    finally:
        server.stop()


# -- processes ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Service:
    """A service as a process. lines: what it has printed so far."""

    process: "subprocess.Popen[str]"
    port: int
    lines: list[str]
    listens: threading.Event

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"http://127.0.0.1:{self.port}"

    def wait_until_it_listens(self) -> bool:
        """Wait until it says that it listens, or ends; return whether it runs."""
        self.listens.wait(_START_SECONDS)
        return self.process.poll() is None

    def end(self) -> None:
        """Ask it to end, with whatever it started, and wait until it did."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
        self.process.wait(_START_SECONDS)


@contextmanager
def started(
    command: list[str],
    config: Config,
    place: Path,
    environ: Mapping[str, str] | None = None,
    as_user: AsUser = list,
) -> Iterator[Service]:
    """Start a service with a configuration file; `{config}` in the command stands for it."""
    file = place / "config.py"
    file.write_text(f"config = {config!r}\n")
    file.chmod(0o644)
    words = as_user([word.replace("{config}", str(file)) for word in command])
    process = subprocess.Popen(
        words,
        cwd=PROJECT,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **(environ or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        umask=0o022,
    )
    port = int(config.get("listen-port") or config["http-port"])
    service = Service(process, port, [], threading.Event())
    reader = threading.Thread(target=_read, args=(service,))
    reader.start()
    try:
        yield service
    finally:
        service.end()
        reader.join(_START_SECONDS)


def _read(service: Service) -> None:
    assert service.process.stdout is not None
    for line in service.process.stdout:
        service.lines.append(line.rstrip("\n"))
        # Flask prints the second line once its socket is bound, the stand-in only such a one.
        if "listening on http" in line or "Running on http" in line:
            service.listens.set()
    service.process.wait()
    service.listens.set()


def hub_command(python: str = sys.executable) -> list[str]:
    """Return the command of a hub as a process."""
    standin = [python, "-m", "tests.sandbox.services.hub", "--config", "{config}"]
    return shlex.split(REAL_HUB) or standin


def zflist_command(python: str = sys.executable) -> list[str]:
    """Return the command of the zflist that belongs to it."""
    standin = [python, "-m", "tests.sandbox.services.zflist"]
    return [REAL_ZFLIST] if REAL_HUB else standin
