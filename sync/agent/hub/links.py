"""When a link becomes visible: after what it leads to, never before; and it goes before that."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from sync.agent.hub.listing import Link, Listing, Name

LONGEST_CHAIN: Final = 16


def chain_of(
    links: Mapping[Name, Link], name: Name, longest: int = LONGEST_CHAIN
) -> Iterator[Name]:
    """Yield a name and what it leads to, link by link, through `longest` links at most."""
    yield name
    for _ in range(longest):
        link = links.get(name)
        if link is None:
            return
        name = link.target
        yield name


def end_of(links: Mapping[Name, Link], link: Link) -> Name | None:
    """Return the flist or tag, Name(REPO, "", T), that a link leads to through those in `links`.

    Returns None where they go in a loop or are more than LONGEST_CHAIN.
    """
    *_, end = chain_of(links, link.target, LONGEST_CHAIN - 1)
    return None if end in links else end


def outermost_first(links: Mapping[Name, Link], names: Iterable[Name]) -> list[Name]:
    """Sort served links so that each comes before what it leads to, and a taglink before its tag.

    links: all that are served. The other order would leave links that lead nowhere for a moment.
    """

    def outwards(name: Name) -> tuple[bool, int, Name]:
        *_, end = chain = list(chain_of(links, name))
        return not end.name, len(chain), name

    return sorted(names, key=outwards, reverse=True)


@dataclass
class LinkPlan:
    """The links that the master has, judged by its own listing.

    wanted: links that lead to a listed flist or tag. dangling: links that lead nowhere, in a
    loop, or through too many links; name and reason.
    """

    wanted: dict[Name, Link] = field(default_factory=dict)
    dangling: dict[Name, str] = field(default_factory=dict)

    def by_target(self) -> dict[Name, list[Link]]:
        """Return the wanted links by what they lead to; a tag is Name(REPO, "", T)."""
        index: dict[Name, list[Link]] = {}
        for link in self.wanted.values():
            index.setdefault(link.target, []).append(link)
        return index


@dataclass(frozen=True)
class TagState:
    """What a tag of the master holds, as far as the master itself serves it.

    links: by name. hindrances: why it can not be shown here whatever comes, a reason each.
    """

    links: dict[Name, Link] = field(default_factory=dict)
    hindrances: tuple[str, ...] = ()


def plan(listing: Listing, tag_links: Iterable[Link]) -> LinkPlan:
    """Judge every link of the listing and of its tags."""
    result = LinkPlan()
    inside = [link for link in tag_links if (link.name.repository, link.name.tag) in listing.tags]
    for link in [*listing.links.values(), *inside]:
        reason = _fault(listing, link)
        if reason:
            result.dangling[link.name] = f"{link.name} -> {link.target}: {reason}"
        else:
            result.wanted[link.name] = link
    return result


def _fault(listing: Listing, link: Link) -> str:
    """Return why a link can not be followed, or nothing."""
    end = end_of(listing.links, link)
    if end is None:
        return "a loop of links"
    if end.name:
        return "" if end in listing.regulars else "no such flist"
    return "" if (end.repository, end.tag) in listing.tags else "no such tag"


def needed(
    links: Mapping[Name, Link], gone: Iterable[Name], tags: Collection[tuple[str, str]]
) -> set[Name]:
    """Return what must stay of the served links `gone`, because links that stay lead through it.

    tags: those that the master lists. One that it dropped is needed as a whole, as Name(REPO, "",
    T) and each of its links.
    """
    leaving = set(gone)
    pending = [link.target for name, link in links.items() if name not in leaving]
    found: set[Name] = set()
    while pending:
        target = pending.pop()
        if target in found:
            continue
        if target in leaving:
            found.add(target)
            pending.append(links[target].target)
        elif not target.name and (target.repository, target.tag) not in tags:
            found.add(target)
            pending += [name for name in leaving if _is_in(name, target)]
    return found


def _is_in(name: Name, tag: Name) -> bool:
    return bool(name.tag) and (name.repository, name.tag) == (tag.repository, tag.tag)
