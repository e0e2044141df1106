"""What the mirror's passes are measured against: upstream's way, and the plain limit."""

import http.client
import threading
import time
from collections import deque
from pathlib import Path

import requests


def sequential(base: str, paths: list[str], target: Path) -> float:
    """Fetch as upstream's scripts do: one `requests.get` after the other; returns seconds."""
    started = time.monotonic()
    for number, path in enumerate(paths):
        (target / str(number)).write_bytes(requests.get(base + path, timeout=60).content)
    return time.monotonic() - started


def parallel(port: int, paths: list[str], target: Path, connections: int) -> float:
    """Fetch over kept connections and write to files, nothing else; returns seconds."""
    left = deque(enumerate(paths))
    failed: list[BaseException] = []

    def work() -> None:
        try:
            line = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            while left:
                try:
                    number, path = left.popleft()
                except IndexError:
                    break
                line.request("GET", path)
                (target / f"p{number}").write_bytes(line.getresponse().read())
            line.close()
        except BaseException as error:  # noqa: BLE001 - raised by the caller
            failed.append(error)

    started = time.monotonic()
    threads = [threading.Thread(target=work) for _ in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    return time.monotonic() - started


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
    failed: list[BaseException] = []

    def work() -> None:
        try:
            line = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            while pieces:
                try:
                    number, path, start, end = pieces.popleft()
                except IndexError:
                    break
                line.request("GET", path, headers={"Range": f"bytes={start}-{end - 1}"})
                data = line.getresponse().read()
                with (target / f"r{number}").open("r+b") as file:
                    file.seek(start)
                    file.write(data)
            line.close()
        except BaseException as error:  # noqa: BLE001 - raised by the caller
            failed.append(error)

    started = time.monotonic()
    threads = [threading.Thread(target=work) for _ in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    return time.monotonic() - started
