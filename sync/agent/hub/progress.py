"""What a pass has learned and done so far, and how the job's status record reports it."""

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from sync.agent.clocks import Clocks
from sync.agent.hub.chunk_store import ChunkStore
from sync.agent.hub.links import LinkPlan, TagState
from sync.agent.hub.listing import (
    Listing,
    Name,
    TagName,
    Target,
    printed_bytes,
    target_of,
)
from sync.agent.hub.publisher import Publisher
from sync.agent.hub.state_db import as_listed
from sync.agent.master.client import Master
from sync.agent.status_writer import StatusWriter, name_list, utc_now
from sync.contract.status import Amount, Lag

# Each report counts all flists: that must not slow down the job.
_REPORT_SECONDS: Final = 0.5
_REPORT_PART: Final = 0.05  # of the time, at most


@dataclass
class Pass:
    """What one pass learned so far.

    states: what the listed tags hold. failures: what could not be had, with the error. unconfirmed:
    names of which a page says that they are gone, new or moved, and which the master, asked for
    them, did not confirm, with the reason. waiting: the tags and links that are not served as
    listed, and for what they wait; until the end of the pass those of the one before. held: the
    quarantined names, with the reason; likewise. deselected: served tags that the operator wants no
    more. kept: how many names stay for links' sake. clocks: when the listing came.
    """

    listing: Listing
    plan: LinkPlan
    refused: list[str]
    failures: dict[str, str]
    waiting: list[str]
    held: Mapping[str, str]
    states: Mapping[TagName, TagState] = field(default_factory=dict)
    deselected: set[TagName] = field(default_factory=set)
    unconfirmed: dict[Name, str] = field(default_factory=dict)
    started_at: float = field(default_factory=time.time)
    clocks: Clocks = field(default_factory=Clocks)
    kept: int = 0

    def fault(self, name: Target) -> str:
        """Return why a name could not be had, in this pass or before; nothing where it could."""
        return self.failures.get(str(name)) or self.held.get(str(name), "")


class Progress:
    """Writes the status record of the users job; used by one thread."""

    def __init__(
        self, status: StatusWriter, master: Master, chunks: ChunkStore, publisher: Publisher
    ) -> None:
        self._status = status
        self._master = master
        self._chunks = chunks
        self._publisher = publisher
        self._due_at = 0.0

    def set_bootable(self) -> None:
        """Note when the first flist of an official repository was published, or all there is."""
        if self._status.record.bootable_at is None:
            self._status.update(bootable_at=utc_now())

    def report_seldom(self, work: Pass) -> None:
        """Report where a pass stands, unless that was done just before."""
        if time.monotonic() >= self._due_at:
            self.report(work)

    def report(self, work: Pass) -> None:
        """Report where a pass stands."""
        began = time.monotonic()
        self._report(work)
        took = time.monotonic() - began
        self._due_at = began + max(_REPORT_SECONDS, took / _REPORT_PART)

    def _report(self, work: Pass) -> None:
        publisher, listing = self._publisher, work.listing
        done = {
            name: flist.size_bytes or 0
            for name, flist in publisher.flists.items()
            if as_listed(flist, listing.regulars.get(name))
        }
        behind = len(listing.regulars) - len(done)
        # What the master does not deliver, or what is broken there, is waited for by nobody.
        given_up = {*publisher.withheld, *map(target_of, work.held)}
        behind -= sum(1 for name in given_up & listing.regulars.keys() if name not in done)
        done_bytes = sum(done.values())
        # Exact sizes of what is here, listed ones of the rest.
        rest = [
            printed_bytes(entry.size_text)
            for name, entry in listing.regulars.items()
            if name not in done
        ]
        total_bytes = None if None in rest else done_bytes + int(math.fsum(filter(None, rest)))
        last = self._status.record.last_success_at
        late = None if last is None else (utc_now() - last).total_seconds()
        self._status.update(
            done=Amount(items=len(done), bytes=done_bytes),
            total=Amount(items=len(listing.regulars), bytes=total_bytes),
            lag=Lag(items=behind, bytes=None if behind else 0, seconds=late if behind else 0.0),
            refused=name_list(work.refused),
            broken=name_list(self._broken(work)),
            details=self._details(work),
        )

    def _broken(self, work: Pass) -> Iterable[str]:
        publisher = self._publisher
        yield from (f"{one.name}: {one.reason}" for one in publisher.withheld.values())
        yield from (
            f"{flist.name}: published without all of its chunks"
            for flist in publisher.flists.values()
            if flist.broken
        )
        for name, reason in publisher.pins.faults.items():
            yield f"{name}: its chunks are not known ({reason}): none is deleted while it is served"
        for link, fault in work.plan.dangling.items():
            yield f"{link.name} -> {link.target}: {fault}"
        for name, reason in work.unconfirmed.items():
            if not name.tag:
                yield f"{name}: {reason}"
        for held, reason in work.held.items():
            # A tag has its line among those that wait, with what is in it.
            if isinstance(target := target_of(held), Name) and not target.tag:
                yield f"{held}: {reason}"
        yield from work.waiting
        yield from work.listing.left_out
        if work.clocks.fault:
            yield work.clocks.fault

    def _details(self, work: Pass) -> dict[str, int | float | str]:
        flists = self._publisher.flists.values()
        # Names that dashboards read: a contract with stacks of the release before.
        return {
            "chunks_fetched": self._chunks.fetched_chunks,
            "chunk_bytes_fetched": self._chunks.fetched_bytes,
            "held_for_links": work.kept,
            "keys_unknown": len(self._publisher.pins.unread),
            "quarantined": len(work.held),
            "links": len(self._publisher.served_links()),
            "links_waiting": len(self._publisher.waiting()),
            "master_requests": self._master.requests_sent,
            "received_bytes": self._master.bytes_received,
            "repositories": len(work.listing.repositories),
            "retained": sum(1 for flist in flists if flist.missing_since is not None),
            "tags": len(work.listing.tags),
            "tags_waiting": sum(1 for tag in work.states if not self._publisher.is_shown(tag)),
            "withheld": len(self._publisher.withheld),
        }
