"""Where new links lead: the master is asked for each by its own name (docs/adr/0014).

A listing and a tag's page have no digest. One byte that a proxy, a disk or a bug turned over can
make a link lead to another flist that exists, and nothing else would tell that from a change.
"""

from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

from sync.agent.hub.listing import Link, Listing, Name, TagName, page_path
from sync.agent.hub.plan import end_of
from sync.agent.hub.prepare import size_text
from sync.agent.master.client import HttpError, HttpMissingError, HttpStoppedError, Master

_TAGLINK_BYTES: Final = 1 << 16
_UNKNOWN: Final = "not followed yet: the master does not answer for it"
_ELSEWHERE: Final = "not followed yet: on the master it leads elsewhere than is listed"


@dataclass
class Answers:
    """confirmed: links that lead where they are listed to lead.

    unconfirmed: those whose own page says something else, or is not there, with the reason.
    failures: links that could not be asked for, with the error.
    """

    confirmed: set[Link] = field(default_factory=set)
    unconfirmed: dict[Name, str] = field(default_factory=dict)
    failures: dict[Name, str] = field(default_factory=dict)


def ask(master: Master, connections: int, listing: Listing, links: Collection[Link]) -> Answers:
    """Ask about links: one request for each, many at once. Raises HttpStoppedError."""
    answers = Answers()
    if not links:
        return answers

    def doubt(link: Link) -> str | HttpError:
        try:
            return "" if _leads_there(master, listing, link) else _ELSEWHERE
        except HttpMissingError:
            return _UNKNOWN
        except HttpStoppedError:
            raise
        except HttpError as error:
            return error

    # Before the flists are fetched, and at once: a HEAD takes a round trip and no more.
    with ThreadPoolExecutor(min(connections, len(links)), "confirm") as pool:
        for link, reason in zip(links, pool.map(doubt, links), strict=True):
            if isinstance(reason, HttpError):
                answers.failures[link.name] = str(reason)
            elif reason:
                answers.unconfirmed[link.name] = reason
            else:
                answers.confirmed.add(link)
    return answers


def _leads_there(master: Master, listing: Listing, link: Link) -> bool:
    if isinstance(link.target, TagName):
        data = master.get(page_path(link.name), _TAGLINK_BYTES).json()
        return isinstance(data, dict) and data.get("target") == str(link.target)
    # A hub sends the file at the end of its own links (download_flist, send_from_directory), so
    # the headers are those of the flist that it leads to: compared with the one that is listed.
    end = end_of(listing.links, link)
    listed = listing.regulars.get(end) if isinstance(end, Name) else None
    page = master.head(page_path(link.name))
    if listed is None or page.modified_seconds is None:
        return False
    same_size = page.length is None or size_text(page.length) == listed.size_text
    return same_size and int(page.modified_seconds) == listed.updated
