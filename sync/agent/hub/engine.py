"""One pass of the users job: list, decide, fetch, publish, link, remove."""

import logging
import sqlite3
import time
from collections.abc import Container, Iterable
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import Final, Self

from sync.agent.deletion_guard import Absences, Vanished, guard
from sync.agent.flist.reader_pool import ReaderPool
from sync.agent.hub import links, pending, plan
from sync.agent.hub.chunk_store import ChunkStore
from sync.agent.hub.confirming import Confirming
from sync.agent.hub.listing import (
    Link,
    Listing,
    Name,
    Regular,
    Source,
    TagKey,
    page_path,
    tag_key,
    tag_name,
)
from sync.agent.hub.pipeline import Failure, Outcome, Pipeline
from sync.agent.hub.prepare import Preparer, Ready
from sync.agent.hub.progress import Pass, Progress
from sync.agent.hub.publisher import Publisher
from sync.agent.hub.state_db import DATABASE as RECORD_DATABASE
from sync.agent.hub.state_db import GENERATION, Record, Withheld
from sync.agent.hub.tags import TagReader
from sync.agent.hub.tree import Tree
from sync.agent.job import Control, Directories, PassIncompleteError, one_at_a_time
from sync.agent.master.client import HttpError, HttpStoppedError, Master
from sync.agent.master.identity import Evidence, follow
from sync.agent.rate_limit import bandwidth
from sync.agent.status_writer import StatusWriter
from sync.contract.pinned_chunks import PinnedChunks
from sync.contract.spec import UsersSpec

_LOG = logging.getLogger(__name__)
_DAY_SECONDS: Final = 86_400.0
_CONFIRMED: Final = "removal_confirmation"
_DANGLING: Final = "dangling"
_UNKNOWN_GENERATION: Final = -1.0


class UsersEngine:
    """The users job of one spec; `one_pass` is called again and again by one thread."""

    def __init__(
        self,
        spec: UsersSpec,
        directories: Directories,
        status: StatusWriter,
        control: Control,
    ) -> None:
        self._spec = spec
        self._directories = directories
        self._status = status
        self._control = control
        self._stack = ExitStack()
        with one_at_a_time(directories.state):
            self._open(spec, directories, control)
        self._generation = _UNKNOWN_GENERATION
        self._conditions: dict[str, str] = {}
        self._listing = Listing()
        self._waiting: list[str] = []
        self._listed_by = ""
        self._refused_logged: set[str] = set()

    def _open(self, spec: UsersSpec, directories: Directories, control: Control) -> None:
        """Open record, folder and connections; what an earlier process left in staging goes."""
        self._tree = Tree(directories.public)
        self._record = self._stack.enter_context(Record(directories.state / RECORD_DATABASE))
        published = self._stack.enter_context(PinnedChunks(directories.state))
        shared = bandwidth(spec.bandwidth_bytes_per_second)
        report = self._status.sources
        self._master = Master(
            spec.sources, spec.http, control, bandwidth=shared, backoff=spec.backoff, report=report
        )
        self._stack.callback(self._master.close)
        password = directories.zdb_admin_password()
        self._chunks = ChunkStore(spec, password, control, shared, report)
        self._stack.callback(self._chunks.close)
        self._readers = self._stack.enter_context(ReaderPool())
        self._absences = Absences(self._master, spec.http.connections, page_path)
        self._preparer = Preparer(spec, self._master, self._tree, self._chunks, self._readers)
        self._publisher = Publisher(self._tree, self._record, published)
        self._publisher.expect_backend(spec.publish_backend)
        self._publisher.expect_rules(plan.publishable_by(spec))
        self._source = Source(
            self._master,
            lambda repository: plan.wanted_repository(spec, repository),
            lambda name: plan.wanted_name(spec, name),
        )
        self._tags = TagReader(
            self._source,
            self._record,
            spec.http.connections,
            lambda name: plan.deselected(spec, name),
        )
        self._progress = Progress(self._status, self._master, self._preparer, self._publisher)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def requests_sent(self) -> int:
        """How many HTTP requests the master was asked so far."""
        return self._master.requests_sent

    def one_pass(self) -> None:
        """Bring the hub's folder up to the master's state.

        Raises HttpError when the master can not be listed, ZdbError when a 0-db fails,
        PassIncompleteError when some flist could not be had, JobPaused when too much vanished.
        """
        with one_at_a_time(self._directories.state):
            try:
                self._one_pass()
            except (OSError, sqlite3.Error):
                # The record may lack what was done on the disk just before.
                self._generation = _UNKNOWN_GENERATION
                raise

    def _one_pass(self) -> None:
        self._master.begin_pass()
        self._chunks.begin_pass()
        if self._generation != self._record.number(GENERATION):
            self._publisher.reload()
            self._publisher.adopt()
            self._generation = self._record.number(GENERATION)
        if not self._publisher.flists:
            self._readers.start()
        listing = self._list()
        self._follow(listing)
        failed = self._tags.read(listing)
        tags = self._record.tags()
        refused = [text for key in tags.keys() & listing.tags.keys() for text in tags[key].refused]
        plan = links.plan(listing, self._record.tag_links().values())
        states = self._tags.states(listing, plan, failed)
        failures = {f"tag {'/'.join(key)}": failed[key] for key in failed}
        work = Pass(
            listing, plan, states, [*listing.refused, *refused], failures, waiting=self._waiting
        )
        self._log_refused(work.refused)
        self._publisher.follow(listing, plan, states)
        self._publisher.make_repositories()
        with closing(Confirming(self._master, self._spec.http.connections, listing)) as confirming:
            self._bring_content(work, confirming)
            self._confirm(work, confirming, wait=True)
        self._publisher.link_all()
        self._set_tag_times(work)
        self._waiting = work.waiting = pending.told(work, self._publisher)
        self._progress.report(work)
        self._remove(work)
        self._tags.settle({tag_key(name) for name in [*work.unconfirmed, *work.doubted]})
        self._waiting = work.waiting = pending.told(work, self._publisher)
        self._finish(work)

    def _log_refused(self, refused: list[str]) -> None:
        """Log every refusal once: the record has room for the first hundred only."""
        for text in refused:
            if text not in self._refused_logged:
                _LOG.warning("%s", text)
        self._refused_logged = set(refused)

    # Listing

    def _list(self) -> Listing:
        """Fetch the listing, conditionally once it was read twice alike.

        It has no digest either: what damaged it on its way must not stay until it changes.
        """
        if self._listed_by != self._master.source:
            # What one name says of its page's age means nothing to another.
            self._conditions = {}
            self._listed_by = self._master.source
        page, listing = self._source.fetch(self._conditions)
        if listing is not None:
            alike = listing == self._listing
            self._listing = listing
            self._conditions = {}
            if alike and page.etag:
                self._conditions = {"If-None-Match": page.etag}
            elif alike and page.last_modified:
                self._conditions = {"If-Modified-Since": page.last_modified}
        return self._listing

    def _follow(self, listing: Listing) -> None:
        """Make sure that the name in use is the master's. Raises JobFailed."""
        source = self._master.source
        mirrored = {
            name: None if known.updated is None else float(known.updated)
            for name, known in self._publisher.flists.items()
            if known.md5 is not None
            and known.missing_since is None
            and not plan.deselected(self._spec, name)
        }
        listed = {name: float(entry.updated) for name, entry in listing.regulars.items()}
        evidence = Evidence(mirrored, listed)
        identity = follow(self._spec, self._directories.state, source, evidence)
        self._status.seen_master(source, identity)

    def _set_tag_times(self, work: Pass) -> None:
        """Give tags the master's time, by which a mirror of this mirror sees their changes.

        A tag that lacks a link, or may, keeps the time of its last change here: else nobody would
        see that the link came later. So does one whose old state is served.
        """
        partial = {tag_key(name) for name in work.plan.dangling}
        for key, tag in self._record.tags().items():
            if tag.reads_due <= 1 and key not in partial and self._publisher.is_shown(key):
                self._tree.set_tag_time(key, work.listing.tags[key].updated)

    # Content

    def _bring_content(self, work: Pass, confirming: Confirming) -> None:
        publisher = self._publisher
        listing = work.listing
        gone = [name for name in publisher.withheld if name not in listing.regulars]
        if gone:
            publisher.forget_withheld(gone)
        todo = plan.decide(listing, publisher.flists, publisher.withheld, self._spec)
        chunks_came = [entry for entry in todo.waiting if self._has_come(entry)]
        confirming.ask(self._due_links(work, [*todo.changed, *chunks_came]))
        self._confirm(work, confirming, wait=False)
        again = self._changed_after_all(work, todo.recheck)
        if todo.changed:
            self._readers.start()
        entries = plan.in_order([*todo.changed, *again, *chunks_came], self._spec)
        self._mend_broken(listing)
        self._progress.report(work)
        pipeline = Pipeline(self._preparer, self._spec.http.connections, self._control)
        try:
            for batch in pipeline.run(entries) if entries else ():
                self._take(work, batch)
                self._confirm(work, confirming, wait=False)
                self._progress.report_seldom(work)
        finally:
            self._readers.stop_idle()

    def _due_links(self, work: Pass, coming: Iterable[Regular]) -> list[Link]:
        """Return the links to be served, but for those in tags, whose flists are here or coming.

        Those in tags are asked for when the flists of the whole tag are here.
        """
        names = {entry.name for entry in coming}

        def comes(link: Link) -> bool:
            end = links.end_of(work.listing.links, link)
            if end is None or end.name:
                return end in names or (end is not None and self._publisher.is_current(end))
            state = work.states.get(tag_key(end))
            return (
                state is not None and not state.hindrances and all(map(comes, state.links.values()))
            )

        return [link for link in self._publisher.waiting() if comes(link)]

    def _confirm(self, work: Pass, confirming: Confirming, *, wait: bool) -> None:
        """Ask for what can be served since the last call, and serve what the master confirmed."""
        confirming.ask(self._publisher.to_confirm())
        answers = confirming.answers(wait=wait)
        self._publisher.confirm(answers.confirmed)
        work.unconfirmed |= {link.name: reason for link, reason in answers.doubts.items()}
        work.failures |= {str(link.name): str(error) for link, error in answers.failures.items()}

    def _take(self, work: Pass, batch: list[Outcome]) -> None:
        ready = [outcome for outcome in batch if isinstance(outcome, Ready)]
        if ready:
            self._publisher.publish(ready)
            self._progress.bootable(ready, self._spec.official)
        for outcome in batch:
            if isinstance(outcome, Withheld):
                self._publisher.withhold(outcome)
            elif isinstance(outcome, Failure):
                work.failures[str(outcome.name)] = str(outcome.error)

    def _changed_after_all(self, work: Pass, entries: list[Regular]) -> list[Regular]:
        """Ask /light about flists that were fetched within seconds of their last change."""
        changed: list[Regular] = []
        for entry in entries:
            known = self._publisher.flists[entry.name]
            try:
                description = self._preparer.describe(entry)
            except HttpStoppedError:
                raise
            except HttpError as error:
                work.failures[str(entry.name)] = str(error)
                continue
            if description.expected.md5 != known.md5:
                changed.append(entry)
            elif not description.fresh:
                self._publisher.update(replace(known, recheck=False))
        return changed

    def _has_come(self, entry: Regular) -> bool:
        """Tell whether a withheld flist's missing chunks can be had now."""
        held = self._publisher.withheld[entry.name]
        if self._spec.broken_flists == "publish":
            return True
        absent = self._chunks.absent(held.namespace, held.missing)
        for place in self._chunks.places(held.namespace):
            if not absent:
                break
            absent = self._chunks.absent_at(place, absent)
        return not absent

    def _mend_broken(self, listing: Listing) -> None:
        """Try again for the chunks of flists that were published without all of them."""
        for known in [flist for flist in self._publisher.flists.values() if flist.broken]:
            keys = self._record.keys(known.name)
            for place in self._chunks.places(known.namespace or self._spec.local_zdb.namespace):
                if known.name in listing.regulars and not self._chunks.bring(place, keys).missing:
                    self._publisher.update(replace(known, broken=False))
                    break

    # Removals

    def _remove(self, work: Pass) -> None:
        """Remove what the master dropped (guarded, retained) or the operator deselected."""
        publisher, listing = self._publisher, work.listing
        work.deselected = {key for key in publisher.tags if self._is_tag_deselected(work, key)}
        links_gone = self._gone(work, publisher.links)
        flists_gone = self._gone(work, publisher.flists)
        tags_gone = [key for key in publisher.tags if key not in listing.tags]
        tags_gone += sorted(work.deselected.intersection(listing.tags))
        inside = {name for key in tags_gone for name in publisher.tags[key]}
        with self._record.transaction():
            self._record.set_text(_DANGLING, "\n".join(sorted(work.plan.dangling.values())))
        back = [
            flist
            for flist in publisher.flists.values()
            if flist.missing_since is not None and flist.name in listing.regulars
        ]
        for flist in back:
            publisher.update(replace(flist, missing_since=None))
        dropped = publisher.drops()
        gone = [*links_gone, *flists_gone, *inside, *dropped]
        self._guard(work, gone)
        self._doubt(work, gone)
        if dropped:
            publisher.drop(name for name in dropped if name not in work.doubted)
            self._set_tag_times(work)
        doubted = {tag_key(name) for name in work.doubted}
        tags_gone = [key for key in tags_gone if key not in doubted]
        self._remove_links(
            work, [name for name in links_gone if name not in work.doubted], tags_gone
        )
        flists_gone = [name for name in flists_gone if name not in work.doubted]
        led_to = publisher.led_to()
        expired = [name for name in flists_gone if self._expired(name)]
        work.held += sum(1 for name in expired if name in led_to)
        publisher.remove_flists(name for name in expired if name not in led_to)
        self._forget_tags(listing)
        publisher.release()

    def _remove_links(self, work: Pass, names: list[Name], tags: list[TagKey]) -> None:
        """Remove links and tags but for those that others lead through: the outermost first."""
        publisher = self._publisher
        served = publisher.served_links()
        inside = [name for key in tags for name in publisher.tags[key]]
        needed = links.needed(served, [*names, *inside], work.listing.tags.keys() - work.deselected)
        stay = {tag_key(name) for name in needed}
        going = links.outermost_first(served, [name for name in names if name not in needed])
        to_tags = [name for name in going if not served[name].target.name]
        publisher.remove_links(to_tags)
        publisher.remove_tags(key for key in tags if key not in stay)
        publisher.remove_links(name for name in going if name not in to_tags)
        work.held = len(needed)

    def _gone(self, work: Pass, served: Iterable[Name]) -> list[Name]:
        """Return the served names that the master has no more, or that lead nowhere there.

        A name under which it has something else by now stays as it is until that can be served.
        A listing is not of one moment: that one and the same link dangles is believed the second
        time. A link to a tag that the operator deselected goes with the tag.
        """
        plan, regulars = work.plan, work.listing.regulars
        before = set(self._record.text(_DANGLING).split("\n"))
        return [
            name
            for name in served
            if (
                name not in regulars
                and name not in plan.wanted
                and (name not in plan.dangling or plan.dangling[name] in before)
            )
            or self._leads_to(work.deselected, name)
        ]

    def _leads_to(self, tags: Container[TagKey], name: Name) -> bool:
        link = self._publisher.links.get(name)
        return link is not None and not link.target.name and tag_key(link.target) in tags

    def _is_tag_deselected(self, work: Pass, key: TagKey) -> bool:
        """Tell whether the operator deselected a served tag, or what it leads to."""
        if plan.deselected(self._spec, tag_name(key)):
            return True
        targets = (link.target for link in self._publisher.tags[key].values())
        return any(
            target not in work.listing.regulars and self._chain_is_deselected(target)
            for target in targets
        )

    def _doubt(self, work: Pass, gone: list[Name]) -> None:
        """Find those names that may be there although the listing lacks them."""
        work.doubted = self._absences.unconfirmed(
            [
                name
                for name in gone
                if name not in work.plan.dangling
                and not self._is_deselected(work, name)
                and not self._is_retained(name)
            ]
        )

    def _guard(self, work: Pass, gone: list[Name]) -> None:
        dropped = [
            name
            for name in gone
            if not self._is_deselected(work, name) and not self._is_retained(name)
        ]
        known = len(self._publisher.flists) + len(self._publisher.served_links())
        vanished = Vanished(len(dropped), known, work.listing.count)
        used = int(self._record.number(_CONFIRMED))
        if guard(self._spec, vanished, used, self._spec.schedule.interval_seconds):
            self._record.set_number(_CONFIRMED, self._spec.removal_confirmation)

    def _is_deselected(self, work: Pass, name: Name) -> bool:
        """Tell whether the operator deselected a served name, or what its links lead to."""
        if name.tag:
            return tag_key(name) in work.deselected
        return self._leads_to(work.deselected, name) or self._chain_is_deselected(name)

    def _chain_is_deselected(self, name: Name) -> bool:
        chain = links.chain_of(self._publisher.links, name)
        return any(plan.deselected(self._spec, one) for one in chain)

    def _is_retained(self, name: Name) -> bool:
        known = self._publisher.flists.get(name)
        return known is not None and known.missing_since is not None

    def _expired(self, name: Name) -> bool:
        if plan.deselected(self._spec, name):
            return True
        since = self._publisher.flists[name].missing_since
        if since is None:
            if not self._spec.retention_days:
                return True
            self._publisher.retain(name)
            return False
        return time.time() - since >= self._spec.retention_days * _DAY_SECONDS

    def _forget_tags(self, listing: Listing) -> None:
        for repository, tag in self._record.tags():
            if (repository, tag) not in listing.tags:
                with self._record.transaction():
                    self._record.forget_tag(repository, tag)
        self._tree.remove_folders(listing.repositories)

    # The end of a pass

    def _finish(self, work: Pass) -> None:
        self._progress.report(work)
        if work.failures:
            messages = [f"{name}: {error}" for name, error in work.failures.items()]
            for message in messages[:10]:
                self._status.error(message)
            raise PassIncompleteError(f"{len(messages)} failed, the first: {messages[0]}")
        self._publisher.completed(work.started_at)
        self._progress.complete()
