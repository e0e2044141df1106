"""What the mirror's passes are measured against: upstream's way, and the plain limit."""

import contextlib
import http.client
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import requests

_Asked = TypeVar("_Asked")


def sequential(base: str, paths: list[str], target: Path) -> float:
    """Fetch as upstream's scripts do: one `requests.get` after the other; returns seconds."""
    started = time.monotonic()
    for number, path in enumerate(paths):
        (target / str(number)).write_bytes(requests.get(base + path, timeout=60).content)
    return time.monotonic() - started


def parallel(port: int, paths: list[str], target: Path, connections: int) -> float:
    """Fetch over kept connections and write to files, nothing else; returns seconds."""

    def fetch(line: http.client.HTTPConnection, asked: tuple[int, str]) -> None:
        number, path = asked
        line.request("GET", path)
        (target / f"p{number}").write_bytes(line.getresponse().read())

    return _over_kept_connections(port, deque(enumerate(paths)), connections, fetch)


def ranged(
    port: int, files: dict[str, int], target: Path, connections: int, piece_bytes: int
) -> float:
    """Fetch large files in pieces over kept connections: the limit for kernels; seconds."""
    pieces = deque(
        (number, path, start, min(size, start + piece_bytes))
        for number, (path, size) in enumerate(files.items())
        for start in range(0, size, piece_bytes)
    )
    for number in range(len(files)):
        (target / f"r{number}").touch()

    def fetch(line: http.client.HTTPConnection, asked: tuple[int, str, int, int]) -> None:
        number, path, start, end = asked
        line.request("GET", path, headers={"Range": f"bytes={start}-{end - 1}"})
        data = line.getresponse().read()
        with (target / f"r{number}").open("r+b") as file:
            file.seek(start)
            file.write(data)

    return _over_kept_connections(port, pieces, connections, fetch)


def _over_kept_connections(
    port: int,
    left: deque[_Asked],
    connections: int,
    fetch: Callable[[http.client.HTTPConnection, _Asked], None],
) -> float:
    """Fetch what is left on so many threads, a connection each; returns seconds."""

    def work() -> None:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as line:
            while left:
                try:
                    asked = left.popleft()
                except IndexError:
                    return
                fetch(line, asked)

    started = time.monotonic()
    with ThreadPoolExecutor(connections) as pool:
        for done in [pool.submit(work) for _ in range(connections)]:
            done.result()
    return time.monotonic() - started
