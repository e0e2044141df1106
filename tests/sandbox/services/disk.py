"""The mirror's files as its hub and its bootstrap server see them."""

import hashlib
import os
import stat
from pathlib import Path

from tests.sandbox.services.http import Content
from tests.sandbox.services.hub_api import Entry


class DiskTree:
    """Repositories below a directory (0-hub: /public/users); names are used as they come."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def repositories(self) -> list[tuple[str, int]]:
        """Return name and modification time of each directory."""
        if not self._root.is_dir():
            return []
        return [
            (path.name, int(path.lstat().st_mtime))
            for path in sorted(self._root.iterdir())
            if path.is_dir()
        ]

    def listing(self, directory: str) -> list[Entry] | None:
        """Return a directory's entries, sorted by name."""
        place = self._root / directory
        if not place.is_dir():
            return None
        found = [self.entry(directory, name) for name in sorted(os.listdir(place))]  # noqa: PTH208
        return [entry for entry in found if entry is not None]

    def entry(self, directory: str, name: str) -> Entry | None:
        """Return one entry."""
        place = self._root / directory / name
        try:
            own = place.lstat()
        except OSError:
            return None
        if stat.S_ISDIR(own.st_mode):
            return Entry(name, "directory", own.st_size, int(own.st_mtime))
        if not stat.S_ISLNK(own.st_mode):
            return Entry(name, "regular", own.st_size, int(own.st_mtime))
        led = place.stat() if place.exists() else own
        target = str(place.readlink())
        return Entry(name, "symlink", led.st_size, int(led.st_mtime), int(own.st_mtime), target)

    def content(self, directory: str, name: str) -> Content | None:
        """Return a file's content, links followed."""
        return _content(self._root / directory / name)

    def digest(self, directory: str, name: str) -> str | None:
        """Return a file's MD5, links followed."""
        content = self.content(directory, name)
        if content is None:
            return None
        md5 = hashlib.md5(usedforsecurity=False)
        for block in content.blocks():
            md5.update(block)
        return md5.hexdigest()


class DiskKernels:
    """Kernels in a directory, net links in another."""

    def __init__(self, root: Path, net: Path) -> None:
        self._root, self._net = root, net

    def kernels(self) -> list[tuple[str, float]]:
        """Return name and modification time of each regular file at the top."""
        if not self._root.is_dir():
            return []
        return [
            (path.name, path.stat().st_mtime)
            for path in self._root.iterdir()
            if path.is_file() and not path.is_symlink()
        ]

    def content(self, path: str) -> Content | None:
        """Return a file by its path, which must stay below the directory."""
        if any(part in {"", ".", ".."} for part in path.split("/")):
            return None
        if path.startswith("net/"):
            return _content(self._net / path.removeprefix("net/"))
        return _content(self._root / path)


def _content(place: Path) -> Content | None:
    if not place.is_file():
        return None
    return Content(place.stat().st_mtime, path=place)
