"""The one thread that changes what is served: content, then what leads to it, then removals."""

import contextlib
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from sync.agent import durable
from sync.agent.flist.keys import KeyGroup
from sync.agent.hub.links import LinkPlan, TagState, end_of
from sync.agent.hub.listing import Link, Listing, Name, TagKey, tag_key, tag_name
from sync.agent.hub.prepare import Ready
from sync.agent.hub.state_db import FlistRecord, Record, Withheld
from sync.agent.hub.tree import Tree
from sync.contract.names import FLIST_SUFFIX, RefusedNameError, checked_flist, checked_repository
from sync.contract.pinned_chunks import PinnedChunks
from sync.contract.spec import ZdbEndpoint

_DIRTY: Final = "published_dirty"
_BACKEND: Final = "publish_backend"
_RULES: Final = "publishable_by"
_UNKNOWN_TIME: Final = -1


class Publisher:
    """Keeps tree, record and the table of named chunks in step; every step survives a kill.

    Keys are in `published` before a flist that names them is served, and leave it after the
    flist is gone. A kill between rename and record costs one more fetch, nothing else. `flists`,
    `links` and `tags` follow the disk: they tell what is served also where the record could not be
    written, until `adopt` has made it agree. A tag is one: it is shown, changed and taken away
    with all of its links in one step, and what leads to it follows.
    """

    def __init__(self, tree: Tree, record: Record, published: PinnedChunks) -> None:
        self._tree = tree
        self._record = record
        self._published = published
        self.flists: dict[Name, FlistRecord] = {}
        self.links: dict[Name, Link] = {}
        self.tags: dict[TagKey, dict[Name, Link]] = {}
        self.withheld: dict[Name, Withheld] = {}
        self._untidy: set[TagKey] = set()
        self.reload()
        self.follow(Listing(), LinkPlan(), {})
        self._released: set[bytes] = set()
        if record.number(_DIRTY):
            published.rebuild(record.all_keys())
            record.set_number(_DIRTY, 0)

    def reload(self) -> None:
        """Read the record anew (another process changed it)."""
        self._published.invalidate()
        self.flists = self._record.flists()
        self.links, self.tags = {}, {}
        for name, link in self._record.links().items():
            place = self.tags.setdefault(tag_key(name), {}) if name.tag else self.links
            place[name] = link
        self.withheld = self._record.withheld()

    def expect_backend(self, backend: ZdbEndpoint | None) -> None:
        """Have every flist published again when the backend that they shall name has changed."""
        text = "" if backend is None else backend.model_dump_json()
        if self._record.text(_BACKEND) != text:
            with self._record.transaction():
                self._record.refetch_all()
                self._record.set_text(_BACKEND, text)
            self.reload()

    def expect_rules(self, rules: str) -> None:
        """Have every flist that could not be published whole tried again under other rules."""
        if self._record.text(_RULES) != rules:
            with self._record.transaction():
                self._record.refetch_broken()
                self._record.set_text(_RULES, rules)
            self.reload()

    def adopt(self) -> None:
        """Make the record agree with the disk.

        What an earlier mirror left counts as changed, so that it is fetched anew or removed, and
        so does what a kill left without its record; what is gone from the disk is forgotten, so
        that it comes back. A link that no hub makes (an upstream sync creates whatever the master
        names) goes at once.
        """
        self._tree.mend_times()
        seen: set[Name] = set()
        self._untidy = set()
        for name, path in list(self._tree.walk()):
            if path.is_symlink():
                self._adopt_link(name)
            elif name.tag:
                self._untidy.add(tag_key(name))
            elif path.is_file() and name.name.endswith(FLIST_SUFFIX):
                self._adopt_flist(name)
            seen.add(name)
        for name, flist in list(self.flists.items()):
            if name not in seen or not self._tree.is_file(name):
                self._forget_flist(name)
            elif not self._tree.is_file(name, flist.published_bytes, flist.updated):
                self.update(_unknown(name))
        self._forget_missing_links()

    def _forget_missing_links(self) -> None:
        shown = self._tree.tags()
        for links in [self.links, *self.tags.values()]:
            for name in [name for name in links if self._tree.target(name) is None]:
                with self._record.transaction():
                    self._record.forget_link(name)
                del links[name]
        self.tags = {key: self.tags.get(key, {}) for key in shown}

    def _adopt_link(self, name: Name) -> None:
        target = self._tree.target(name)
        links = self.tags.setdefault(tag_key(name), {}) if name.tag else self.links
        if target is None:
            self._tree.remove_stray(name)
        elif name not in links or links[name].target != target:
            link = Link(name, target, _UNKNOWN_TIME)
            with self._record.transaction():
                self._record.put_link(link)
            links[name] = link

    def _adopt_flist(self, name: Name) -> None:
        with contextlib.suppress(RefusedNameError):
            checked_flist(name.name)
            checked_repository(name.repository)
            self._adopt_checked(name)

    def _adopt_checked(self, name: Name) -> None:
        if name not in self.flists:
            self.update(_unknown(name))

    def _forget_flist(self, name: Name) -> None:
        self.flists.pop(name, None)
        with self._record.transaction():
            self._release(name, ())
            self._record.forget_flist(name)

    def follow(self, listing: Listing, plan: LinkPlan, states: Mapping[TagKey, TagState]) -> None:
        """Work towards the links and tags of a new listing; none of them is confirmed yet."""
        self._listing = listing
        self._plan = plan
        self._states = states
        self._confirmed: set[Link] = set()
        self._droppable: set[Name] = set()
        self._by_target = plan.by_target()
        self._whole: set[TagKey] = set()
        self._unready = {key: [*state.links.values()] for key, state in states.items()}
        self._awaited = {
            key: [end_of(listing.links, link) for link in state.links.values()]
            for key, state in states.items()
            if not state.hindrances and not self.is_shown(key)
        }

    def make_repositories(self) -> None:
        """Make the folders of all listed repositories: the master has empty ones, too."""
        for repository in sorted(self._listing.repositories):
            self._tree.make_repository(repository)

    # Content

    def publish(self, batch: list[Ready]) -> None:
        """Serve flists, and every link that waited for just them."""
        self._published.add_groups({group for ready in batch for group in ready.groups})
        for repository in {ready.record.name.repository for ready in batch}:
            self._tree.prepare_folder(Name(repository, "any"))
        durable.publish_finished(self._following(batch))
        with self._record.transaction():
            for ready in batch:
                self._recorded(ready)
        for ready in batch:
            self.withheld.pop(ready.record.name, None)
        self.link_to(ready.record.name for ready in batch)

    def _following(self, batch: list[Ready]) -> Iterator[tuple[Path, Path]]:
        """Yield what is to be renamed, and to what; each is known to be served once it was."""
        for ready in batch:
            name = ready.record.name
            yield ready.path, self._tree.path(name)
            self.flists[name] = ready.record
            self.links.pop(name, None)

    def _recorded(self, ready: Ready) -> None:
        name = ready.record.name
        self._release(name, ready.groups)
        self._record.put_flist(ready.record)
        self._record.put_keys(name, ready.groups)
        self._record.forget_withheld(name)
        self._record.forget_link(name)

    def _release(self, name: Name, kept: Collection[KeyGroup]) -> None:
        """Note the keys that a flist of this name, if there was one, named beyond the kept ones."""
        released = set(self._record.keys(name)).difference(*(group.keys for group in kept))
        if released:
            self._released |= released
            self._record.set_number(_DIRTY, 1)

    def withhold(self, withheld: Withheld) -> None:
        """Note a flist that can not be published; the old one, if any, stays served."""
        with self._record.transaction():
            self._record.put_withheld(withheld)
        self.withheld[withheld.name] = withheld

    def forget_withheld(self, names: Iterable[Name]) -> None:
        """Drop what is withheld no more (gone from the master, or published)."""
        with self._record.transaction():
            for name in names:
                self._record.forget_withheld(name)
                self.withheld.pop(name, None)

    def update(self, flist: FlistRecord) -> None:
        """Change a flist's record; the file stays as it is."""
        with self._record.transaction():
            self._record.put_flist(flist)
        self.flists[flist.name] = flist

    # Links

    def confirm(self, links: Collection[Link]) -> None:
        """Let links be served that the master confirmed in this pass: no others are."""
        self._confirmed.update(links)
        for link in links:
            self.link_to(self._reached(link))

    def link_to(self, names: Iterable[Name]) -> None:
        """Publish what can be now that leads to `names`, and what leads to that, and so on."""
        pending = list(names)
        while pending:
            for link in self._by_target.get(pending.pop(), []):
                pending += self._reached(link)

    def _reached(self, link: Link) -> list[Name]:
        """Publish a link, or the tag that it is in; returns what may be led to since."""
        if not link.name.tag:
            return [link.name] if self._serve_link(link) else []
        key = tag_key(link.name)
        if key in self._whole or not self._serve_tag(key):
            return []
        return [tag_name(key)]

    def link_all(self) -> None:
        """Publish every link and tag that can be: for when the content of a pass is done."""
        self.link_to(list(self.flists))
        self.link_to([tag_name(key) for key in self._states if self._serve_tag(key)])

    def _serve_link(self, link: Link) -> bool:
        """Publish one link if it is not there already; False where that can not be."""
        if self.links.get(link.name) == link:
            return True
        if link not in self._confirmed or not self._is_visible(link.target):
            return False
        was_flist = link.name in self.flists
        try:
            self._tree.link(link)
        finally:
            if self._tree.target(link.name) == link.target:
                self.flists.pop(link.name, None)
                self.links[link.name] = link
        with self._record.transaction():
            self._record.put_link(link)
            if was_flist:
                self._release(link.name, ())
                self._record.forget_flist(link.name)
        return True

    def _is_visible(self, target: Name) -> bool:
        """Tell whether what a link leads to is served just as the master lists it.

        An older link or tag would do for a target as little as none: through it the new one would
        lead to what it never led to on the master, or back to itself; and a node that finds an
        older flist through a new link does not come back for the newer one.
        """
        if not target.name:
            return self._serve_tag(tag_key(target))
        wanted = self._plan.wanted.get(target)
        if wanted is not None:
            return self.links.get(target) == wanted and self._is_visible(wanted.target)
        return self.is_current(target)

    def is_current(self, name: Name) -> bool:
        """Tell whether a flist is served as the master lists it."""
        flist, entry = self.flists.get(name), self._listing.regulars.get(name)
        if flist is None or entry is None or flist.published_md5 is None:
            return False
        return (flist.updated, flist.size_text) == (entry.updated, entry.size_text)

    def waiting(self) -> list[Link]:
        """Return the wanted links, but for those in tags, that are not served as listed."""
        return [
            link
            for name, link in self._plan.wanted.items()
            if not name.tag and self.links.get(name) != link
        ]

    # Tags

    def is_shown(self, key: TagKey) -> bool:
        """Tell whether a tag is served just as the master has it, as far as that is known."""
        state = self._states.get(key)
        if state is None or state.hindrances or key in self._untidy:
            return False
        return self.tags.get(key) == state.links

    def is_whole(self, key: TagKey) -> bool:
        """Tell whether a tag was found in this pass to be served, and whole."""
        return key in self._whole

    def to_confirm(self) -> list[Link]:
        """Return the links of tags all of whose flists are here since the last call.

        Only those that are not served yet: they are to be confirmed before the tag is shown.
        """
        due: list[Link] = []
        for key, ends in list(self._awaited.items()):
            while ends and ends[-1] is not None and self.is_current(ends[-1]):
                ends.pop()
            if not ends:
                del self._awaited[key]
                served = self.tags.get(key, {})
                links = self._states[key].links.items()
                due += [link for name, link in links if served.get(name) != link]
        return due

    def _serve_tag(self, key: TagKey) -> bool:
        """Show a tag as the master has it where that can be; True where it is shown, and whole."""
        if key in self._whole:
            return True
        state = self._states.get(key)
        if state is None or state.hindrances or not self._has_all(key):
            return False
        if not self.is_shown(key):
            if not self._droppable.issuperset(self._drops(key)):
                return False
            self._show_tag(key, state.links)
        self._whole.add(key)
        return True

    def _has_all(self, key: TagKey) -> bool:
        """Tell whether every entry of a tag may be served: those looked at before still may."""
        unready = self._unready[key]
        while unready and self.is_ready(unready[-1]):
            unready.pop()
        return not unready

    def is_ready(self, link: Link) -> bool:
        """Tell whether a link of a tag is confirmed, and what it leads to is served."""
        served = self.tags.get(tag_key(link.name), {}).get(link.name)
        return (link in self._confirmed or served == link) and self._is_visible(link.target)

    def _show_tag(self, key: TagKey, links: dict[Name, Link]) -> None:
        try:
            self._tree.show_tag(key, links.values())
        finally:
            targets = {name: link.target for name, link in links.items()}
            if self._tree.tag_links(key) == targets:
                self.tags[key] = dict(links)
                self._untidy.discard(key)
        with self._record.transaction():
            self._record.put_tag_links(key, links.values())

    def _drops(self, key: TagKey) -> list[Name]:
        """Return the served entries of a tag that it has no more on the master."""
        return [name for name in self.tags.get(key, {}) if name not in self._states[key].links]

    def drops(self) -> list[Name]:
        """Return the entries that the new states of tags lack, of those that only wait for that."""
        keys = [key for key, state in self._states.items() if not state.hindrances]
        return [name for key in keys if self._has_all(key) for name in self._drops(key)]

    def drop(self, names: Iterable[Name]) -> None:
        """Let entries go from tags, and show the new states that waited for just that."""
        self._droppable.update(names)
        self.link_all()

    def served_links(self) -> dict[Name, Link]:
        """Return all links that are served, those in tags as well."""
        inside = (link for links in self.tags.values() for link in links.values())
        return self.links | {link.name: link for link in inside}

    # Removals

    def remove_links(self, names: Iterable[Name]) -> None:
        """Take links away in this order: each before what it leads to."""
        for name in names:
            self._remove(name, self.links)
            with self._record.transaction():
                self._record.forget_link(name)

    def remove_tags(self, keys: Iterable[TagKey]) -> None:
        """Take tags away, each with all of its links in one step."""
        for key in keys:
            try:
                self._tree.remove_tag(key)
            finally:
                if not self._tree.is_there(tag_name(key)):
                    self.tags.pop(key, None)
            with self._record.transaction():
                self._record.put_tag_links(key, ())

    def remove_flists(self, names: Iterable[Name]) -> None:
        """Take flists away."""
        for name in names:
            self._remove(name, self.flists)
            self._forget_flist(name)

    def _remove(self, name: Name, served: dict[Name, Link] | dict[Name, FlistRecord]) -> None:
        try:
            self._tree.remove(name)
        finally:
            if not self._tree.is_there(name):
                served.pop(name, None)

    def retain(self, name: Name) -> None:
        """Note since when a flist is kept although the master dropped it."""
        self.update(replace(self.flists[name], missing_since=time.time()))

    def led_to(self) -> set[Name]:
        """Return the names that some published link leads to."""
        return {link.target for link in self.served_links().values()}

    def release(self) -> int:
        """Let go of the chunks that only removed or replaced flists named; returns how many."""
        if not self._record.number(_DIRTY):
            return 0
        count = self._published.release(self._released, self._record.all_keys())
        self._record.set_number(_DIRTY, 0)
        self._released = set()
        return count

    def completed(self, started_at: float) -> None:
        """Tell the flists job that a pass was complete."""
        self._published.completed(started_at, time.time())


def _unknown(name: Name) -> FlistRecord:
    """Return the record of a file that is served and says nothing of where it came from."""
    return FlistRecord(name, None, None, None, None, None, None, None)
