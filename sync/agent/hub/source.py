"""The listing of the master's hub and the pages of its tags, read row by row."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final
from urllib.parse import quote

from sync.agent.clocks import Clocks
from sync.agent.hub.listing import (
    Entry,
    Listing,
    Name,
    Regular,
    Tag,
    TagName,
    page_path,
    parse_entry,
    tag_link,
)
from sync.agent.hub.state_db import FlistRow, as_listed
from sync.agent.master.client import HttpError, HttpMissingError, Master, Page
from sync.agent.master.json_rows import JsonRows
from sync.agent.name_room import FLIST_BYTES, TEXT_BYTES, NameRoom, NoNameRoomError, PageRoom
from sync.contract import names
from sync.contract.names import RefusedNameError
from sync.contract.spec import UsersSpec

MAX_LISTING_BYTES: Final = 256 << 20
MAX_REPOSITORY_BYTES: Final = 64 << 20
# Each becomes a folder here, empty or not; the master has some thousand.
MAX_REPOSITORIES: Final = 100_000
# Of the room for names: a repository that takes less is not why there is too little.
_LARGE_PART: Final = 0.125


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

    def listing(self, room: NameRoom, served: Mapping[Name, FlistRow]) -> Listing:
        """Fetch the whole listing, conditionally once it was read twice alike. Raises HttpError.

        room: for the names that are not `served`, which have theirs.
        """
        # It has no digest: what damaged it on its way must not stay until it changes. 0-hub itself
        # knows no conditions here (api_list_files); what stands before it may.
        if self._listed_by != self._master.source:
            # What one name says of its page's age means nothing to another.
            self._conditions = {}
            self._listed_by = self._master.source
        with self._master.while_listing():
            page, listing = self._fetched(_Pages(self._spec, room, served, self._listing))
        self.clocks = Clocks(page.date_seconds)
        if listing is not None:
            alike = listing == self._listing
            self._listing, self._conditions = listing, {}
            if alike and page.etag:
                self._conditions = {"If-None-Match": page.etag}
            elif alike and page.last_modified:
                self._conditions = {"If-Modified-Since": page.last_modified}
        return self._listing

    def _fetched(self, pages: "_Pages") -> tuple[Page, Listing | None]:
        """Fetch it, or None when it is unchanged under the conditions (304)."""
        path, limit = "/api/fileslist", MAX_LISTING_BYTES
        try:
            return self._master.get_rows(path, limit, pages.all_of, self._conditions)
        except HttpMissingError:
            return self._one_by_one(pages)  # and no conditions: a hub that old knows none

    def _one_by_one(self, pages: "_Pages") -> tuple[Page, Listing]:
        """Ask an older hub, which has no /api/fileslist, for one repository after the other."""
        limit = MAX_REPOSITORY_BYTES
        page, found = self._master.get_rows("/api/repositories", limit, pages.repositories_of)
        listing, failures = found or Listing(), 0
        for repository in sorted(listing.repositories):
            take = partial(pages.entries_of, repository)
            try:
                _, part = self._master.get_rows(f"/api/flist/{quote(repository)}", limit, take)
            except HttpError as error:
                # As in all_of: one page that is never there must not cost all others.
                failures += 1
                if 2 * failures > len(listing.repositories):
                    raise
                with pages.room.page() as room:
                    listing.refuse(f"{repository}: {error}", room)
                continue
            listing.update(part or Listing())
        return page, listing

    def tag(self, tag: TagName, room: NameRoom) -> tuple[Page, Listing]:
        """Fetch a tag's page: its links, and what of it was refused. Raises HttpError."""

        def links_of(rows: JsonRows) -> Listing:
            found = Listing()
            with room.page() as part:
                found.add(str(tag), rows, partial(tag_link, tag), part)
            return found

        page, found = self._master.get_rows(page_path(tag), MAX_REPOSITORY_BYTES, links_of)
        return page, found or Listing()


@dataclass(frozen=True)
class _Pages:
    """How the pages of one listing are read: what is wanted of them, and the room for it.

    served: flists that have their room. before: the listing before: most of it is listed again.
    """

    spec: UsersSpec
    room: NameRoom
    served: Mapping[Name, FlistRow]
    before: Listing

    def all_of(self, rows: JsonRows) -> Listing:
        """Read /api/fileslist: an object of repositories. Raises HttpError."""
        listing, sizes = Listing(), dict[str, int]()
        if not rows.begins("{"):
            raise HttpError("/api/fileslist: not an object", retry=True)
        with self.room.page() as room:
            for name in rows.members():
                repository = self._repository(listing, name, room)
                if repository is None:
                    rows.skip()
                elif not rows.begins("["):
                    # Its flists count as unlisted: none goes unless the master answers 404 for it.
                    listing.refuse(f"{repository}: its entries are not a list", room)
                    rows.value()
                else:
                    self._take(listing, repository, rows, room, sizes)
        return listing

    def _take(
        self,
        listing: Listing,
        repository: str,
        rows: JsonRows,
        room: PageRoom,
        sizes: dict[str, int],
    ) -> None:
        """Take the entries of a repository; sizes: what each takes so far. Raises HttpError.

        Where names have no more room the largest repository goes, unless none is that large: one
        user must not keep all others away.
        """
        wanted = self._wanted(repository, room)
        sizes.setdefault(repository, 0)
        for row in rows.rows():
            while repository in sizes:
                before = room.taken_bytes
                try:
                    listing.take(repository, row, wanted, room)
                except NoNameRoomError as error:
                    sizes[repository] += room.taken_bytes - before
                    self._leave_out_largest(listing, error, room, sizes)
                    continue
                sizes[repository] += room.taken_bytes - before
                break

    def _leave_out_largest(
        self, listing: Listing, error: NoNameRoomError, room: PageRoom, sizes: dict[str, int]
    ) -> None:
        large = [one for one in sizes if sizes[one] >= room.limit_bytes * _LARGE_PART]
        if not large:
            raise error
        # Nodes boot from the official ones: they stay for as long as others are large.
        official = self.spec.official
        largest = max(large, key=lambda one: (one not in official, sizes[one]))
        room.give(sizes.pop(largest))
        listing.leave_out(largest, self.served)
        listing.left_out.append(f"{largest}: left out, {error}")

    def repositories_of(self, rows: JsonRows) -> Listing:
        """Read /api/repositories: a listing without entries. Raises HttpError."""
        listing = Listing()
        if not rows.begins("["):
            raise HttpError("/api/repositories: not a list", retry=True)
        with self.room.page() as room:
            for row in rows.rows():
                self._repository(listing, row.get("name") if isinstance(row, dict) else row, room)
        return listing

    def entries_of(self, repository: str, rows: JsonRows) -> Listing:
        """Read /api/flist/REPOSITORY: its entries. Raises HttpError."""
        listing = Listing()
        with self.room.page() as room:
            listing.add(repository, rows, self._wanted(repository, room), room)
        return listing

    def _repository(self, listing: Listing, name: object, room: PageRoom) -> str | None:
        """Take a repository into the listing; None where it is refused or not wanted."""
        try:
            # Not a str is refused by the rule itself.
            repository = names.checked_repository(name)
        except RefusedNameError as error:
            listing.refuse(str(error), room)
            return None
        if not self.spec.repositories.takes(repository):
            return None
        room.take(TEXT_BYTES, [repository])
        listing.repositories.add(repository)
        if len(listing.repositories) > MAX_REPOSITORIES:
            raise HttpError(f"lists more than {MAX_REPOSITORIES} repositories", retry=False)
        return repository

    def _wanted(self, repository: str, room: PageRoom) -> Callable[[object], Entry | None]:
        def parse(row: object) -> Entry | None:
            entry = parse_entry(repository, row)
            if entry is None or isinstance(entry, Tag):
                return entry
            if not self.spec.flists.takes(str(entry.name)):
                return None
            return self._shared(entry, room) if isinstance(entry, Regular) else entry

        return parse

    def _shared(self, entry: Regular, room: PageRoom) -> Regular:
        """Return an entry as it is here already: a large hub's names must not be here twice."""
        before = self.before.regulars.get(entry.name)
        served = self.served.get(entry.name)
        if served is None:
            room.take(FLIST_BYTES, [entry.name.name])
        if before == entry:
            return before
        if served is None or not as_listed(served, entry):
            return entry
        return Regular(served.name, served.size_text or "", served.updated or 0)
