"""The one thread that changes what is served: content, then what leads to it, then removals."""

import contextlib
import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Final
from urllib.parse import quote

from sync.agent import durable
from sync.agent.flist.database import ACCEPTED
from sync.agent.hub.links import LinkPlan, TagState
from sync.agent.hub.listing import Link, Listing, Name, TagName, Target
from sync.agent.hub.pins import Pins, ReadKeys
from sync.agent.hub.pipeline import Ready
from sync.agent.hub.state_db import FlistRow, HubStateDb, Withheld, as_listed
from sync.agent.hub.tree import Tree
from sync.contract.names import FLIST_SUFFIX, RefusedNameError, checked_flist, checked_repository
from sync.contract.pinned_chunks import PinnedChunks
from sync.contract.spec import UsersSpec

_BACKEND: Final = "publish_backend"
_RULES: Final = "publishable_by"
_UNKNOWN_TIME: Final = -1


class Publisher:
    """Keeps tree, state database and pinned chunks in step; every step survives a kill.

    Keys are pinned before a flist that names them is served, and released after the flist is gone.
    A kill between rename and row costs one more fetch, nothing else. `flists`, `links` and `tags`
    say what is served; after an error that ended a pass, as after a kill, `reload` and `adopt` make
    them and their rows agree with the disk. A tag is one: it is shown, changed and taken away with
    all of its links in one step, and what leads to it follows. `whole`: the tags of which that was
    done, or found to be so, in this pass.
    """

    def __init__(self, tree: Tree, state_db: HubStateDb, pinned: PinnedChunks) -> None:
        self._tree = tree
        self._db = state_db
        self.pins = Pins(state_db, pinned)
        self._untidy: set[TagName] = set()
        # Served flists that no row can be of: plain files in tags, and of names that are refused.
        self._strays: dict[Name, Path] = {}
        self.reload()
        self.follow(Listing(), LinkPlan(), {})

    def reload(self) -> None:
        """Read the rows anew (another process changed them); then `adopt` what is on the disk."""
        self.pins.distrust()
        # Never two of them: a large hub's rows take as much as all else.
        self.flists: dict[Name, FlistRow] = {}
        self.flists = self._db.flists()
        self.withheld = self._db.withheld()
        self._take_links(self._db.links(), ())

    def _take_links(self, links: Mapping[Name, Link], shown: Iterable[TagName]) -> None:
        """Take for served these links, and these tags though nothing be in them."""
        self.links: dict[Name, Link] = {}
        self.tags: dict[TagName, dict[Name, Link]] = {tag: {} for tag in shown}
        for name, link in links.items():
            beside = self.tags.setdefault(name.its_tag, {}) if name.tag else self.links
            beside[name] = link

    def expect(self, spec: UsersSpec) -> None:
        """Have flists published again under another backend, or tried again under other rules."""
        backend = "" if spec.publish_backend is None else spec.publish_backend.model_dump_json()
        # All that decides which flists can be published, of the spec and of us.
        sources = [one.model_dump_json() for one in (*spec.sources_zdb, *spec.allowed_backends)]
        limits = [str(spec.max_flist_bytes), str(spec.memory_limit_mb), str(ACCEPTED)]
        rules = "\n".join([spec.foreign_namespace, *limits, *sources])
        for key, text, refetch in (
            (_BACKEND, backend, self._db.refetch_all),
            (_RULES, rules, self._db.refetch_broken),
        ):
            if self._db.text(key) != text:
                with self._db.transaction():
                    refetch()
                    self._db.set_text(key, text)
                self.reload()

    # What is on the disk

    def adopt(self) -> None:
        """Make the rows agree with the disk."""
        self._tree.make_readable()
        links = {name: path for name, path in self._tree.scan() if path.is_symlink()}
        self._adopt_links(links)
        self._untidy, self._strays = set(), {}
        self._adopt_flists(set(self._flists_on_disk(links.keys())))
        self.pins.adopt(self._strays.keys())

    def _flists_on_disk(self, links: Collection[Name]) -> Iterator[Name]:
        for name, path in self._tree.scan():
            if name in links:
                continue
            if name.tag:
                self._untidy.add(name.its_tag)
            if _is_flist(name, path):
                # The name that is here already: a large hub has hundreds of thousands.
                row = self.flists.get(name)
                yield name if row is None else row.name
            elif path.is_file() and name.name.endswith(FLIST_SUFFIX):
                place = os.fsencode(path.relative_to(self._tree.users))
                self._strays[Name("", quote(place))] = path

    def _adopt_links(self, found: Mapping[Name, Path]) -> None:
        known, links = self.served_links(), dict[Name, Link]()
        for name, path in found.items():
            target = self._tree.target(name)
            if target is None:
                # No hub makes such a link, but upstream's hub-clone.py creates whatever the master
                # names (local_sync_symlink), and a hub follows it to any file of its machine.
                durable.remove(path)
            elif name in known and known[name].target == target:
                links[name] = known[name]
            else:
                links[name] = Link(name, target, _UNKNOWN_TIME)
        with self._db.transaction():
            for name in known.keys() - links.keys():
                self._db.delete_link(name)
            for link in set(links.values()).difference(known.values()):
                self._db.put_link(link)
        self._take_links(links, self._tree.tags())

    def _adopt_flists(self, found: set[Name]) -> None:
        # What is gone from the disk loses its row, so that it comes back.
        for name in self.flists.keys() - found:
            self._delete_flist_row(name)
        for name in found:
            row = self.flists.get(name)
            # Left by an earlier mirror, or by a kill before its row was written: it counts as
            # changed, so that it is fetched anew or removed.
            if row is None or not self._tree.is_file(name, row.published_bytes, row.updated):
                with self._db.transaction():
                    self._forget_flist(name)
                self.update(FlistRow(name))

    def _delete_flist_row(self, name: Name) -> None:
        with self._db.transaction():
            self._forget_flist(name)

    def _forget_flist(self, name: Name) -> None:
        self.flists.pop(name, None)
        self.pins.drop(name)
        self._db.delete_flist(name)

    def read_keys(self, read: ReadKeys) -> None:
        """Read the chunk keys of served flists that are not known, from the files themselves."""
        for name in [name for name, path in self._strays.items() if not path.exists()]:
            self.pins.drop(name)  # its tag is shown anew
            del self._strays[name]
        for keys in self.pins.read(
            lambda name: self._strays.get(name) or self._tree.path(name), read
        ):
            flist = self.flists.get(keys.name)
            with self._db.transaction():
                if flist is not None:
                    # By these `adopt` tells whether it is the same file still.
                    size, seconds = keys.size_bytes, keys.modified_seconds
                    flist = replace(flist, published_bytes=size, updated=seconds)
                    self._db.put_flist(flist)
                    self.flists[keys.name] = flist
                self.pins.put(keys.name, keys.groups)

    # What the master has

    def follow(self, listing: Listing, plan: LinkPlan, states: Mapping[TagName, TagState]) -> None:
        """Work towards the links and tags of a new listing; none of them is confirmed yet."""
        self._listing = listing
        self._plan = plan
        self._states = states
        self._confirmed: set[Link] = set()
        self._droppable: set[Name] = set()
        self._by_target: defaultdict[Target, list[Link]] = defaultdict(list)
        for link in plan.wanted.values():
            self._by_target[link.target].append(link)
        self.whole: set[TagName] = set()
        self._unready = {tag: [*state.links.values()] for tag, state in states.items()}

    # Content

    def publish(self, batch: list[Ready]) -> None:
        """Serve flists, and every link that waited for just them."""
        batch = [*map(self._as_it_is_listed, batch)]
        # Before the flists: from then on the flists job deletes none of their chunks.
        self.pins.pin({group for ready in batch for group in ready.groups})
        repositories = sorted({ready.row.name.repository for ready in batch})
        folders = [self._tree.make_repository(repository) for repository in repositories]
        for ready in batch:
            name = ready.row.name
            durable.replace(ready.path, self._tree.path(name))
            self.flists[name] = ready.row
            self.links.pop(name, None)
        for folder in folders:
            durable.sync(folder)
        with self._db.transaction():
            for ready in batch:
                self._put_rows(ready)
        for ready in batch:
            self.withheld.pop(ready.row.name, None)
        self.link_to(ready.row.name for ready in batch)

    def _as_it_is_listed(self, ready: Ready) -> Ready:
        """Return a flist to publish with the time and size of the listing, where it came twice.

        The same file again: /light and the listing disagree on it for good, and each pass would
        fetch it and call it missing. What a listing says is only compared with the next one's.
        """
        row = ready.row
        known, entry = self.flists.get(row.name), self._listing.regulars.get(row.name)
        if known is None or entry is None or known.md5 != row.md5 or as_listed(row, entry):
            return ready
        # By it `adopt` tells whether it is the same file still.
        durable.set_time(ready.path, entry.updated)
        listed = replace(row, updated=entry.updated, size_text=entry.size_text)
        return replace(ready, row=listed)

    def _put_rows(self, ready: Ready) -> None:
        name = ready.row.name
        self._db.put_flist(ready.row)
        self.pins.put(name, ready.groups)
        self._db.delete_withheld(name)
        self._db.delete_link(name)

    def withhold(self, withheld: Withheld) -> None:
        """Note a flist that cannot be published; the old one, if any, stays served."""
        with self._db.transaction():
            self._db.put_withheld(withheld)
        kept = frozenset(islice(withheld.missing, 1))
        self.withheld[withheld.name] = replace(withheld, missing=kept)

    def drop_withheld(self, names: Collection[Name]) -> None:
        """Drop what is withheld no more, as the master has it no more."""
        if names:
            with self._db.transaction():
                for name in names:
                    self._db.delete_withheld(name)
                    self.withheld.pop(name, None)

    def update(self, flist: FlistRow) -> None:
        """Change a flist's row; the file stays as it is."""
        with self._db.transaction():
            self._db.put_flist(flist)
        self.flists[flist.name] = flist

    # Links

    def confirm(self, links: Collection[Link]) -> None:
        """Let links be served that the master confirmed in this pass: no others are."""
        if links:
            self._confirmed.update(links)
            self.link_all()

    def link_to(self, names: Iterable[Target]) -> None:
        """Publish what can be now that leads to `names`, and what leads to that, and so on."""
        pending = list(names)
        while pending:
            for link in self._by_target[pending.pop()]:
                if not link.name.tag:
                    pending += [link.name] if self._serve_link(link) else []
                elif link.name.its_tag not in self.whole and self._serve_tag(link.name.its_tag):
                    pending.append(link.name.its_tag)

    def link_all(self) -> None:
        """Publish every link and tag that can be."""
        self.link_to(list(self.flists))
        self.link_to([tag for tag in self._states if self._serve_tag(tag)])

    def _serve_link(self, link: Link) -> bool:
        """Publish one link if it is not there already; False where that cannot be."""
        if self.links.get(link.name) == link:
            return True
        if link not in self._confirmed or not self._is_visible(link.target):
            return False
        self._tree.link(link)
        self.links[link.name] = link
        with self._db.transaction():
            self._db.put_link(link)
            if link.name in self.flists:
                self._forget_flist(link.name)
        return True

    def _is_visible(self, target: Target) -> bool:
        """Return whether what a link leads to is served just as the master lists it."""
        # An older link or tag would do as little as none: through it the new one would lead to
        # what it never led to on the master, or back to itself. And a node that finds an older
        # flist through a new link does not come back for the newer one: it compares the targets
        # of taglinks, and nothing below them (zosbase: pkg/upgrade/upgrade.go, update).
        if isinstance(target, TagName):
            return self._serve_tag(target)
        wanted = self._plan.wanted.get(target)
        if wanted is not None:
            return self.links.get(target) == wanted and self._is_visible(wanted.target)
        return self.is_current(target)

    def is_current(self, name: Name) -> bool:
        """Return whether a flist is served as the master lists it."""
        flist = self.flists.get(name)
        known = flist is not None and flist.published_md5 is not None
        return known and as_listed(flist, self._listing.regulars.get(name))

    def waiting(self) -> list[Link]:
        """Return the wanted links, but for those in tags, that are not served as listed."""
        return [
            link
            for name, link in self._plan.wanted.items()
            if not name.tag and self.links.get(name) != link
        ]

    # Tags

    def is_shown(self, tag: TagName) -> bool:
        """Return whether a tag is served just as the master has it, as far as that is known."""
        state = self._states.get(tag)
        if state is None or state.hindrances or tag in self._untidy:
            return False
        return self.tags.get(tag) == state.links

    def _serve_tag(self, tag: TagName) -> bool:
        """Show a tag as the master has it where that can be; True where it is shown, and whole."""
        # Never in part: a node installs each link that it finds in a tag and reports success
        # (zosbase: pkg/upgrade/upgrade.go, updateTo), so what came later would be missing there.
        if tag in self.whole:
            return True
        state = self._states.get(tag)
        if state is None or state.hindrances or not self._has_all(tag):
            return False
        if not self.is_shown(tag):
            if not self._droppable.issuperset(self._drops(tag)):
                return False
            self._tree.show_tag(tag, state.links.values())
            self.tags[tag] = dict(state.links)
            self._untidy.discard(tag)
            with self._db.transaction():
                self._db.put_tag_links(tag, state.links.values())
        self.whole.add(tag)
        return True

    def _has_all(self, tag: TagName) -> bool:
        """Return whether every entry of a tag may be served: those looked at before still may."""
        unready = self._unready[tag]
        while unready and self.is_ready(unready[-1]):
            unready.pop()
        return not unready

    def is_ready(self, link: Link) -> bool:
        """Return whether a link of a tag is confirmed, and what it leads to is served."""
        served = self.tags.get(link.name.its_tag, {}).get(link.name)
        return (link in self._confirmed or served == link) and self._is_visible(link.target)

    def _drops(self, tag: TagName) -> list[Name]:
        """Return the served entries of a tag that it has no more on the master."""
        return [name for name in self.tags.get(tag, {}) if name not in self._states[tag].links]

    def drops(self) -> list[Name]:
        """Return the entries that the new states of tags lack, of those that only wait for that."""
        tags = [tag for tag, state in self._states.items() if not state.hindrances]
        return [name for tag in tags if self._has_all(tag) for name in self._drops(tag)]

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
            self._tree.remove(name)
            self.links.pop(name, None)
            with self._db.transaction():
                self._db.delete_link(name)

    def remove_tags(self, tags: Iterable[TagName]) -> None:
        """Take tags away, each with all of its links in one step."""
        for tag in tags:
            self._tree.remove(tag)
            self.tags.pop(tag, None)
            with self._db.transaction():
                self._db.put_tag_links(tag, ())

    def remove_flist(self, name: Name) -> None:
        """Take a flist away."""
        self._tree.remove(name)
        self._delete_flist_row(name)

    def remove_unlisted(self) -> None:
        """Forget tags that are not listed, and remove folders that hold nothing and are not."""
        for tag in self._db.tags().keys() - self._listing.tags.keys():
            with self._db.transaction():
                self._db.delete_tag(tag)
        self._tree.remove_folders(self._listing.repositories)


def _is_flist(name: Name, path: Path) -> bool:
    """Return whether a file, which is no link, may be served as a flist."""
    with contextlib.suppress(RefusedNameError):
        checked_repository(name.repository)
        return not name.tag and bool(checked_flist(name.name)) and path.is_file()
    return False
