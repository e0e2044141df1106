"""Debian packages that the sandbox needs on this machine: installed as root, said out loud."""

import os
import shutil
import subprocess
from collections.abc import Iterable

from rich.console import Console


class MissingPackageError(RuntimeError):
    """A needed program is not here and cannot be installed; the message names the remedy."""


def ensure(programs: dict[str, str], console: Console) -> None:
    """Install the Debian packages of those programs that are not on PATH.

    programs: program name → Debian package. Raises MissingPackageError without root, without
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
    _apt(["install", "--no-install-recommends", "-y", *missing])


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
