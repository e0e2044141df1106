"""What the master's tags hold: read when a tag changed, and again until it can be believed.

A tag's page has no digest, and is not read again while the tag's time stays: what one byte that
was turned over did to it would stay as well.
"""

from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeAlias

from sync.agent.http import HttpError, HttpStoppedError
from sync.agent.users.fetching import FRESH_SECONDS
from sync.agent.users.listing import Link, Listing, Source, Tag
from sync.agent.users.record import Record, TagRecord

# So often must what is refused of a tag read the same before it is believed.
_SAME_READS: Final = 3

TagKey: TypeAlias = tuple[str, str]


class TagReader:
    """Reads tags into the record, in parallel; its methods are called by one thread."""

    def __init__(self, source: Source, record: Record, connections: int) -> None:
        self._source = source
        self._record = record
        self._connections = connections
        self.just_read: set[TagKey] = set()

    def read(self, listing: Listing) -> dict[TagKey, str]:
        """Read the tags that changed or are due; returns those that failed, with the error.

        Until `settle` they stay due, so that a kill between the two has them read once more.
        """
        known = self._record.tags()
        due = [tag for key, tag in listing.tags.items() if _is_due(tag, known.get(key))]
        self.just_read = set()
        failed: dict[TagKey, str] = {}
        if not due:
            return failed
        with ThreadPoolExecutor(self._connections) as pool:
            for tag, outcome in zip(due, pool.map(self._fetch, due), strict=True):
                key = (tag.repository, tag.tag)
                if isinstance(outcome, HttpError):
                    failed[key] = f"tag {tag.repository}/{tag.tag}: {outcome}"
                    continue
                links, refused, fresh = outcome
                reads_due = 1 + max(int(fresh), _reads_due(tag, refused, known.get(key)))
                with self._record.transaction():
                    self._record.put_tag(TagRecord(*key, tag.updated, reads_due, refused), links)
                self.just_read.add(key)
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

    def settle(self, doubted: Collection[TagKey]) -> None:
        """Believe what was just read; the doubted ones, whenever read, are read again."""
        settled = self.just_read.difference(doubted)
        if settled or doubted:
            with self._record.transaction():
                for key in settled:
                    self._record.count_tag_read(*key)
                for key in doubted:
                    self._record.read_tag_again(*key)
        self.just_read = set()


def _is_due(tag: Tag, known: TagRecord | None) -> bool:
    return known is None or known.reads_due > 0 or known.updated != tag.updated


def _reads_due(tag: Tag, refused: tuple[str, ...], known: TagRecord | None) -> int:
    """Return how often a tag is to be read again because of what was refused of it."""
    if not refused:
        return 0
    if known is None or (known.updated, known.refused) != (tag.updated, refused):
        return _SAME_READS - 1
    return max(0, known.reads_due - 1)
