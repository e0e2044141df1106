"""What tags and links that are not served as the master lists them wait for, a line each."""

from collections.abc import Iterator
from itertools import islice
from typing import Final

from sync.agent.hub.links import end_of
from sync.agent.hub.listing import Link, Name, TagKey, tag_key, tag_name, taglink_target
from sync.agent.hub.progress import Pass
from sync.agent.hub.publisher import Publisher

_REASONS: Final = 3
_CHARACTERS: Final = 200


def told(work: Pass, publisher: Publisher) -> list[str]:
    """Return a line for each tag and link that waits; each names the first reasons.

    A tag that is served with an older state of a flist waits only where a link shall lead to it.
    """
    lines = []
    waiting = publisher.waiting()
    led_to = {tag_key(link.target) for link in waiting if not link.target.name}
    for key in work.states:
        stale = publisher.is_shown(key)
        if not publisher.is_whole(key) and (not stale or key in led_to):
            reasons = [*islice(_of_tag(work, publisher, key), _REASONS + 1)]
            fate = "served" if stale else _fate(served=key in publisher.tags)
            lines.append(f"{taglink_target(tag_name(key))}: {fate}, waits for {_some(reasons)}")
    for link in waiting:
        if link.name in work.unconfirmed or str(link.name) in work.failures:
            continue
        old = publisher.links.get(link.name)
        fate = _fate(served=False) if old is None else f"stays at {_shown(old.target)}"
        reason = _of_link(work, publisher, link)
        lines.append(f"{link.name}: {fate}, waits for {_some([reason] if reason else [])}")
    return lines


def _fate(*, served: bool) -> str:
    return "its old state stays" if served else "not served"


def _shown(name: Name) -> str:
    return str(name) if name.name else taglink_target(name)


def _some(reasons: list[str]) -> str:
    text = "; ".join(_cut(reason) for reason in reasons[:_REASONS]) or "the next pass"
    return text if len(reasons) <= _REASONS else f"{text}; and more"


def _cut(reason: str) -> str:
    return reason if len(reason) <= _CHARACTERS else f"{reason[:_CHARACTERS]}…"


def _of_tag(work: Pass, publisher: Publisher, key: TagKey) -> Iterator[str]:
    """Yield why a tag is not served, and whole, as the master has it."""
    state = work.states[key]
    yield from state.hindrances
    for link in state.links.values():
        reason = "" if publisher.is_ready(link) else _of_link(work, publisher, link)
        if reason:
            yield f"{link.name.name} -> {reason}"
    for name in publisher.tags.get(key, {}):
        if name in work.doubted:
            yield f"{name.name}: {work.doubted[name]}"


def _of_link(work: Pass, publisher: Publisher, link: Link) -> str:
    """Return why a link can not be served, or nothing where that is not known."""
    own = work.unconfirmed.get(link.name) or work.failures.get(str(link.name))
    if own:
        return f"{_shown(link.target)}: {own}"
    if not link.target.name:
        return taglink_target(link.target)
    end = end_of(work.listing.links, link)
    if end is not None and end.name and not publisher.is_current(end):
        return f"{end}: {_of_flist(work, publisher, end)}"
    through = work.plan.wanted.get(link.target)
    return _of_link(work, publisher, through) if through else ""


def _of_flist(work: Pass, publisher: Publisher, name: Name) -> str:
    """Return why a listed flist is not served as listed."""
    withheld = publisher.withheld.get(name)
    if withheld is not None:
        return f"withheld, {withheld.reason}"
    return f"could not be fetched, {work.failures.get(str(name), 'it changed meanwhile')}"
