"""The mirror's files as its hub and its bootstrap server see them."""

import hashlib
import os
import posixpath
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

    def holds(self, directory: str) -> bool:
        """Return whether there is such a directory, links followed."""
        status = _status(self._root / directory)
        return status is not None and stat.S_ISDIR(status.st_mode)

    def names(self, directory: str) -> list[str]:
        """Return the names in a directory, sorted."""
        return sorted(path.name for path in (self._root / directory).iterdir())

    def listing(self, directory: str) -> list[Entry] | None:
        """Return a directory's entries, sorted by name.

        As upstream's, it fails where a name vanishes between the list and the look at it.
        """
        if not self.holds(directory):
            return None
        found = []
        for name in self.names(directory):
            entry = self.entry(directory, name)
            if entry is None:
                raise FileNotFoundError(f"{directory}/{name} is gone")
            found.append(entry)
        return found

    def entry(self, directory: str, name: str) -> Entry | None:
        """Return one entry."""
        place = self._root / directory / name
        own = _status(place, follow=False)
        if own is None:
            return None
        if stat.S_ISDIR(own.st_mode):
            return Entry(name, "directory", own.st_size, int(own.st_mtime))
        if not stat.S_ISLNK(own.st_mode):
            return Entry(name, "regular", own.st_size, int(own.st_mtime))
        led = _status(place) or own
        target = os.fsdecode(place.readlink())
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
        found = []
        for path in self._root.iterdir():
            status = _status(path, follow=False)
            if status is not None and stat.S_ISREG(status.st_mode):
                found.append((path.name, status.st_mtime))
        return found

    def content(self, path: str) -> Content | None:
        """Return a file by its path, which must stay below the directory it is asked in."""
        root, inside = self._root, path
        if path.startswith("net/"):
            root, inside = self._net, path.removeprefix("net/")
        clean = posixpath.normpath(inside)
        if clean.startswith(("/", "../")) or clean == "..":
            return None
        return _content(root / clean)

    def holds(self, path: str) -> bool:
        """Return whether there is such a file or directory, links followed."""
        return _status(self._root / path) is not None


def _content(place: Path) -> Content | None:
    status = _status(place)
    if status is None or not stat.S_ISREG(status.st_mode):
        return None
    return Content(status.st_mtime, path=place)


def _status(place: Path, *, follow: bool = True) -> os.stat_result | None:
    """Return what a name is; None where it is nothing, or can be no name at all."""
    try:
        return place.stat(follow_symlinks=follow)
    except (OSError, ValueError):
        return None
