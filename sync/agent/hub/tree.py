"""The hub's folder on disk, exactly as 0-hub lays it out, changed one whole name at a time.

`users/REPO/F.flist` a flist; `users/REPO/G.flist -> F.flist` or `-> ../REPO2/F.flist`;
`users/REPO/.tag-T/N.flist -> ../../REPO2/F.flist`; `users/REPO/L -> ../REPO2/.tag-T`.
"""

import contextlib
import logging
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from sync.agent import durable
from sync.agent.hub.listing import Link, Name, TagName, Target
from sync.contract import names
from sync.contract.names import RefusedNameError

USERS: Final = "users"
_TAG_PREFIX: Final = ".tag-"
_FOLDER_MODE: Final = 0o755
_LOG = logging.getLogger(__name__)


def link_text(link: Link) -> str:
    """Return what the symbolic link says: one of the four legitimate shapes."""
    if isinstance(link.target, TagName):
        # api_symlink_to_tag of flist-uploader.py; api_tag_symlink and api_cross_symlink below.
        return f"../{link.target.repository}/{names.tag_directory(link.target.tag)}"
    if link.name.tag:
        return f"../../{link.target.repository}/{link.target.name}"
    if link.target.repository == link.name.repository:
        return link.target.name
    return f"../{link.target.repository}/{link.target.name}"


def read_link_text(name: Name, text: str) -> Target:
    """Return the target that `link_text` wrote. Raises RefusedNameError for any other shape."""
    parts = text.split("/")
    ups = 2 if name.tag else 1
    if len(parts) == 1 and not name.tag:
        return Name(name.repository, names.checked_flist(text))
    if len(parts) != ups + 2 or parts[:ups] != [".."] * ups:
        raise RefusedNameError(f"link {name} -> {text[:80]!r}: not a shape that a hub makes")
    repository, last = names.checked_repository(parts[ups]), parts[ups + 1]
    if last.startswith(_TAG_PREFIX) and not name.tag:
        return TagName(repository, names.checked_tag(last.removeprefix(_TAG_PREFIX)))
    return Name(repository, names.checked_flist(last))


class Tree:
    """The folder that the hub serves. root: its userdata root, which holds users/.

    empty_staging: remove what a killed process left there (the one that publishes does).
    """

    def __init__(self, root: Path, *, empty_staging: bool = True) -> None:
        self.users = root / USERS
        durable.require_directory(self.users)
        self._folders_known: dict[TagName, Path] = {}
        self.staging = durable.staging_directory(root) if empty_staging else root / durable.STAGING

    def path(self, name: Target) -> Path:
        """Where a name lives. Every part is checked again: nothing else becomes a path."""
        folder = self._folder(TagName(name.repository, name.tag))
        return folder / names.checked(name.name, "file") if isinstance(name, Name) else folder

    def _folder(self, tag: TagName) -> Path:
        """Where the names of a tag live, or (its tag empty) those of a repository."""
        folder = self._folders_known.get(tag)
        if folder is None:
            folder = self.users / names.checked_repository(tag.repository)
            if tag.tag:
                folder /= names.tag_directory(tag.tag)
            self._folders_known[tag] = folder
        return folder

    def empty_staging(self) -> None:
        """Discard all that is in staging; nobody may be at work there."""
        for path in self.staging.iterdir():
            durable.discard(path)

    def make_repository(self, repository: str) -> Path:
        """Make a repository's folder, empty or not, durably; a file or link in its place goes."""
        folder = self._folder(TagName(repository, ""))
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISDIR(folder.lstat().st_mode):
                return folder
            folder.unlink()
        folder.mkdir(mode=_FOLDER_MODE)
        durable.sync(folder.parent)
        return folder

    def link(self, link: Link) -> None:
        """Publish a link, not one in a tag, whose target is published already."""
        self.make_repository(link.name.repository)
        path = self.path(link.name)
        durable.publish_link(link_text(link), path, self.staging, link.link_time)

    def show_tag(self, tag: TagName, links: Iterable[Link]) -> None:
        """Publish a tag's new state, whole and in one step, in the place of the one before."""
        self.make_repository(tag.repository)
        folder = durable.temporary_in(self.staging)
        try:
            folder.mkdir()
            folder.chmod(_FOLDER_MODE)
            for link in links:
                path = folder / names.checked(link.name.name, "file")
                path.symlink_to(link_text(link))
                durable.set_time(path, link.link_time)
            durable.publish_directory(folder, self.path(tag), self.users.parent)
        finally:
            durable.discard(folder)

    def tags(self) -> set[TagName]:
        """Return the tags that are served: those whose names no hub can have are not."""
        found: set[TagName] = set()
        for tag, path in self._tag_folders():
            with contextlib.suppress(RefusedNameError):
                if self.path(tag) == path:
                    found.add(tag)
        return found

    def target(self, name: Name) -> Target | None:
        """Return where the published link `name` leads; None where there is no such link."""
        try:
            return read_link_text(name, os.readlink(self.path(name)))  # noqa: PTH115 - its text
        except (OSError, RefusedNameError):
            return None

    def is_file(
        self, name: Name, size_bytes: int | None = None, updated: int | None = None
    ) -> bool:
        """Return whether a flist is published under `name` (with that size and mtime)."""
        try:
            status = self.path(name).lstat()
        except OSError:
            return False
        right_size = size_bytes is None or status.st_size == size_bytes
        right_time = updated is None or int(status.st_mtime) == durable.served_seconds(updated)
        return stat.S_ISREG(status.st_mode) and right_size and right_time

    def remove(self, name: Target) -> None:
        """Remove a flist or link, or a tag with all of its links in one step, durably."""
        if isinstance(name, TagName):
            durable.remove_directory(self.path(name), self.staging)
        else:
            durable.remove(self.path(name))

    def remove_folders(self, listed: set[str]) -> None:
        """Remove repositories that are empty and not listed any more, and tags that none can be."""
        served = self.tags()
        for tag, path in self._tag_folders():
            if tag not in served:
                _remove_if_empty(path)
        for repository in _folders(self.users):
            if repository.name not in listed:
                _remove_if_empty(repository)

    def set_tag_time(self, tag: TagName, updated: int) -> None:
        """Give a tag's folder the master's time, so that a chained mirror sees its changes."""
        folder = self.path(tag)
        with contextlib.suppress(OSError):
            if folder.stat().st_mtime != durable.served_seconds(updated):
                durable.set_time(folder, updated)

    def make_readable(self) -> None:
        """Give whatever the hub or nodes cannot read a mode and a time that they can."""
        # As deep as 0-hub lists: what is below does no harm, and may be deeper than any path.
        for repository in _folders(self.users):
            _make_readable(repository)
            for path in sorted(repository.iterdir()):
                _make_readable(path)
        for _tag, folder in self._tag_folders():
            for path in sorted(folder.iterdir()):
                _make_readable(path)

    def count(self) -> tuple[int, int]:
        """Count the flists and links that the hub would serve, and keep none of them."""
        files = links = 0
        folders = [self.users]
        while folders:
            folder = folders.pop()
            # One that cannot be read, or goes meanwhile, is met by what reads it.
            with contextlib.suppress(OSError), os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_symlink():
                        links += 1
                    elif not entry.is_dir():
                        files += entry.name.endswith(names.FLIST_SUFFIX)
                    elif folder == self.users or entry.name.startswith(_TAG_PREFIX):
                        folders.append(Path(entry))
        return files, links

    def scan(self) -> Iterator[tuple[Name, Path]]:
        """Yield everything that the hub would serve; of hidden files those that it calls flists."""
        for repository in _folders(self.users):
            # Names, as a path takes several times as much, and a repository may hold all there are.
            for name in sorted(os.listdir(repository)):  # noqa: PTH208
                if not name.startswith(".") or name.endswith(names.FLIST_SUFFIX):
                    yield Name(repository.name, name), repository / name
        for tag, folder in self._tag_folders():
            for path in sorted(folder.iterdir()):
                yield Name(tag.repository, path.name, tag.tag), path

    def _tag_folders(self) -> Iterator[tuple[TagName, Path]]:
        for repository in _folders(self.users):
            for folder in _folders(repository):
                # 0-hub lists no other folders (api_user_contents).
                if folder.name.startswith(_TAG_PREFIX):
                    yield TagName(repository.name, folder.name.removeprefix(_TAG_PREFIX)), folder


def _folders(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        return sorted(Path(one) for one in entries if one.is_dir(follow_symlinks=False))


def _make_readable(path: Path) -> None:
    # Nodes read `updated` as unsigned (zosbase: pkg/upgrade/hub/hub.go, FList), and a negative one
    # fails the whole list. So does a folder that the hub, another uid, may not list (0-hub:
    # api_list_files); one that keeps this job out fails each pass. Whoever left it was careful.
    try:
        found = path.lstat()
        least = {stat.S_IFDIR: _FOLDER_MODE, stat.S_IFREG: durable.PUBLIC_MODE}
        mode = stat.S_IMODE(found.st_mode) | least.get(stat.S_IFMT(found.st_mode), 0)
        if mode != stat.S_IMODE(found.st_mode):
            path.chmod(mode)
        if durable.served_seconds(found.st_mtime) != found.st_mtime:
            durable.set_time(path, found.st_mtime)
    except OSError as error:
        _LOG.warning("%s: the hub or nodes cannot read it, and it stays so: %s", path, error)


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()
        durable.sync(folder.parent)
