"""Which served names may go: those that the master dropped, and those that the operator did."""

from dataclasses import replace
from typing import Final

from sync.agent.deletion_guard import Absences, Vanished, guard
from sync.agent.hub.links import chain_of, needed, outermost_first
from sync.agent.hub.listing import Name, TagName, Target, deselected, page_path
from sync.agent.hub.progress import Pass
from sync.agent.hub.publisher import Publisher
from sync.agent.hub.state_db import FlistRow, HubStateDb
from sync.agent.master.client import Master
from sync.contract.spec import UsersSpec

_CONFIRMED: Final = "removal_confirmation"


class Removals:
    """Asks for what a listing lacks before a pass acts on it, and removes it at the pass's end."""

    def __init__(
        self, spec: UsersSpec, master: Master, state_db: HubStateDb, publisher: Publisher
    ) -> None:
        self._spec = spec
        self._db = state_db
        self._publisher = publisher
        self._absences: Absences[Target] = Absences(master, spec.http.connections, page_path)
        # Names for which the master answered 404 in this pass.
        self._missing: set[Name] = set()

    def ask(self, work: Pass) -> None:
        """Find those names, unlisted or leading nowhere there, that the master may have still."""
        work.deselected = self._deselected_tags(work)
        served = [*self._publisher.flists, *self._publisher.served_links()]
        # A hub answers 404 for a link that leads nowhere, too (send_from_directory).
        pages: dict[Name, Target] = {name: name for name in served if self._is_unlisted(work, name)}
        for link in work.plan.dangling:
            if isinstance(link.target, TagName) and link.name in pages:
                # A taglink's own page is there as long as the link is (file_raw_exists of
                # hub/flist.py), wherever it leads.
                pages[link.name] = link.target
            elif link.name.tag and not self._chain_is_deselected(work, link.target):
                pages[link.name] = link.name
        pages = {name: page for name, page in pages.items() if not self._is_settled(work, name)}
        doubts = self._absences.unconfirmed(set(pages.values()))
        work.unconfirmed |= {name: doubts[page] for name, page in pages.items() if page in doubts}
        self._missing = pages.keys() - work.unconfirmed.keys()

    def remove(self, work: Pass) -> None:
        """Remove what the master dropped (guarded, retained) or the operator deselected.

        Raises JobPaused when too much vanished.
        """
        publisher = self._publisher
        work.deselected = self._deselected_tags(work)
        self._note_retained(work)
        dropped = publisher.drops()
        # A tag that lost an entry is a change like others, whatever the clocks say.
        links, flists, tags = self._going(work) if not work.clocks.fault else ([], [], [])
        inside = [name for tag in tags for name in publisher.tags[tag]]
        expired = {name for name in flists if self._is_expired(work, name)}
        # Before anything goes, and with all that seems gone: whatever the master answered.
        self._guard(work, [*links, *flists, *inside, *dropped], len(expired))
        if dropped:
            publisher.drop(name for name in dropped if self._may_go(work, name))
        self._remove_links(
            work,
            [name for name in links if self._may_go(work, name)],
            [tag for tag in tags if all(self._may_go(work, one) for one in publisher.tags[tag])],
        )
        self._remove_flists(work, [name for name in flists if self._may_go(work, name)], expired)
        if not work.clocks.fault:
            publisher.remove_unlisted()
        publisher.pins.settle()

    def _going(self, work: Pass) -> tuple[list[Name], list[Name], list[TagName]]:
        """Return the served links, flists and tags that seem to be gone, whatever for."""
        publisher, listing = self._publisher, work.listing
        return (
            [name for name in publisher.links if self._is_gone(work, name)],
            [name for name in publisher.flists if self._is_gone(work, name)],
            [tag for tag in publisher.tags if tag not in listing.tags or tag in work.deselected],
        )

    def _remove_flists(self, work: Pass, names: list[Name], expired: set[Name]) -> None:
        """Remove flists, or note since when they are retained."""
        publisher = self._publisher
        # What a served link leads to stays, whatever became of it on the master.
        targets = {link.target for link in publisher.served_links().values()}
        for name in names:
            flist = publisher.flists[name]
            if name not in expired and self._is_retained(flist):
                if flist.missing_since is None:
                    publisher.update(replace(flist, missing_since=work.clocks.started(None)))
            elif name in targets:
                work.kept += 1
            else:
                publisher.remove_flist(name)

    def _remove_links(self, work: Pass, names: list[Name], tags: list[TagName]) -> None:
        """Remove links and tags but for those that others lead through: the outermost first."""
        publisher = self._publisher
        served = publisher.served_links()
        inside = [name for tag in tags for name in publisher.tags[tag]]
        # A link that waits for its new target still leads through what the master dropped.
        kept = needed(served, [*names, *inside], work.listing.tags.keys() - work.deselected)
        tags_kept = {name.its_tag if isinstance(name, Name) else name for name in kept}
        going = outermost_first(served, [name for name in names if name not in kept])
        taglinks = [name for name in going if isinstance(served[name].target, TagName)]
        publisher.remove_links(taglinks)
        publisher.remove_tags(tag for tag in tags if tag not in tags_kept)
        publisher.remove_links(name for name in going if name not in taglinks)
        work.kept = len(kept)

    def _is_unlisted(self, work: Pass, name: Name) -> bool:
        """Return whether the master has a served name no more, or it leads nowhere there."""
        # One under which it has something else by now stays until that can be served.
        return name not in work.listing.regulars and name not in work.plan.wanted

    def _is_gone(self, work: Pass, name: Name) -> bool:
        return self._is_unlisted(work, name) or self._leads_to_deselected_tag(work, name)

    def _may_go(self, work: Pass, name: Name) -> bool:
        """Return whether the master, asked for a name, has it no more, or need not be asked."""
        # What was not asked for in this pass waits for the next one.
        return name in self._missing or self._is_settled(work, name)

    def _is_settled(self, work: Pass, name: Name) -> bool:
        """Return whether the master need not be asked: the operator decided, or it answered."""
        flist = self._publisher.flists.get(name)
        retained = flist is not None and flist.missing_since is not None
        return retained or self._is_deselected(work, name)

    def _guard(self, work: Pass, gone: list[Name], outlived: int) -> None:
        dropped = [name for name in gone if not self._is_settled(work, name)]
        known = len(self._publisher.flists) + len(self._publisher.served_links())
        listed = len(work.listing.regulars) + len(work.listing.links) + len(work.listing.tags)
        vanished = Vanished(len(dropped), known, listed, outlived=outlived)
        used = int(self._db.number(_CONFIRMED))
        if guard(self._spec, vanished, used, self._spec.schedule.interval_seconds):
            self._db.set_number(_CONFIRMED, self._spec.removal_confirmation)

    # Names that the operator deselected

    def _deselected_tags(self, work: Pass) -> set[TagName]:
        """Return the served tags that the operator deselected, or something in them."""
        return {
            tag
            for tag, links in self._publisher.tags.items()
            if deselected(self._spec, tag)
            or any(
                link.target not in work.listing.regulars
                and self._chain_is_deselected(work, link.target)
                for link in links.values()
            )
        }

    def _is_deselected(self, work: Pass, name: Name) -> bool:
        """Return whether the operator deselected a served name, or what its links lead to."""
        if name.tag:
            return name.its_tag in work.deselected
        return self._leads_to_deselected_tag(work, name) or self._chain_is_deselected(work, name)

    def _leads_to_deselected_tag(self, work: Pass, name: Name) -> bool:
        link = self._publisher.links.get(name)
        return link is not None and link.target in work.deselected

    def _chain_is_deselected(self, work: Pass, name: Target) -> bool:
        """Return whether something that a name leads to, here or on the master, is deselected."""
        # Such names go unasked and unguarded: the master has them, and the operator decided.
        chains = [chain_of(links, name) for links in (self._publisher.links, work.listing.links)]
        return any(deselected(self._spec, one) for chain in chains for one in chain)

    # Retention

    def _is_retained(self, flist: FlistRow) -> bool:
        """Return whether a flist stays, or did, for some days after the master dropped it."""
        retained = bool(self._spec.retention_days) or flist.missing_since is not None
        return retained and not deselected(self._spec, flist.name)

    def _is_expired(self, work: Pass, name: Name) -> bool:
        """Return whether a flist's retention ended."""
        since = self._publisher.flists[name].missing_since
        if since is None or deselected(self._spec, name):
            return False
        return work.clocks.is_older(since, self._spec.retention_days)

    def _note_retained(self, work: Pass) -> None:
        """Have those retained no more that are listed again, and none by a time to come."""
        retained = [one for one in self._publisher.flists.values() if one.missing_since is not None]
        for flist in retained:
            listed = flist.name in work.listing.regulars
            since = None if listed else work.clocks.started(flist.missing_since)
            if since != flist.missing_since:
                self._publisher.update(replace(flist, missing_since=since))
