"""Whether links lead where a page says: the master is asked for each new one by its own name.

A listing and a tag's page have no digest. One byte that a proxy, a disk or a bug turned over can
make a link lead to another flist that exists, and nothing else would tell that from a change.
"""

from collections.abc import Collection
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

from sync.agent.hub.links import end_of
from sync.agent.hub.listing import Link, Listing, page_path, taglink_target
from sync.agent.hub.prepare import size_text
from sync.agent.master.client import HttpError, HttpMissingError, HttpStoppedError, Master

_TAGLINK_BYTES: Final = 1 << 16
_UNKNOWN: Final = "not followed yet: the master does not answer for it"
_ELSEWHERE: Final = "not followed yet: on the master it leads elsewhere than is listed"


@dataclass
class Answers:
    """What the master said: links that lead where they are listed to lead, and the others.

    doubts: links whose own page says something else, or is not there, with the reason. failures:
    links that could not be asked for, with the error.
    """

    confirmed: list[Link] = field(default_factory=list)
    doubts: dict[Link, str] = field(default_factory=dict)
    failures: dict[Link, HttpError] = field(default_factory=dict)


class Confirming:
    """Asks about the links of one listing while other work goes on, until it is closed.

    As many are asked for at once as the master's connections allow, beside what is fetched.
    """

    def __init__(self, master: Master, connections: int, listing: Listing) -> None:
        self._master = master
        self._connections = connections
        self._listing = listing
        self._pool: ThreadPoolExecutor | None = None
        self._pending: dict[Link, Future[str]] = {}

    def close(self) -> None:
        """Ask no more, and wait for the requests that are under way."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def ask(self, links: Collection[Link]) -> None:
        """Begin to ask about each link once: one request for each."""
        if not links:
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._connections, thread_name_prefix="confirm")
        for link in links:
            self._pending[link] = self._pool.submit(self._doubt, link)

    def answers(self, *, wait: bool) -> Answers:
        """Return the answers that came since the last call.

        wait: for all that are still to come. Raises HttpStoppedError.
        """
        answers = Answers()
        for link, future in list(self._pending.items()):
            if not wait and not future.done():
                continue
            del self._pending[link]
            try:
                doubt = future.result()
            except HttpStoppedError:
                raise
            except HttpError as error:
                answers.failures[link] = error
                continue
            if doubt:
                answers.doubts[link] = doubt
            else:
                answers.confirmed.append(link)
        return answers

    def _doubt(self, link: Link) -> str:
        """Return why a link should not be followed, or nothing. Raises HttpError."""
        try:
            same = self._leads_on(link) if link.target.name else self._leads_to_tag(link)
        except HttpMissingError:
            return _UNKNOWN
        return "" if same else _ELSEWHERE

    def _leads_to_tag(self, link: Link) -> bool:
        data = self._master.get(page_path(link.name), _TAGLINK_BYTES).json()
        return isinstance(data, dict) and data.get("target") == taglink_target(link.target)

    def _leads_on(self, link: Link) -> bool:
        """Compare the file that the master's own link leads to with the one that is listed."""
        end = end_of(self._listing.links, link)
        listed = None if end is None else self._listing.regulars.get(end)
        page = self._master.head(page_path(link.name))
        if listed is None or page.modified_seconds is None:
            return False
        same_size = page.length is None or size_text(page.length) == listed.size_text
        return same_size and int(page.modified_seconds) == listed.updated
