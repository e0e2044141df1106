"""Debian packages that the sandbox needs on this machine: installed as root, said out loud."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

from rich.console import Console

# Debian's maintainer scripts ask this program whether they may start a service; 101 is no.
_POLICY = Path("/usr/sbin/policy-rc.d")


class MissingPackageError(RuntimeError):
    """A needed program is not here and cannot be installed; the message names the remedy."""


def ensure(programs: dict[str, str], console: Console, *, services: bool = True) -> None:
    """Install the Debian packages of those programs that are not on PATH.

    programs: program name → Debian package. services: whether what is installed may start its
    service, as Debian does by itself. Raises MissingPackageError without root, without
    apt-get, or when the installation fails.
    """
    missing = sorted({package for name, package in programs.items() if not _found(name)})
    if not missing:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise MissingPackageError(
            f"needs the Debian packages {' '.join(missing)}: install them, or run this as root"
        )
    console.print(f"Installing Debian packages on this machine: [bold]{' '.join(missing)}[/]")
    _apt(["update"])
    with contextlib.nullcontext() if services else _no_services():
        _apt(["install", "--no-install-recommends", "-y", *missing])


@contextlib.contextmanager
def _no_services() -> Iterator[None]:
    if _POLICY.exists():  # the machine has a policy of its own
        yield
        return
    _POLICY.write_text("#!/bin/sh\nexit 101\n")
    _POLICY.chmod(0o755)
    try:
        yield
    finally:
        _POLICY.unlink()


def _found(program: str) -> bool:
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is not None


def _apt(arguments: Iterable[str]) -> None:
    command = ["apt-get", "-q", *arguments]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=900, check=False
    )
    if done.returncode != 0:
        raise MissingPackageError(f"{' '.join(command)} failed: {done.stderr.strip()[-500:]}")
