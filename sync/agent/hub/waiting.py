"""What tags and links that are not served as the master lists them wait for, a line each."""

from collections.abc import Iterator
from itertools import islice
from typing import Final

from sync.agent.hub.links import end_of
from sync.agent.hub.listing import Link, Name, TagName
from sync.agent.hub.progress import Pass
from sync.agent.hub.publisher import Publisher

# A tag may wait for hundreds of flists, and the status record is read by people.
_REASONS: Final = 3
_CHARACTERS: Final = 200


def lines(work: Pass, publisher: Publisher) -> list[str]:
    """Return a line for each tag and link that waits; each names the first reasons.

    A tag that is served with an older state of a flist waits only where a link shall lead to it.
    """
    found = []
    waiting = publisher.waiting()
    targets = {link.target for link in waiting}
    for tag in work.states:
        stale = publisher.is_shown(tag)
        if tag not in publisher.whole and (not stale or tag in targets):
            reasons = [*islice(_of_tag(work, publisher, tag), _REASONS + 1)]
            fate = "served" if stale else "not served"
            if not stale and tag in publisher.tags:
                fate = "its old state stays"
            found.append(f"{tag}: {fate}, waits for {_some(reasons)}")
    for link in waiting:
        if link.name in work.unconfirmed or work.fault(link.name):
            continue
        old = publisher.links.get(link.name)
        fate = "not served" if old is None else f"stays at {old.target}"
        reason = _of_link(work, publisher, link)
        found.append(f"{link.name}: {fate}, waits for {_some([reason] if reason else [])}")
    return found


def _some(reasons: list[str]) -> str:
    some = [
        reason if len(reason) <= _CHARACTERS else f"{reason[:_CHARACTERS]}…"
        for reason in reasons[:_REASONS]
    ]
    more = ["and more"] if len(reasons) > _REASONS else []
    return "; ".join([*some, *more]) or "the next pass"


def _of_tag(work: Pass, publisher: Publisher, tag: TagName) -> Iterator[str]:
    """Yield why a tag is not served, and whole, as the master has it."""
    state = work.states[tag]
    yield from state.hindrances
    for link in state.links.values():
        reason = "" if publisher.is_ready(link) else _of_link(work, publisher, link)
        if reason:
            yield f"{link.name.name} -> {reason}"
    for name in publisher.tags.get(tag, {}):
        if name in work.unconfirmed and name not in state.links:
            yield f"{name.name}: {work.unconfirmed[name]}"


def _of_link(work: Pass, publisher: Publisher, link: Link) -> str:
    """Return why a link cannot be served, or nothing where that is not known."""
    own = work.unconfirmed.get(link.name) or work.fault(link.name)
    if own:
        return f"{link.target}: {own}"
    if isinstance(link.target, TagName):
        return str(link.target)
    end = end_of(work.listing.links, link)
    if isinstance(end, Name) and not publisher.is_current(end):
        return f"{end}: {_of_flist(work, publisher, end)}"
    through = work.plan.wanted.get(link.target)
    return _of_link(work, publisher, through) if through else ""


def _of_flist(work: Pass, publisher: Publisher, name: Name) -> str:
    """Return why a listed flist is not served as listed."""
    withheld = publisher.withheld.get(name)
    if withheld is not None:
        return f"withheld, {withheld.reason}"
    return f"could not be fetched, {work.fault(name) or 'it changed meanwhile'}"
