"""The one thread that changes what is served: content, then what leads to it, then removals."""

import contextlib
import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from sync.agent import durable
from sync.agent.flist_archive.keys import KeyGroup
from sync.agent.users.fetching import Ready
from sync.agent.users.links import LinkPlan
from sync.agent.users.listing import Link, Name
from sync.agent.users.published import Published
from sync.agent.users.record import FlistRecord, Record, Withheld
from sync.agent.users.tree import Tree
from sync.contract.names import FLIST_SUFFIX, RefusedNameError, checked, checked_flist
from sync.contract.spec import ZdbEndpoint

_DIRTY: Final = "published_dirty"
_BACKEND: Final = "publish_backend"
_RULES: Final = "publishable_by"
_UNKNOWN_TIME: Final = -1


class Publisher:
    """Keeps tree, record and the table of named chunks in step; every step survives a kill.

    Keys are in `published` before a flist that names them is served, and leave it after the
    flist is gone. A kill between rename and record costs one more fetch, nothing else. `flists`
    and `links` follow the disk: they tell what is served also where the record could not be
    written, until `adopt` has made it agree.
    """

    def __init__(self, tree: Tree, record: Record, published: Published) -> None:
        self._tree = tree
        self._record = record
        self._published = published
        self.flists: dict[Name, FlistRecord] = {}
        self.links: dict[Name, Link] = {}
        self.withheld: dict[Name, Withheld] = {}
        self.reload()
        self._plan = LinkPlan()
        self._by_target: dict[Name, list[Link]] = {}
        self._inside: dict[Name, list[Link]] = {}
        self._asked: set[Link] = set()
        self._confirmed: set[Link] = set()
        self._content_done = False
        self._released: set[bytes] = set()
        if record.number(_DIRTY):
            published.rebuild(record.all_keys())
            record.set_number(_DIRTY, 0)

    def reload(self) -> None:
        """Read the record anew (another process changed it)."""
        self._published.forget()
        self.flists = self._record.flists()
        self.links = self._record.links()
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
        seen: set[Name] = set()
        for name, path in list(self._tree.walk()):
            if path.is_symlink():
                self._adopt_link(name)
            elif path.is_file() and not name.tag and name.name.endswith(FLIST_SUFFIX):
                self._adopt_flist(name)
            seen.add(name)
        for name, flist in list(self.flists.items()):
            if name not in seen or not self._tree.is_file(name):
                self._forget_flist(name)
            elif not self._tree.is_file(name, flist.published_bytes, flist.updated):
                self.update(_unknown(name))
        for name in [name for name in self.links if self._tree.target(name) is None]:
            with self._record.transaction():
                self._record.forget_link(name)
            del self.links[name]

    def _adopt_link(self, name: Name) -> None:
        target = self._tree.target(name)
        if target is None:
            self._tree.remove_stray(name)
        elif name not in self.links or self.links[name].target != target:
            link = Link(name, target, _UNKNOWN_TIME)
            with self._record.transaction():
                self._record.put_link(link)
            self.links[name] = link

    def _adopt_flist(self, name: Name) -> None:
        with contextlib.suppress(RefusedNameError):
            checked_flist(name.name)
            checked(name.repository, "repository")
            self._adopt_checked(name)

    def _adopt_checked(self, name: Name) -> None:
        if name not in self.flists:
            self.update(_unknown(name))

    def _forget_flist(self, name: Name) -> None:
        self.flists.pop(name, None)
        with self._record.transaction():
            self._release(name, ())
            self._record.forget_flist(name)

    def follow(self, plan: LinkPlan) -> None:
        """Work towards the links of a new listing; none of them is confirmed yet."""
        self._plan = plan
        self._asked = set()
        self._confirmed = set()
        self._by_target = plan.by_target()
        self._inside = plan.by_tag()
        self._content_done = False

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

    def asked(self, links: Iterable[Link]) -> None:
        """Note which links the master was asked about in this pass."""
        self._asked.update(links)

    def confirm(self, links: Collection[Link]) -> None:
        """Let links be served that the master confirmed in this pass: no others are."""
        self._confirmed.update(links)
        for link in links:
            self.link_to(self._reached(link))

    def link_to(self, names: Iterable[Name]) -> None:
        """Publish the confirmed links to `names`, and those to these links, and so on."""
        pending = list(names)
        while pending:
            for link in self._by_target.get(pending.pop(), []):
                pending += self._reached(link)

    def _reached(self, link: Link) -> list[Name]:
        """Publish a link where that can be; returns what further links may lead to now."""
        reached = [link.name] if self._serve_link(link) else []
        if link.name.tag:
            reached.append(Name(link.name.repository, "", link.name.tag))
        return reached

    def link_all(self, tags: Iterable[tuple[str, str]]) -> None:
        """Publish every confirmed link whose target is served; tags: those of the listing.

        For when the content of a pass is done: a tag then counts as whole without those links
        whose flists are withheld or could not be fetched, but not without one that is doubted.
        """
        self._content_done = True
        for repository, tag in tags:
            self._tree.make_tag(repository, tag)
        self.link_to(list(self.flists))
        self.link_to(Name(repository, "", tag) for repository, tag in tags)

    def _serve_link(self, link: Link) -> bool:
        """Publish one link if it is not there already; False where that can not be."""
        if self.links.get(link.name) == link:
            return True
        if link not in self._confirmed or not self._visible(link.target):
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

    def _visible(self, target: Name) -> bool:
        """Tell whether what a link leads to is served as the master has it, or is older content.

        An older link would do for a target as little as none: through it the new one would lead
        to what it never led to on the master, or back to itself.
        """
        if not target.name:
            return self._tree.exists(target) and self._is_whole(target)
        wanted = self._plan.wanted.get(target)
        if wanted is not None:
            return self.links.get(target) == wanted
        flist = self.flists.get(target)
        return flist is not None and flist.published_md5 is not None

    def _is_whole(self, tag: Name) -> bool:
        missing = [link for link in self._inside.get(tag, []) if self.links.get(link.name) != link]
        if self._content_done:
            doubted = self._asked.difference(self._confirmed)
            return doubted.isdisjoint(missing)
        return not missing

    def waiting(self) -> list[Link]:
        """Return the wanted links that are not served as the master has them."""
        return [link for link in self._plan.wanted.values() if self.links.get(link.name) != link]

    # Removals

    def remove_links(self, names: Iterable[Name]) -> None:
        """Take links away in this order: each before what it leads to."""
        for name in names:
            self._remove(name, self.links)
            with self._record.transaction():
                self._record.forget_link(name)

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
        return {link.target for link in self.links.values()}

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
