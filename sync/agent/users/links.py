"""When a link becomes visible: after what it leads to, never before."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from sync.agent.users.listing import Link, Listing, Name

LONGEST_CHAIN: Final = 16


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

    def by_tag(self) -> dict[Name, list[Link]]:
        """Return the wanted links inside each tag Name(REPO, "", T)."""
        index: dict[Name, list[Link]] = {}
        for link in self.wanted.values():
            if link.name.tag:
                tag = Name(link.name.repository, "", link.name.tag)
                index.setdefault(tag, []).append(link)
        return index


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
    target = link.target
    for _ in range(LONGEST_CHAIN):
        if not target.name:
            there = (target.repository, target.tag) in listing.tags
            return "" if there else "no such tag"
        if target in listing.regulars:
            return ""
        following = listing.links.get(target)
        if following is None:
            return "no such flist"
        target = following.target
    return "a loop of links"


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
