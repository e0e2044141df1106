"""Chains of links: where they end, and in which order they may go."""

import itertools

from sync.agent.hub.links import LONGEST_CHAIN, chain_of, end_of, outermost_first
from sync.agent.hub.listing import Link, Name, TagName


def name(text: str) -> Name:
    return Name("r", f"{text}.flist")


def chained(*texts: str) -> dict[Name, Link]:
    """Return links from each name to the next."""
    links = [Link(name(one), name(other), 0) for one, other in itertools.pairwise(texts)]
    return {link.name: link for link in links}


def test_chain_ends_at_the_flist_or_tag_that_is_no_link() -> None:
    links = chained("c", "b", "a", "flist")
    assert list(chain_of(links, name("c"))) == [name("c"), name("b"), name("a"), name("flist")]
    assert end_of(links, links[name("c")]) == name("flist")
    taglink = Link(Name("r", "latest"), TagName("q", "1"), 0)
    assert end_of({taglink.name: taglink}, taglink) == TagName("q", "1")


def test_link_that_is_not_among_the_links_has_an_end_too() -> None:
    """A tag's page may be newer than the listing."""
    inside = Link(Name("r", "x.flist", "1"), name("a"), 0)
    assert end_of(chained("a", "flist"), inside) == name("flist")


def test_loops_and_chains_that_are_too_long_have_no_end() -> None:
    loop = chained("a", "b", "c", "a")
    assert all(end_of(loop, link) is None for link in loop.values())
    longest = chained(*(f"{number}" for number in range(LONGEST_CHAIN + 1)))
    assert end_of(longest, longest[name("0")]) == name(f"{LONGEST_CHAIN}")
    longer = chained(*(f"{number}" for number in range(LONGEST_CHAIN + 2)))
    assert end_of(longer, longer[name("0")]) is None


def test_outermost_links_come_first_and_taglinks_before_all() -> None:
    links = chained("b", "c", "a", "flist")
    taglink = Link(Name("r", "a-tag"), TagName("r", "1"), 0)
    inside = Link(Name("r", "z.flist", "1"), name("b"), 0)
    links |= {taglink.name: taglink, inside.name: inside}
    expected = [taglink.name, inside.name, name("b"), name("c"), name("a")]
    assert outermost_first(links, sorted(links)) == expected
    assert outermost_first(links, [name("a"), name("b")]) == [name("b"), name("a")]


def test_links_in_a_loop_are_sorted_all_the_same() -> None:
    loop = chained("a", "b", "a")
    assert set(outermost_first(loop, loop)) == set(loop)
