"""A Docker Engine for the sandbox: the one that answers, else a private one of our own.

The private engine keeps its data below `.sandbox/` and listens on a socket below /run; it is
started and ended by us, and nothing of the machine's own engine is touched.
"""

import contextlib
import hashlib
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import docker
import psutil
from docker.errors import DockerException
from rich.console import Console

from tests.sandbox.host import locks, packages
from tests.sandbox.host.processes import Background, has_ended, wait_until
from tests.sandbox.host.run import OUTSIDE

PROJECT = Path(__file__).resolve().parents[3]
SANDBOX = PROJECT / ".sandbox"
_DEFAULT_SOCKET = "unix:///var/run/docker.sock"
_PROGRAMS = {"dockerd": "docker.io", "docker": "docker.io", "iptables": "iptables"}
_APPARMOR = Path("/sys/module/apparmor/parameters/enabled")


@dataclass(frozen=True)
class DockerEngine:
    """Where an engine answers. private: it is ours (started by `ensure`)."""

    url: str
    version: str
    private: bool


def _key() -> str:
    return hashlib.sha256(str(PROJECT).encode()).hexdigest()[:10]


def private_directory() -> Path:
    """Short path (a socket's is limited to 107 bytes) for the private engine's run files."""
    return Path("/run") / f"gridhub-{_key()}"


def private_url() -> str:
    """DOCKER_HOST of the private engine."""
    return f"unix://{private_directory() / 'docker.sock'}"


def answering(url: str) -> DockerEngine | None:
    """Return the engine at `url` if it answers within 5 s, else None."""
    try:
        client = docker.DockerClient(base_url=url, timeout=5)
        try:
            version = str(client.version()["Version"])
        finally:
            client.close()
    except (DockerException, OSError):
        return None
    return DockerEngine(url, version, private=url == private_url())


def find() -> DockerEngine | None:
    """Return the engine to use: DOCKER_HOST's, the machine's, or our private one, if it answers."""
    named = os.environ.get("DOCKER_HOST")
    candidates = [named] if named else [_DEFAULT_SOCKET, private_url()]
    for url in candidates:
        engine = answering(url)
        if engine is not None:
            return engine
    return None


def _background() -> Background:
    return Background("dockerd", SANDBOX / "run")


def ensure(console: Console) -> DockerEngine:
    """Return an engine that answers; start a private one where there is none.

    Raises MissingPackageError or TimeoutError with the remedy or the engine's last words.
    """
    found = find()
    if found is not None:
        packages.ensure({"docker": "docker.io"}, console)
        return found
    packages.ensure(_needed(), console)
    found = find()  # where systemd runs, Debian starts the engine it installs
    if found is not None:
        return found
    console.print("No Docker Engine answers: starting a private one (ends with the sandbox).")
    return start_private()


def _needed() -> dict[str, str]:
    if _APPARMOR.exists() and _APPARMOR.read_text().startswith("Y"):
        # Without its parser an engine on a kernel with AppArmor starts no container.
        return {**_PROGRAMS, "apparmor_parser": "apparmor"}
    return _PROGRAMS


def start_private() -> DockerEngine:
    """Start the private engine and wait until it answers (30 s)."""
    run = private_directory()
    run.mkdir(parents=True, exist_ok=True)
    run.chmod(0o711)
    background = _background()
    if background.process() is None:
        _end_containerd()
        # An engine that another process started and has not collected would pass for a running one.
        (run / "dockerd.pid").unlink(missing_ok=True)
    background.start(
        [
            _program("dockerd"),
            f"--host={private_url()}",
            f"--data-root={SANDBOX / 'docker'}",
            f"--exec-root={run / 'exec'}",
            f"--pidfile={run / 'dockerd.pid'}",
            f"--bridge={_default_bridge()}",
            # Published ports show the client's own IPv6 address only with ip6tables, which
            # engines before 27 call experimental.
            "--experimental",
            "--ip6tables",
        ],
        {"PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin", **OUTSIDE},
    )
    wait_until(
        lambda: answering(private_url()) is not None,
        "the private Docker Engine",
        60,
        background.log,
    )
    engine = answering(private_url())
    if engine is None:
        raise TimeoutError("the private Docker Engine stopped answering")
    return engine


def _default_bridge() -> str:
    """We need none; but an engine without one removes docker0, be it another engine's."""
    return "docker0" if Path("/sys/class/net/docker0").exists() else "none"


def _program(name: str) -> str:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") or name


def kill_private() -> None:
    """Let the private engine die at once, as in a crash; `start_private` brings it back.

    Containers and their shims go on; the next engine finds and ends them.
    """
    _background().kill()
    _end_containerd()


def _end_containerd() -> None:
    """End the containerd of a private engine that died, and forget it.

    Killed with its engine, it may yet wait to be collected; the next engine would take it for a
    running one, start none of its own and never answer.
    """
    pid_file = private_directory() / "exec" / "containerd" / "containerd.pid"
    with contextlib.suppress(OSError, ValueError, psutil.NoSuchProcess):
        process = psutil.Process(int(pid_file.read_text()))
        if f"{private_directory()}/" in " ".join(process.cmdline()):
            process.kill()
            wait_until(lambda: has_ended(process), "the end of the engine's containerd", 10)
    pid_file.unlink(missing_ok=True)


def turn(*, ends_it: bool) -> contextlib.AbstractContextManager[None]:
    """Wait for a turn with the engine: many use it at a time, who ends it has it alone."""
    return locks.held(SANDBOX / "run" / "engine.lock", shared=not ends_it)


def stop_private(*, remove_data: bool) -> bool:
    """End the private engine; with remove_data also delete its images and containers."""
    stopped = _background().stop(grace_seconds=30)
    run = private_directory()
    if run.exists():
        _unmount_below(run)
        shutil.rmtree(run, ignore_errors=True)
    data = SANDBOX / "docker"
    # An engine that was killed leaves a mount there, and then nobody can remove the clone.
    _unmount_below(data)
    if remove_data and data.exists():
        shutil.rmtree(data)
    return stopped


def _unmount_below(directory: Path) -> None:
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    # The directory too, of which an engine makes a mount of its own.
    ours = [mount for mount in mounts if f"{mount}/".startswith(f"{directory}/")]
    for mount in sorted(ours, reverse=True):
        subprocess.run(["umount", "--lazy", mount], check=False, capture_output=True, timeout=30)
