"""Where new links lead: the master is asked for each by its own name (docs/adr/0014).

A listing and a tag's page have no digest. One byte that a proxy, a disk or a bug turned over can
make a link lead to another flist that exists, and nothing else would tell that from a change.
"""

from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from sync.agent.hub.links import end_of
from sync.agent.hub.listing import Link, Listing, Name, TagName, page_path, size_text
from sync.agent.hub.progress import Pass
from sync.agent.hub.publisher import Publisher
from sync.agent.master.client import HttpError, HttpMissingError, Master
from sync.agent.quarantine import Quarantine

_TAGLINK_BYTES: Final = 1 << 16
_UNKNOWN: Final = "not followed yet: the master does not answer for it"
_ELSEWHERE: Final = "not followed yet: on the master it leads elsewhere than is listed"


def new_links(work: Pass, publisher: Publisher, coming: Collection[Name]) -> list[Link]:
    """Return the links that may be served in this pass and are not yet; coming: flists."""
    # Others would cost a request in each pass, for as long as their flists are withheld. Those in
    # tags count only where the whole tag may be shown.

    def comes(link: Link) -> bool:
        end = end_of(work.listing.links, link)
        if isinstance(end, TagName):
            return end in work.states and may_show(end)
        return end is not None and (end in coming or publisher.is_current(end))

    def may_show(tag: TagName) -> bool:
        state = work.states[tag]
        return not state.hindrances and all(map(comes, state.links.values()))

    links = [link for link in publisher.waiting() if comes(link)]
    for tag, state in work.states.items():
        if not publisher.is_shown(tag) and may_show(tag):
            served = publisher.tags.get(tag, {})
            links += [link for name, link in state.links.items() if served.get(name) != link]
    return links


def ask(
    master: Master,
    connections: int,
    quarantine: Quarantine,
    work: Pass,
    links: Collection[Link],
) -> set[Link]:
    """Ask about links, many at once; returns those that lead where they are listed to lead.

    Others the pass notes: `unconfirmed` where the link's own page says something else or is not
    there, `failures` where it could not be asked for. Raises HttpStoppedError.
    """

    def doubt(link: Link) -> str | HttpError:
        try:
            with quarantine.trying(str(link.name)):
                return "" if _leads_there(master, work.listing, link) else _ELSEWHERE
        except HttpMissingError:
            return _UNKNOWN
        except HttpError as error:
            return error

    confirmed: set[Link] = set()
    links = [link for link in links if not quarantine.leaves_out(str(link.name))]
    # Before the flists are fetched, and at once: a HEAD takes a round trip and no more.
    with ThreadPoolExecutor(connections, "confirm") as pool:
        for link, reason in zip(links, pool.map(doubt, links), strict=True):
            if isinstance(reason, HttpError):
                work.failures[str(link.name)] = str(reason)
            elif reason:
                work.unconfirmed[link.name] = reason
            else:
                confirmed.add(link)
    return confirmed


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
