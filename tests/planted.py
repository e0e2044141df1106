"""What a service may put where root, or another service, looks for a file of its own."""

import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

Plant = Callable[[Path], object]
SECRET = "s3cret-of-another"


def _socket(path: Path) -> None:
    # Bound by a short path: an address has 107 bytes (unix(7)).
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(f"/proc/self/fd/{folder}/{path.name}")
    finally:
        os.close(folder)


def _link_to_a_secret(path: Path) -> None:
    secret = path.with_name("of-another")
    secret.write_text(SECRET)
    path.symlink_to(secret)


def _link_to_a_fifo(path: Path) -> None:
    os.mkfifo(path.with_name("fifo"))
    path.symlink_to(path.with_name("fifo"))


def _full_directory(path: Path) -> None:
    (path / "of-an-operator").mkdir(parents=True)


NO_FILES: dict[str, Plant] = {
    "a FIFO": os.mkfifo,
    "a socket": _socket,
    "a link to a secret": _link_to_a_secret,
    "a link to /dev/zero": lambda path: path.symlink_to("/dev/zero"),
    "a link to a FIFO": _link_to_a_fifo,
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to nothing": lambda path: path.symlink_to("/nowhere/at/all"),
    "an empty directory": lambda path: path.mkdir(),
    "a full directory": _full_directory,
}


def deep_tree(top: Path, levels: int = 1100, name: str = "d") -> Path:
    """Make a chain of directories with a file in the last; returns `top`.

    Deeper than Python recurses, and (with a long name) than a path may be long.
    """
    top.mkdir()
    descriptor = os.open(top, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir(name, dir_fd=descriptor)
        below = os.open(name, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(os.open("last", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor))
    os.close(descriptor)
    return top


def remove(folder: Path) -> None:
    """Remove a folder, however deep: Python's own way recurses."""
    subprocess.run(["rm", "-rf", "--", str(folder)], check=True)
