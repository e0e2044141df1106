"""Servers as processes, for tests of the sandbox's own."""

import shutil
import socket
import subprocess
import time
from pathlib import Path


def started(command: list[str], port: int, cwd: Path) -> "subprocess.Popen[bytes]":
    """Start a server and wait until its port answers; the caller ends it."""
    process = subprocess.Popen(
        command, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return process
    ended(process)
    raise RuntimeError(f"{command[0]} does not listen on port {port}")


def ended(process: "subprocess.Popen[bytes]") -> None:
    """Kill a process and wait for it."""
    process.kill()
    process.wait(10)


def real_zdbd(named: str | None) -> str | None:
    """Return the real zdbd: the one named, else one on PATH, else None."""
    return named or shutil.which("zdbd")
