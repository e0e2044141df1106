"""What the master's tags hold: read when a tag changed, and again until it can be believed.

A tag's page has no digest, and is not read again while the tag's time stays: what one byte that
was turned over did to it would stay as well. An entry whose flist is not listed counts unless the
master, asked for that entry, answers 404.
"""

from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from sync.agent.hub.links import LinkPlan, TagState, end_of
from sync.agent.hub.listing import (
    Link,
    Listing,
    Name,
    Source,
    Tag,
    TagKey,
    page_path,
    tag_key,
    tag_name,
    taglink_target,
)
from sync.agent.hub.prepare import FRESH_SECONDS
from sync.agent.hub.state_db import Record, TagRecord
from sync.agent.master.client import HttpError, HttpMissingError, HttpStoppedError

# So often must what is refused of a tag read the same before it is believed.
_SAME_READS: Final = 3


class TagReader:
    """Reads tags into the record, in parallel; its methods are called by one thread.

    deselected: tells whether the operator is why a name is not listed.
    """

    def __init__(
        self,
        source: Source,
        record: Record,
        connections: int,
        deselected: Callable[[Name], bool],
    ) -> None:
        self._source = source
        self._record = record
        self._connections = connections
        self._deselected = deselected
        self._just_read: set[TagKey] = set()
        self._doubtful: set[TagKey] = set()

    def read(self, listing: Listing) -> dict[TagKey, str]:
        """Read the tags that changed or are due; returns those that failed, with the error.

        Until `settle` they stay due, so that a kill between the two has them read once more.
        """
        known = self._record.tags()
        due = [tag for key, tag in listing.tags.items() if _is_due(tag, known.get(key))]
        self._just_read = set()
        failed: dict[TagKey, str] = {}
        if not due:
            return failed
        with ThreadPoolExecutor(self._connections) as pool:
            for tag, outcome in zip(due, pool.map(self._fetch, due), strict=True):
                key = (tag.repository, tag.tag)
                if isinstance(outcome, HttpError):
                    failed[key] = f"could not be read: {outcome}"
                    continue
                links, refused, fresh = outcome
                reads_due = 1 + max(int(fresh), _reads_due(tag, refused, known.get(key)))
                with self._record.transaction():
                    self._record.put_tag(TagRecord(*key, tag.updated, reads_due, refused), links)
                self._just_read.add(key)
        return failed

    def _fetch(self, tag: Tag) -> tuple[list[Link], tuple[str, ...], bool] | HttpError:
        try:
            page, found, refused = self._source.tag(tag)
        except HttpStoppedError:
            raise
        except HttpError as error:
            return error
        fresh = page.date_seconds is None or page.date_seconds - tag.updated < FRESH_SECONDS
        return found, tuple(refused), fresh

    def states(
        self, listing: Listing, plan: LinkPlan, failed: Mapping[TagKey, str]
    ) -> dict[TagKey, TagState]:
        """Return what each listed tag holds; failed: those that could not be read."""
        known, entries = self._record.tags(), self._record.tag_links()
        self._doubtful = set()
        answers = self._answers(listing, plan, [*entries.values()], failed)
        links: dict[TagKey, dict[Name, Link]] = {key: {} for key in listing.tags}
        hindrances: dict[TagKey, list[str]] = {key: [] for key in listing.tags}
        for name, link in entries.items():
            key = tag_key(name)
            if name in plan.wanted:
                links[key][name] = link
            elif name in plan.dangling and answers.get(name) is not True:
                if not self._is_deselected(listing, link):
                    self._doubtful.add(key)
                hindrances[key].append(self._hindrance(listing, plan, link, answers.get(name)))
        for key in listing.tags:
            if key in failed:
                links[key], hindrances[key] = {}, [failed[key]]
            else:
                prefix = f"{taglink_target(tag_name(key))}: "
                hindrances[key] += [text.removeprefix(prefix) for text in known[key].refused]
        return {key: TagState(links[key], tuple(hindrances[key])) for key in listing.tags}

    def _answers(
        self,
        listing: Listing,
        plan: LinkPlan,
        entries: Collection[Link],
        failed: Mapping[TagKey, str],
    ) -> dict[Name, bool | HttpError]:
        """Ask for the entries that lead to nothing listed; True for those that are not there.

        One that is gone, or that the operator deselected, is asked for once in each state of its
        tag: any other is there and not listed only until the next listing.
        """
        answers: dict[Name, bool | HttpError] = {**self._record.tag_answers()}
        due: list[Link] = []
        for link in entries:
            if link.name not in plan.dangling or tag_key(link.name) in failed:
                continue
            answer = answers.get(link.name)
            if answer is None or (not answer and not self._is_deselected(listing, link)):
                due.append(link)
        asked: dict[Name, bool | HttpError] = {}
        if due:
            with ThreadPoolExecutor(self._connections) as pool:
                outcomes = zip(due, pool.map(self._is_missing, due), strict=True)
                asked = {link.name: outcome for link, outcome in outcomes}
        stale = [name for name in answers if name in plan.wanted]
        if asked or stale:
            with self._record.transaction():
                for name in stale:
                    self._record.forget_tag_answer(name)
                for name, answer in asked.items():
                    if isinstance(answer, bool):
                        self._record.put_tag_answer(name, missing=answer)
        return answers | asked

    def _is_missing(self, link: Link) -> bool | HttpError:
        try:
            self._source.master.head(page_path(link.name))
        except HttpMissingError:
            return True
        except HttpStoppedError:
            raise
        except HttpError as error:
            return error
        return False

    def _is_deselected(self, listing: Listing, link: Link) -> bool:
        end = end_of(listing.links, link)
        return end is not None and self._deselected(end)

    def _hindrance(
        self, listing: Listing, plan: LinkPlan, link: Link, answer: bool | HttpError | None
    ) -> str:
        if self._is_deselected(listing, link):
            return f"{link.name.name} -> {link.target} is deselected by the operator's patterns"
        fault = plan.dangling[link.name].rpartition(": ")[2]
        told = f"the master was asked: {answer}" if answer else "the master serves it"
        return f"{link.name.name} -> {link.target}: {fault} is listed, yet {told}"

    def settle(self, doubted: Collection[TagKey]) -> None:
        """Believe what was just read; the doubted ones, whenever read, are read again."""
        doubted = self._doubtful.union(doubted)
        settled = self._just_read.difference(doubted)
        if settled or doubted:
            with self._record.transaction():
                for key in settled:
                    self._record.count_tag_read(*key)
                for key in doubted:
                    self._record.read_tag_again(*key)
        self._just_read = set()


def _is_due(tag: Tag, known: TagRecord | None) -> bool:
    return known is None or known.reads_due > 0 or known.updated != tag.updated


def _reads_due(tag: Tag, refused: tuple[str, ...], known: TagRecord | None) -> int:
    """Return how often a tag is to be read again because of what was refused of it."""
    if not refused:
        return 0
    if known is None or (known.updated, known.refused) != (tag.updated, refused):
        return _SAME_READS - 1
    return max(0, known.reads_due - 1)
