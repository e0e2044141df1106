"""Kernels on their way never take the disk below its floor, however many come at once."""

import contextlib
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from sync.agent.job import Directories, PassIncompleteError
from sync.contract.spec import KernelsSpec
from sync.contract.status import StatusRecord
from tests.agent.kernels.kernels_mirror import OLD, engine_of, served
from tests.agent.scripted import Answer, ScriptedServer

MIB: Final = 1 << 20
FLOOR: Final = 10 * MIB


class Usage(NamedTuple):
    """What shutil.disk_usage says."""

    total: int
    used: int
    free: int


@contextmanager
def disk(folder: Path, free_bytes: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Let the disk of a folder have so much more above the floor; yields what was free, often."""
    seen, ended = [free_bytes], threading.Event()

    def sizes() -> dict[Path, int]:
        found = {}
        for path in folder.rglob("*"):
            with contextlib.suppress(OSError):
                found[path] = path.lstat().st_size if path.is_file() else 0
        return found

    def usage(_: object) -> Usage:
        before, now = sizes(), sizes()
        for _again in range(1000):
            # Else what moved meanwhile would count twice, or not at all.
            if before.keys() == now.keys():
                break
            before, now = now, sizes()
        return Usage(1 << 40, 0, FLOOR + free_bytes - sum(now.values()))

    def watch() -> None:
        while not ended.wait(0.002):
            seen.append(usage(folder).free - FLOOR)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    watcher = threading.Thread(target=watch)
    watcher.start()
    yield seen
    ended.set()
    watcher.join()
    seen.append(usage(folder).free - FLOOR)


def mirrored(
    sizes: list[int], directories: Directories, fault: str = "", **settings: object
) -> StatusRecord:
    """Mirror kernels of these sizes; returns the record after three passes."""
    with ScriptedServer() as server:
        names = [f"{number}.efi" for number in range(len(sizes))]
        server.put_json("/api/images", [{"name": name, "timestamp": OLD} for name in names])
        for name, size in zip(names, sizes, strict=True):
            body = b"MZ" + name.encode() + bytes(size)
            server.pages[f"/kernel/{name}"] = Answer(body, mtime=OLD, fault=fault)
        spec = KernelsSpec.model_validate(
            {
                "stack": "t",
                "sources": [server.url],
                "run_modes": [],
                "free_space_floor_bytes": FLOOR,
                "backoff": {"first_seconds": 0.01, "longest_seconds": 0.02},
                **settings,
            }
        )
        with engine_of(spec, directories) as engine:
            for _ in range(3):
                with contextlib.suppress(PassIncompleteError, OSError):
                    engine.one_pass()
            return engine._status.record


@pytest.mark.parametrize(
    ("sizes", "room", "most"),
    [
        ([3 * MIB] * 4, MIB, 0),
        ([3 * MIB] * 4, 4 * MIB, 1),
        ([3 * MIB] * 4, 13 * MIB, 4),
        ([20 * MIB, MIB, MIB, MIB], 5 * MIB, 3),
        ([MIB] * 12, 6 * MIB, 5),
    ],
)
def test_kernels_that_do_not_fit_fail_alone_and_the_others_come(
    sizes: list[int],
    room: int,
    most: int,
    directories: Directories,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with disk(directories.kernels, room, monkeypatch) as free:
        record = mirrored(sizes, directories)
    assert min(free) >= 0
    assert len(served(directories)) == most
    if most < len(sizes):
        assert "freeSpaceFloorBytes" in str(record)


def test_kernel_of_no_known_length_counts_as_the_largest(
    directories: Directories, monkeypatch: pytest.MonkeyPatch
) -> None:
    with disk(directories.kernels, 6 * MIB, monkeypatch) as free:
        mirrored([4 * MIB] * 3, directories, "no-length", max_kernel_bytes=5 * MIB)
    assert min(free) >= 0
