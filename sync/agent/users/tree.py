"""The hub's folder on disk, exactly as 0-hub lays it out, changed one whole name at a time.

`users/REPO/F.flist` a flist; `users/REPO/G.flist -> F.flist` or `-> ../REPO2/F.flist`;
`users/REPO/.tag-T/N.flist -> ../../REPO2/F.flist`; `users/REPO/L -> ../REPO2/.tag-T`.
"""

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from sync.agent import durable
from sync.agent.users.listing import Link, Name
from sync.contract import names
from sync.contract.names import RefusedNameError

USERS: Final = "users"
_TAG_PREFIX: Final = ".tag-"


def link_text(link: Link) -> str:
    """Return what the symbolic link says: one of the four legitimate shapes."""
    if not link.target.name:
        return f"../{link.target.repository}/{names.tag_directory(link.target.tag)}"
    if link.name.tag:
        return f"../../{link.target.repository}/{link.target.name}"
    if link.target.repository == link.name.repository:
        return link.target.name
    return f"../{link.target.repository}/{link.target.name}"


def read_link_text(name: Name, text: str) -> Name:
    """Return the target that `link_text` wrote. Raises RefusedNameError for any other shape."""
    parts = text.split("/")
    ups = 2 if name.tag else 1
    if len(parts) == 1 and not name.tag:
        return Name(name.repository, names.checked_flist(text))
    if len(parts) != ups + 2 or parts[:ups] != [".."] * ups:
        raise RefusedNameError(f"link {name} -> {text[:80]!r}: not a shape that a hub makes")
    repository, last = names.checked(parts[ups], "repository"), parts[ups + 1]
    if last.startswith(_TAG_PREFIX) and not name.tag:
        return Name(repository, "", names.checked(last.removeprefix(_TAG_PREFIX), "tag"))
    return Name(repository, names.checked_flist(last))


class Tree:
    """The folder that the hub serves. root: its userdata root, which holds users/.

    empty_staging: remove what a killed process left there (the one that publishes does).
    """

    def __init__(self, root: Path, *, empty_staging: bool = True) -> None:
        self.users = root / USERS
        self.users.mkdir(exist_ok=True)
        self._folders_known: dict[tuple[str, str], Path] = {}
        self.staging = root / durable.STAGING
        if empty_staging:
            self.staging = durable.staging_directory(root)

    def path(self, name: Name) -> Path:
        """Where a name lives. Every part is checked again: nothing else becomes a path."""
        folder = self._folder(name.repository, name.tag)
        return folder / names.checked(name.name, "file") if name.name else folder

    def _folder(self, repository: str, tag: str) -> Path:
        """Where the names of a repository, or of a tag in it, live."""
        folder = self._folders_known.get((repository, tag))
        if folder is None:
            folder = self.users / names.checked(repository, "repository")
            if tag:
                folder /= names.tag_directory(tag)
            self._folders_known[repository, tag] = folder
        return folder

    def prepare_folder(self, name: Name) -> Path:
        """Make the folder that will hold `name`, durably; a file or link in its place goes."""
        folder = self.path(name).parent
        for part in (self.users / name.repository, folder):
            with contextlib.suppress(FileNotFoundError):
                if stat.S_ISDIR(part.lstat().st_mode):
                    continue
                part.unlink()
            part.mkdir(mode=0o755)
            durable.sync_directory(part.parent)
        return folder

    def make_tag(self, repository: str, tag: str) -> None:
        """Make a tag's folder, empty or not."""
        self.prepare_folder(Name(repository, "any", tag))

    def link(self, link: Link) -> None:
        """Publish a link whose target is published already."""
        self.prepare_folder(link.name)
        path = self.path(link.name)
        durable.publish_link(link_text(link), path, self.staging)
        os.utime(path, (link.link_time, link.link_time), follow_symlinks=False)

    def target(self, name: Name) -> Name | None:
        """Return where the published link `name` leads; None where there is no such link."""
        try:
            return read_link_text(name, os.readlink(self.path(name)))  # noqa: PTH115 - its text
        except (OSError, RefusedNameError):
            return None

    def is_file(
        self, name: Name, size_bytes: int | None = None, updated: int | None = None
    ) -> bool:
        """Tell whether a flist is published under `name` (with that size and mtime)."""
        try:
            status = self.path(name).lstat()
        except OSError:
            return False
        right_size = size_bytes is None or status.st_size == size_bytes
        right_time = updated is None or int(status.st_mtime) == updated
        return stat.S_ISREG(status.st_mode) and right_size and right_time

    def is_there(self, name: Name) -> bool:
        """Tell whether something has that name, though it be a link that leads nowhere."""
        return os.path.lexists(self.path(name))

    def exists(self, name: Name) -> bool:
        """Tell whether `name` is served: the file or folder at the end of its links is there."""
        return self.path(name).exists()

    def remove(self, name: Name) -> None:
        """Remove a flist or link durably."""
        durable.remove(self.path(name))

    def remove_stray(self, name: Name) -> None:
        """Remove a link that was found on disk, whatever its name is."""
        tag = [_TAG_PREFIX + name.tag] if name.tag else []
        durable.remove(self.users.joinpath(name.repository, *tag, name.name))

    def remove_folders(self, listed: set[str], tags: set[tuple[str, str]]) -> None:
        """Remove tags and repositories that are empty and not listed any more."""
        for repository in self._folders(self.users):
            folder = self.users / repository
            for name in self._folders(folder):
                tag = name.removeprefix(_TAG_PREFIX)
                if name != tag and (repository, tag) not in tags:
                    _remove_if_empty(folder / name)
            if repository not in listed:
                _remove_if_empty(folder)

    def set_tag_time(self, repository: str, tag: str, updated: int) -> None:
        """Give a tag's folder the master's time, so that a chained mirror sees its changes."""
        with contextlib.suppress(OSError):
            os.utime(self.path(Name(repository, "", tag)), (updated, updated))

    def walk(self) -> Iterator[tuple[Name, Path]]:
        """Yield everything that the hub would serve, hidden files left out."""
        for repository in self._folders(self.users):
            for name, path in self._entries(self.users / repository):
                if not name.startswith("."):
                    yield Name(repository, name), path
                elif name.startswith(_TAG_PREFIX) and path.is_dir() and not path.is_symlink():
                    tag = name.removeprefix(_TAG_PREFIX)
                    for inner, inner_path in self._entries(path):
                        yield Name(repository, inner, tag), inner_path

    @staticmethod
    def _entries(folder: Path) -> Iterator[tuple[str, Path]]:
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                yield entry.name, Path(entry.path)

    @staticmethod
    def _folders(folder: Path) -> list[str]:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()
        durable.sync_directory(folder.parent)
