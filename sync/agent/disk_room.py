"""The disk that unfinished files may take: what is on its way never takes it below its floor.

A look at what is free before a file is fetched is not enough: many are fetched at once, and none is
there yet.
"""

import contextlib
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path


class ScratchError(Exception):
    """Something needs more of the disk than there is above the floor that must stay free."""


class DiskRoom:
    """What is free on a disk above the floor, shared by threads.

    folder, floor_bytes: where unfinished files go, and what must stay free there.
    """

    def __init__(self, folder: Path, floor_bytes: int) -> None:
        self._folder = folder
        self._floor_bytes = floor_bytes
        self._disk = threading.Condition()
        self._on_disk_bytes = 0

    @contextlib.contextmanager
    def on_disk(self, size_bytes: int, what: str) -> Iterator[None]:
        """Hold so many bytes of the disk, once others need them no more.

        Raises ScratchError where they are not to be had though nobody else holds any.
        """
        with self._disk:
            self._disk.wait_for(lambda: size_bytes <= self._free_bytes() or not self._on_disk_bytes)
            free = self._free_bytes()
            if size_bytes > free:
                raise ScratchError(
                    f"{what} takes {size_bytes} bytes of the disk, and {free} are free above "
                    "freeSpaceFloorBytes; add space or lower it"
                )
            self._on_disk_bytes += size_bytes
        try:
            yield
        finally:
            with self._disk:
                self._on_disk_bytes -= size_bytes
                self._disk.notify_all()

    def _free_bytes(self) -> int:
        # What others hold may be written already, and counts twice then: they wait a little longer.
        free = shutil.disk_usage(self._folder).free - self._floor_bytes
        return max(0, free - self._on_disk_bytes)
