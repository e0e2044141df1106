"""What the master's tags hold: read when a tag changed, and again until a pass believed it."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from sync.agent.hub.links import TagState, end_of
from sync.agent.hub.listing import Link, Listing, Name, Tag, TagName, deselected, is_fresh
from sync.agent.hub.progress import Pass
from sync.agent.hub.publisher import Publisher
from sync.agent.hub.source import Source
from sync.agent.hub.state_db import HubStateDb, TagRow
from sync.agent.hub.tree import Tree
from sync.agent.master.client import HttpError, Page
from sync.agent.name_room import LINK_BYTES, NameRoom
from sync.agent.quarantine import Quarantine
from sync.contract.spec import UsersSpec


class TagReader:
    """Reads tags into the state database, in parallel; its methods are called by one thread."""

    def __init__(
        self, source: Source, state_db: HubStateDb, connections: int, quarantine: Quarantine
    ) -> None:
        self._source = source
        self._quarantine = quarantine
        self._db = state_db
        self._connections = connections
        # A tag's page has no digest, and is not read again while the tag's time stays: what one
        # byte that was turned over did to it would stay as well. So it is due until a pass ended
        # without doubts about what it says.
        # Nor do those settle that failed, were refused in part, or may have changed unseen.
        self._unsettled: set[TagName] = set()

    def read(self, listing: Listing, room: NameRoom) -> dict[TagName, str]:
        """Read the tags that changed or are due; returns those that failed, with the error.

        Among these are those that are quarantined and not read in this pass. Until `settle` tags
        stay due, so that a kill between the two has them read once more. room: for what they hold,
        beside what the others do.
        """
        known, quarantine = self._db.tags(), self._quarantine
        due = [
            tag
            for name, tag in listing.tags.items()
            if _is_due(tag, known.get(name)) and not quarantine.leaves_out(str(name))
        ]
        held = quarantine.reasons()
        failed = {
            name: held[str(name)] for name in listing.tags if quarantine.leaves_out(str(name))
        }
        self._unsettled = set(failed)
        # Those that are due count twice while they are read: as they were, and as they are.
        room.add(LINK_BYTES * self._db.count_tag_links())
        fetch = partial(self._fetch, room=room)
        with ThreadPoolExecutor(self._connections) as pool:
            for tag, outcome in zip(due, pool.map(fetch, due), strict=True):
                if isinstance(outcome, HttpError):
                    failed[tag.name] = f"could not be read: {outcome}"
                    self._unsettled.add(tag.name)
                    continue
                page, found = outcome
                row = TagRow(tag.name, tag.updated, True, tuple(found.refused))
                with self._db.transaction():
                    self._db.put_tag(row, found.links.values())
                # A tag's time is its directory's st_mtime (api_user_contents).
                if found.refused or is_fresh(page, tag.updated):
                    self._unsettled.add(tag.name)
        return failed

    def _fetch(self, tag: Tag, room: NameRoom) -> tuple[Page, Listing] | HttpError:
        try:
            with self._quarantine.trying(str(tag.name)):
                return self._source.tag(tag.name, room)
        except HttpError as error:
            return error

    def settle(self, work: Pass) -> None:
        """Believe what was read; where a pass has doubts, the next one reads it again."""
        doubtful = {name.its_tag for name in work.unconfirmed if name.tag}
        with self._db.transaction():
            self._db.set_due_tags(self._unsettled | doubtful)

    def set_times(self, work: Pass, publisher: Publisher, tree: Tree) -> None:
        """Give tags the master's time, by which a mirror of this mirror sees their changes."""
        # A tag that lacks a link, or may, keeps the time of its last change here: else nobody
        # would see that the link came later. So does one whose old state is served.
        partial = {link.name.its_tag for link in work.plan.dangling} | self._unsettled
        for name, tag in work.listing.tags.items():
            if name not in partial and publisher.is_shown(name):
                tree.set_tag_time(name, tag.updated)


def _is_due(tag: Tag, known: TagRow | None) -> bool:
    return known is None or known.due or known.updated != tag.updated


def states_of(
    work: Pass, rows: Mapping[TagName, TagRow], failed: Mapping[TagName, str], spec: UsersSpec
) -> dict[TagName, TagState]:
    """Return what each listed tag holds, of what was read of it.

    failed: tags that could not be read. An entry whose flist is not listed counts unless the
    master, asked for it, answered 404.
    """
    listing, unconfirmed = work.listing, work.unconfirmed
    shown: dict[TagName, dict[Name, Link]] = {name: {} for name in listing.tags}
    hindrances: dict[TagName, list[str]] = {name: [] for name in listing.tags}
    for name, link in work.plan.wanted.items():
        if name.tag:
            shown[name.its_tag][name] = link
    for link, fault in work.plan.dangling.items():
        if not link.name.tag:
            continue
        entry, end = f"{link.name.name} -> {link.target}", end_of(listing.links, link)
        # Such a tag is never shown: a node would take what it lacks for removed by the master.
        if end is not None and deselected(spec, end):
            text = f"{entry} is deselected by the operator's patterns"
            hindrances[link.name.its_tag].append(text)
        # Else the master has a dead link there, of which a node would get nothing (404), too.
        elif link.name in unconfirmed:
            hindrances[link.name.its_tag].append(f"{entry}: {fault}; {unconfirmed[link.name]}")
    for tag in listing.tags:
        if tag in failed:
            shown[tag], hindrances[tag] = {}, [failed[tag]]
        else:
            hindrances[tag] += [text.removeprefix(f"{tag}: ") for text in rows[tag].refused]
    return {tag: TagState(shown[tag], tuple(hindrances[tag])) for tag in listing.tags}
