"""What links lead to: chains of them, those that lead nowhere, and in which order they go.

A link becomes visible after what it leads to, never before; and it goes before that.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from sync.agent.hub.listing import Link, Listing, Name, TagName, Target

# Linux follows 40 (path_resolution(7)), for all the links of a path together.
LONGEST_CHAIN: Final = 16


def chain_of(
    links: Mapping[Name, Link], name: Target, longest: int = LONGEST_CHAIN
) -> Iterator[Target]:
    """Yield a name and what it leads to, link by link, through `longest` links at most."""
    yield name
    for _ in range(longest):
        if isinstance(name, TagName) or name not in links:
            return
        name = links[name].target
        yield name


def end_of(links: Mapping[Name, Link], link: Link) -> Target | None:
    """Return the flist or tag that a link leads to through those in `links`.

    Returns None where they go in a loop or are more than LONGEST_CHAIN.
    """
    *_, end = chain_of(links, link.target, LONGEST_CHAIN - 1)
    return None if isinstance(end, Name) and end in links else end


def outermost_first(links: Mapping[Name, Link], names: Iterable[Name]) -> list[Name]:
    """Sort served links so that each comes before what it leads to, and a taglink before its tag.

    links: all that are served. The other order would leave links that lead nowhere for a moment.
    """

    def outwards(name: Name) -> tuple[bool, int, Name]:
        *_, end = chain = list(chain_of(links, name))
        return isinstance(end, TagName), len(chain), name

    return sorted(names, key=outwards, reverse=True)


@dataclass
class LinkPlan:
    """The links that the master has, judged by its own listing.

    wanted: links that lead to a listed flist or tag. dangling: links that lead nowhere, in a
    loop, or through too many links, with the reason.
    """

    wanted: dict[Name, Link] = field(default_factory=dict)
    dangling: dict[Link, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TagState:
    """What a tag of the master holds, as far as the master itself serves it.

    links: by name. hindrances: why it cannot be shown here whatever comes, a reason each.
    """

    links: dict[Name, Link] = field(default_factory=dict)
    hindrances: tuple[str, ...] = ()


def judge(listing: Listing, tag_links: Iterable[Link]) -> LinkPlan:
    """Judge every link of the listing and of its tags."""
    result = LinkPlan()
    inside = [link for link in tag_links if link.name.its_tag in listing.tags]
    for link in [*listing.links.values(), *inside]:
        fault = _fault(listing, link)
        if fault:
            result.dangling[link] = fault
        else:
            result.wanted[link.name] = link
    return result


def _fault(listing: Listing, link: Link) -> str:
    """Return why a link cannot be followed, or nothing.

    A hub goes on listing a link whose target was deleted (flist-uploader.py, api_delete).
    """
    end = end_of(listing.links, link)
    if end is None:
        return "a loop of links"
    if isinstance(end, TagName):
        return "" if end in listing.tags else "no such tag"
    return "" if end in listing.regulars else "no such flist"


def needed(
    links: Mapping[Name, Link], gone: Iterable[Name], tags: Collection[TagName]
) -> set[Target]:
    """Return what must stay of the served links `gone`, because links that stay lead through it.

    tags: those that the master lists. One that it dropped is needed as a whole, with each of its
    links.
    """
    leaving = set(gone)
    pending = [link.target for name, link in links.items() if name not in leaving]
    found: set[Target] = set()
    while pending:
        target = pending.pop()
        if target in found:
            continue
        if isinstance(target, TagName):
            if target not in tags:
                found.add(target)
                pending += [name for name in leaving if name.tag and name.its_tag == target]
        elif target in leaving:
            found.add(target)
            pending.append(links[target].target)
    return found
