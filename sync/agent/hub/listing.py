"""What the master's hub lists (0-hub: flist-uploader.py), validated entry by entry.

One strict rule decides which names become paths; an entry that breaks it is refused and listed,
and stops none of the others.
"""

import re
import reprlib
from collections.abc import Callable, Container
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeAlias, TypeGuard
from urllib.parse import quote

from sync.agent.master.client import HttpError, Page
from sync.agent.master.json_rows import JsonRows
from sync.agent.name_room import LINK_BYTES, TEXT_BYTES, PageRoom
from sync.contract import names
from sync.contract.names import FLIST_SUFFIX, RefusedNameError
from sync.contract.spec import UsersSpec

# mtimes have whole seconds: a file that is younger than this may change again unseen.
_FRESH_SECONDS: Final = 2.0
_TAGS: Final = "tags"
_PRINTED_SIZE: Final = re.compile(r"([0-9]{1,18}(?:\.[0-9]{0,9})?) KB", re.ASCII)
_TOLD: Final = 80
# "26.65 KB", and room for other units and separators.
_LONGEST_SIZE: Final = 40
_TELLER: Final = reprlib.Repr()
_TELLER.maxlevel = 3


class TagName(NamedTuple):
    """A tag of a repository."""

    repository: str
    tag: str

    def __str__(self) -> str:
        """REPO/tags/T: how a hub prints the target of a taglink (clean_symlink)."""
        return f"{self.repository}/{_TAGS}/{self.tag}"


class Name(NamedTuple):
    """Repository and file name of a flist or link; with `tag` of a link in that tag."""

    repository: str
    name: str
    tag: str = ""

    @property
    def its_tag(self) -> TagName:
        """The tag that the name is in, where it is in one."""
        return TagName(self.repository, self.tag)

    def __str__(self) -> str:
        """REPO/F.flist, or REPO/tags/T/F.flist."""
        return f"{self.its_tag if self.tag else self.repository}/{self.name}"


Target: TypeAlias = Name | TagName


@dataclass(frozen=True, slots=True)
class Regular:
    """A flist: size as the master prints it ("26.65 KB"), mtime in unix seconds."""

    name: Name
    size_text: str
    updated: int


@dataclass(frozen=True, slots=True)
class Link:
    """A link to a flist or to another link or, as a taglink, to a tag; link_time: unix seconds."""

    name: Name
    target: Target
    link_time: int


@dataclass(frozen=True, slots=True)
class Tag:
    """A tag: a set of links with a name; updated: mtime of its directory, unix seconds."""

    name: TagName
    updated: int


Entry: TypeAlias = Regular | Link | Tag


@dataclass
class Listing:
    """A complete listing. refused: what was left out, and why. left_out: repositories, likewise."""

    repositories: set[str] = field(default_factory=set)
    regulars: dict[Name, Regular] = field(default_factory=dict)
    links: dict[Name, Link] = field(default_factory=dict)
    tags: dict[TagName, Tag] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def add(
        self, page: str, rows: JsonRows, parse: Callable[[object], Entry | None], room: PageRoom
    ) -> None:
        """Take the entries of a page. Raises HttpError where it has no list of them."""
        if not rows.begins("["):
            raise HttpError(f"{page}: its entries are not a list", retry=True)
        for row in rows.rows():
            self.take(page, row, parse, room)

    def take(
        self, page: str, row: object, parse: Callable[[object], Entry | None], room: PageRoom
    ) -> None:
        """Take one entry of a page, or note why it is refused. Raises NoNameRoomError."""
        try:
            entry = parse(row)
            if entry is not None:
                self._put(entry, room)
        except RefusedNameError as error:
            self.refuse(f"{page}: {error}", room)

    def leave_out(self, repository: str, served: Container[Name]) -> None:
        """Leave out what takes room of a repository: all but the flists that are served."""
        self.regulars = {
            name: entry
            for name, entry in self.regulars.items()
            if name.repository != repository or name in served
        }
        self.links = {
            name: link for name, link in self.links.items() if name.repository != repository
        }
        self.tags = {name: tag for name, tag in self.tags.items() if name.repository != repository}
        self.refused = [text for text in self.refused if not text.startswith(f"{repository}: ")]

    def update(self, part: "Listing") -> None:
        """Take all entries of another one, which is about other repositories."""
        self.regulars |= part.regulars
        self.links |= part.links
        self.tags |= part.tags
        self.refused += part.refused

    def refuse(self, text: str, room: PageRoom) -> None:
        """Note what is left out, and why."""
        room.take(TEXT_BYTES, [text])
        self.refused.append(text)

    def _put(self, entry: Entry, room: PageRoom) -> None:
        if not isinstance(entry, Regular):
            room.take(LINK_BYTES, entry.name)
        if isinstance(entry, Tag):
            self.tags[entry.name] = entry
        # No folder has a name twice: whoever puts it there wants one of the two to pass a check.
        elif entry.name in self.regulars or entry.name in self.links:
            raise RefusedNameError(f"refused {entry.name}: listed twice")
        elif isinstance(entry, Regular):
            self.regulars[entry.name] = entry
        else:
            self.links[entry.name] = entry


def target_of(text: str) -> Target:
    """Return the name that prints as `text`: none has a slash in a part of it."""
    repository, *rest = text.split("/")
    if len(rest) == 2:  # noqa: PLR2004 - tags/T
        return TagName(repository, rest[1])
    return Name(repository, rest[-1], *rest[1:-1])


def deselected(spec: UsersSpec, name: Target) -> bool:
    """Return whether the operator, not the master, is why a name is not listed."""
    if not spec.repositories.takes(name.repository):
        return True
    return isinstance(name, Name) and not name.tag and not spec.flists.takes(str(name))


def page_path(name: Target) -> str:
    """Return the page of a name on a hub, which is 404 once it is gone."""
    repository = quote(name.repository)
    if isinstance(name, TagName):
        return f"/api/flist/{repository}/{_TAGS}/{quote(name.tag)}"
    if name.tag:
        return f"/{repository}/{_TAGS}/{quote(name.tag)}/{quote(name.name)}"
    if name.name.endswith(FLIST_SUFFIX):
        return f"/{repository}/{quote(name.name)}"
    # A taglink has no file of its own: this page says where it leads (api_inspect_taglink).
    return f"/api/flist/{repository}/{quote(name.name)}/taglink"


def light_path(name: Name) -> str:
    """Return the path of a flist's description on a hub."""
    return f"/api/flist{page_path(name)}/light"


def is_fresh(page: Page, updated: int) -> bool:
    """Return whether what a page of the master says was so new that it may change again unseen."""
    # By the master's clock alone (Date): ours may differ from it.
    return page.date_seconds is None or page.date_seconds - updated < _FRESH_SECONDS


def size_text(size_bytes: int) -> str:
    """Print a size as a hub does in its listings (flist-uploader.py, api_user_contents)."""
    return f"{size_bytes / 1024:.2f} KB"


def printed_bytes(text: str) -> float | None:
    """Read a size that `size_text` printed; None for anything else."""
    # Digits without end are infinitely many bytes, which are no number of bytes.
    found = _PRINTED_SIZE.fullmatch(text)
    return float(found[1]) * 1024 if found else None


def as_time(value: object) -> int | None:
    """Return a value of a page as unix seconds, None where it is no time.

    Python reads NaN, Infinity and any number of digits in JSON. One before 1970 is a time: a hub
    prints int(st_mtime), whatever the file has.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if abs(value) < 1 << 40 else None


def is_size(value: object) -> TypeGuard[int]:
    """Return whether a value of a page can be a file's size in bytes."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 60


def told(value: object) -> str:
    """Return what a page has in the place of an entry, in a few characters, however deep it is."""
    return _TELLER.repr(value)[:_TOLD]


def _text(row: dict[str, object], key: str) -> str:
    value = row.get(key)
    if not isinstance(value, str):
        raise RefusedNameError(f"refused entry {told(row)!r}: no {key}")
    return value


def _size(row: dict[str, object]) -> str:
    # It is kept, and compared with the next listing's: text of a kind that can be.
    text = _text(row, "size")
    if not (text.isascii() and text.isprintable() and len(text) <= _LONGEST_SIZE):
        raise RefusedNameError(f"refused entry {told(row)!r}: size is none")
    return text


def _time(row: dict[str, object], key: str) -> int:
    seconds = as_time(row.get(key))
    if seconds is None:
        raise RefusedNameError(f"refused entry {told(row)!r}: {key} is no time")
    return seconds


def parse_entry(repository: str, row: object) -> Entry | None:
    """Read one entry (flist-uploader.py, api_user_contents); None for a file that is no flist.

    Raises RefusedNameError for a name, a link target or a shape that must not become a path.
    """
    if not isinstance(row, dict):
        raise RefusedNameError(f"refused entry {told(row)!r}: not an object")
    name, kind = _text(row, "name"), row.get("type")
    if kind == "tag":
        return Tag(TagName(repository, names.checked_tag(name)), _time(row, "updated"))
    if kind == "taglink":
        return _taglink(repository, name, row)
    if kind == "symlink":
        return _symlink(Name(repository, names.checked_flist(name)), row)
    if kind != "regular":
        raise RefusedNameError(f"refused {name[:80]!r}: type {told(kind)[:20]!r}")
    if not name.endswith(FLIST_SUFFIX):
        # "regular" is whatever is neither link nor directory, but the hub's one route to files is
        # /REPO/F.flist (download_flist): no node can get what has another name.
        names.checked(name, "file")
        return None
    checked = Name(repository, names.checked_flist(name))
    return Regular(checked, _size(row), _time(row, "updated"))


def _taglink(repository: str, name: str, row: dict[str, object]) -> Link:
    checked = names.checked(name, "taglink")
    # As api_symlink_to_tag refuses it: /REPO/NAME.flist would be a folder.
    if checked.endswith(FLIST_SUFFIX):
        raise RefusedNameError(f"refused taglink {name!r}: named like a flist")
    parts = _text(row, "target").split("/")
    if len(parts) != 3 or parts[1] != _TAGS:  # noqa: PLR2004 - REPO/tags/T
        raise RefusedNameError(f"refused taglink {name!r}: target {'/'.join(parts)[:80]!r}")
    target = TagName(names.checked_repository(parts[0]), names.checked_tag(parts[2]))
    return Link(Name(repository, checked), target, _time(row, "linktime"))


def _symlink(name: Name, row: dict[str, object]) -> Link:
    # What os.readlink gave without its "../" (clean_symlink): F.flist in the link's own
    # repository (api_symlink), or REPO2/F.flist (api_cross_symlink).
    parts = _text(row, "target").split("/")
    if len(parts) == 1:
        parts = [name.repository, *parts]
    if len(parts) != 2:  # noqa: PLR2004 - REPO/F.flist
        raise RefusedNameError(f"refused link {name}: target {'/'.join(parts)[:80]!r}")
    target = Name(names.checked_repository(parts[0]), names.checked_flist(parts[1]))
    if target == name:
        raise RefusedNameError(f"refused link {name}: to itself")
    return Link(name, target, _time(row, "linktime"))


def tag_link(tag: TagName, row: object) -> Link:
    """Read one entry of a tag. Raises RefusedNameError as `parse_entry`."""
    # Whatever else is in a tag's folder is left out by the hub (api_user_contents_tags).
    if not isinstance(row, dict) or row.get("type") != "symlink":
        raise RefusedNameError(f"refused {told(row)!r}: a tag holds links only")
    name = Name(tag.repository, names.checked_flist(_text(row, "name")), tag.tag)
    # A hub makes those of tags as ../../REPO2/F.flist alone (api_tag_symlink).
    if "/" not in _text(row, "target"):
        raise RefusedNameError(f"refused link {name}: target {_text(row, 'target')[:80]!r}")
    return _symlink(name, row)
