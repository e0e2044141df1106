"""What the master's hub lists (0-hub: flist-uploader.py), validated entry by entry.

One strict rule decides which names become paths; an entry that breaks it is refused and listed,
and stops none of the others.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Final, NamedTuple, TypeAlias
from urllib.parse import quote

from sync.agent.clocks import Clocks
from sync.agent.master.client import HttpError, HttpMissingError, Master, Page
from sync.contract import names
from sync.contract.names import FLIST_SUFFIX, RefusedNameError
from sync.contract.spec import UsersSpec

MAX_LISTING_BYTES: Final = 256 << 20
MAX_REPOSITORY_BYTES: Final = 64 << 20
# Each becomes a folder here, empty or not; the master has some thousand.
MAX_REPOSITORIES: Final = 100_000
# mtimes have whole seconds: a file that is younger than this may change again unseen.
_FRESH_SECONDS: Final = 2.0
_TAGS: Final = "tags"


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


@dataclass(frozen=True)
class Regular:
    """A flist: size as the master prints it ("26.65 KB"), mtime in unix seconds."""

    name: Name
    size_text: str
    updated: int


@dataclass(frozen=True)
class Link:
    """A link to a flist or to another link or, as a taglink, to a tag; link_time: unix seconds."""

    name: Name
    target: Target
    link_time: int


@dataclass(frozen=True)
class Tag:
    """A tag: a set of links with a name; updated: mtime of its directory, unix seconds."""

    name: TagName
    updated: int


Entry: TypeAlias = Regular | Link | Tag


@dataclass
class Listing:
    """A complete listing. refused: what was left out, and why."""

    repositories: set[str] = field(default_factory=set)
    regulars: dict[Name, Regular] = field(default_factory=dict)
    links: dict[Name, Link] = field(default_factory=dict)
    tags: dict[TagName, Tag] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)

    @cached_property
    def sizes(self) -> dict[Name, float | None]:
        """The printed sizes of its flists in bytes, None where one is none; read once."""
        return {name: _bytes(entry.size_text) for name, entry in self.regulars.items()}

    def add(self, page: str, rows: object, parse: Callable[[object], Entry | None]) -> None:
        """Take the entries of a page. Raises HttpError where it has no list of them."""
        if not isinstance(rows, list):
            raise HttpError(f"{page}: its entries are not a list", retry=True)
        for row in rows:
            try:
                entry = parse(row)
                if entry is not None:
                    self._put(entry)
            except RefusedNameError as error:
                self.refused.append(f"{page}: {error}")

    def _put(self, entry: Entry) -> None:
        if isinstance(entry, Tag):
            self.tags[entry.name] = entry
        # No folder has a name twice: whoever puts it there wants one of the two to pass a check.
        elif entry.name in self.regulars or entry.name in self.links:
            raise RefusedNameError(f"refused {entry.name}: listed twice")
        elif isinstance(entry, Regular):
            self.regulars[entry.name] = entry
        else:
            self.links[entry.name] = entry


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


def _bytes(text: str) -> float | None:
    """Read a size that `size_text` printed."""
    number, _, unit = text.partition(" ")
    if unit == "KB" and number.isascii() and number.replace(".", "", 1).isdigit():
        return float(number) * 1024
    return None


def _text(row: dict[str, object], key: str) -> str:
    value = row.get(key)
    if not isinstance(value, str):
        raise RefusedNameError(f"refused entry {str(row)[:80]!r}: no {key}")
    return value


def _time(row: dict[str, object], key: str) -> int:
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RefusedNameError(f"refused entry {str(row)[:80]!r}: no {key}")
    # One before 1970 is a time: a hub prints int(st_mtime), whatever the file has.
    if not abs(value) < 1 << 40:
        raise RefusedNameError(f"refused entry {str(row)[:80]!r}: {key} is no time")
    return int(value)


def parse_entry(repository: str, row: object) -> Entry | None:
    """Read one entry (flist-uploader.py, api_user_contents); None for a file that is no flist.

    Raises RefusedNameError for a name, a link target or a shape that must not become a path.
    """
    if not isinstance(row, dict):
        raise RefusedNameError(f"refused entry {str(row)[:80]!r}: not an object")
    name, kind = _text(row, "name"), row.get("type")
    if kind == "tag":
        return Tag(TagName(repository, names.checked_tag(name)), _time(row, "updated"))
    if kind == "taglink":
        return _taglink(repository, name, row)
    if kind == "symlink":
        return _symlink(Name(repository, names.checked_flist(name)), row)
    if kind != "regular":
        raise RefusedNameError(f"refused {name[:80]!r}: type {str(kind)[:20]!r}")
    if not name.endswith(FLIST_SUFFIX):
        # "regular" is whatever is neither link nor directory, but the hub's one route to files is
        # /REPO/F.flist (download_flist): no node can get what has another name.
        names.checked(name, "file")
        return None
    size = _text(row, "size")
    return Regular(Name(repository, names.checked_flist(name)), size, _time(row, "updated"))


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


def _tag_link(tag: TagName, row: object) -> Link:
    # Whatever else is in a tag's folder is left out by the hub (api_user_contents_tags).
    if not isinstance(row, dict) or row.get("type") != "symlink":
        raise RefusedNameError(f"refused {str(row)[:80]!r}: a tag holds links only")
    name = Name(tag.repository, names.checked_flist(_text(row, "name")), tag.tag)
    # A hub makes those of tags as ../../REPO2/F.flist alone (api_tag_symlink).
    if "/" not in _text(row, "target"):
        raise RefusedNameError(f"refused link {name}: target {_text(row, 'target')[:80]!r}")
    return _symlink(name, row)


class Source:
    """The hub to list, and which part of it is wanted. Threads may share `tag` alone."""

    def __init__(self, master: Master, spec: UsersSpec) -> None:
        self._master = master
        self._spec = spec
        self._listing = Listing()
        self._listed_by = ""
        self._conditions: dict[str, str] = {}
        # Of the last answer, also where that was "unchanged".
        self.clocks = Clocks()

    def listing(self) -> Listing:
        """Fetch the whole listing, conditionally once it was read twice alike. Raises HttpError."""
        # It has no digest: what damaged it on its way must not stay until it changes. 0-hub itself
        # knows no conditions here (api_list_files); what stands before it may.
        if self._listed_by != self._master.source:
            # What one name says of its page's age means nothing to another.
            self._conditions = {}
            self._listed_by = self._master.source
        with self._master.while_listing():
            page, listing = self._fetched()
        self.clocks = Clocks(page.date_seconds)
        if listing is not None:
            alike = listing == self._listing
            self._listing, self._conditions = listing, {}
            if alike and page.etag:
                self._conditions = {"If-None-Match": page.etag}
            elif alike and page.last_modified:
                self._conditions = {"If-Modified-Since": page.last_modified}
        return self._listing

    def _fetched(self) -> tuple[Page, Listing | None]:
        """Fetch it, or None when it is unchanged under the conditions (304)."""
        try:
            page = self._master.get("/api/fileslist", MAX_LISTING_BYTES, self._conditions)
        except HttpMissingError:
            return self._one_by_one()  # and no conditions: a hub that old knows none
        if page.status == 304:  # noqa: PLR2004 - not modified
            return page, None
        data = page.json()
        if not isinstance(data, dict):
            raise HttpError("/api/fileslist: not an object", retry=True)
        return page, self._parsed(data, data.__getitem__)

    def _one_by_one(self) -> tuple[Page, Listing]:
        """Ask an older hub, which has no /api/fileslist, for one repository after the other."""
        page = self._master.get("/api/repositories", MAX_REPOSITORY_BYTES)
        data = page.json()
        if not isinstance(data, list):
            raise HttpError("/api/repositories: not a list", retry=True)

        def rows_of(repository: str) -> object:
            path = f"/api/flist/{quote(repository)}"
            return self._master.get(path, MAX_REPOSITORY_BYTES).json()

        found = [row.get("name") if isinstance(row, dict) else row for row in data]
        return page, self._parsed(found, rows_of)

    def _parsed(self, found: Iterable[object], rows_of: Callable[[str], object]) -> Listing:
        listing = Listing()
        for name in found:
            try:
                # Not a str is refused by the rule itself.
                repository = names.checked_repository(name)
            except RefusedNameError as error:
                listing.refused.append(str(error))
                continue
            if self._spec.repositories.takes(repository):
                listing.repositories.add(repository)
                listing.add(repository, rows_of(repository), partial(self._wanted, repository))
            if len(listing.repositories) > MAX_REPOSITORIES:
                raise HttpError(f"lists more than {MAX_REPOSITORIES} repositories", retry=False)
        return listing

    def _wanted(self, repository: str, row: object) -> Entry | None:
        entry = parse_entry(repository, row)
        if entry is None or isinstance(entry, Tag) or self._spec.flists.takes(str(entry.name)):
            return entry
        return None

    def tag(self, tag: TagName) -> tuple[Page, Listing]:
        """Fetch a tag's page: its links, and what of it was refused. Raises HttpError."""
        page, found = self._master.get(page_path(tag), MAX_REPOSITORY_BYTES), Listing()
        found.add(str(tag), page.json(), partial(_tag_link, tag))
        return page, found
