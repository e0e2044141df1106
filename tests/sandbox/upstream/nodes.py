"""What stands in the model's repositories, and how links are followed there."""

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from tests.sandbox.services.http import Content
from tests.sandbox.services.hub_api import TAG_PREFIX, Entry

# As on Linux, where the 41st link is ELOOP.
_MOST_LINKS: Final = 40


@dataclass(frozen=True)
class File:
    """A regular file; modified in seconds since the epoch."""

    data: bytes
    modified: float

    @cached_property
    def md5(self) -> str:
        """Hex MD5 of the data."""
        return hashlib.md5(self.data, usedforsecurity=False).hexdigest()


@dataclass(frozen=True)
class Link:
    """A symbolic link; target is its text, whatever that may be."""

    target: str
    modified: float


@dataclass
class Tag:
    """A tag's directory: links by name."""

    links: dict[str, Link]
    modified: float


Node = File | Link | Tag


@dataclass
class Repository:
    """A repository's directory: nodes by file name (a tag under `.tag-T`)."""

    modified: float
    nodes: dict[str, Node] = field(default_factory=dict)


class ModelTree:
    """The hub's view of the repositories; the caller holds the model's lock."""

    def __init__(self, repositories: dict[str, Repository]) -> None:
        self._repositories = repositories

    def repositories(self) -> list[tuple[str, int]]:
        """Return name and modification time of each repository."""
        return [(name, int(found.modified)) for name, found in sorted(self._repositories.items())]

    def holds(self, directory: str) -> bool:
        """Return whether there is such a repository or tag."""
        return self._nodes(directory) is not None

    def names(self, directory: str) -> list[str]:
        """Return the names in a directory, sorted."""
        return sorted(self._nodes(directory) or {})

    def listing(self, directory: str) -> list[Entry] | None:
        """Return a directory's entries; `..` is the parent, which holds only `users`."""
        if directory == "..":
            return [Entry("users", "directory", 4096, 0)]
        nodes = self._nodes(directory)
        if nodes is None:
            return None
        return [self._entry(directory, name, node) for name, node in sorted(nodes.items())]

    def entry(self, directory: str, name: str) -> Entry | None:
        """Return one entry."""
        node = (self._nodes(directory) or {}).get(name)
        return None if node is None else self._entry(directory, name, node)

    def content(self, directory: str, name: str) -> Content | None:
        """Return a file's content, links followed."""
        file = self.file(directory, name)
        return None if file is None else Content(file.modified, file.data)

    def digest(self, directory: str, name: str) -> str | None:
        """Return a file's MD5, links followed."""
        file = self.file(directory, name)
        return None if file is None else file.md5

    def file(self, directory: str, name: str) -> File | None:
        """Return the file that a name leads to."""
        for _ in range(_MOST_LINKS + 1):
            node = (self._nodes(directory) or {}).get(name)
            if isinstance(node, File):
                return node
            if not isinstance(node, Link):
                return None
            directory, name = _followed(directory, node.target)
        return None

    def _nodes(self, directory: str) -> dict[str, Node] | None:
        if directory in self._repositories:  # a hostile one may have a slash in its name
            return self._repositories[directory].nodes
        repository, _, tag = directory.rpartition("/")
        found = self._repositories.get(repository)
        node = None if found is None else found.nodes.get(tag)
        return dict(node.links) if isinstance(node, Tag) else None

    def _entry(self, directory: str, name: str, node: Node) -> Entry:
        if isinstance(node, File):
            return Entry(name, "regular", len(node.data), int(node.modified))
        if isinstance(node, Tag):
            return Entry(name, "directory", 4096, int(node.modified))
        size, modified = len(node.target), node.modified
        file = self.file(directory, name)
        if file is not None:
            size, modified = len(file.data), file.modified
        elif (tag := self._tag(directory, node.target)) is not None:
            size, modified = 4096, tag.modified
        return Entry(name, "symlink", size, int(modified), int(node.modified), node.target)

    def _tag(self, directory: str, target: str) -> Tag | None:
        repository, name = _followed(directory, target)
        node = (self._nodes(repository) or {}).get(name)
        return node if isinstance(node, Tag) and name.startswith(TAG_PREFIX) else None


def _followed(directory: str, target: str) -> tuple[str, str]:
    """Return directory and name that a link's text leads to from its directory."""
    parts = [] if target.startswith("/") else directory.split("/")
    for part in target.split("/"):
        if part == "..":
            if not parts:
                return "", ""
            parts.pop()
        elif part not in {"", "."}:
            parts.append(part)
    return "/".join(parts[:-1]), parts[-1] if parts else ""
