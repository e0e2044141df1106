"""What a pass has to do, by entry: never by the times of directories."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from sync.agent.flist import ACCEPTED
from sync.agent.hub.listing import Listing, Name, Regular
from sync.agent.hub.state_db import FlistRecord, Withheld
from sync.agent.selecting import selects
from sync.contract.spec import UsersSpec


@dataclass
class Decisions:
    """changed: to fetch, in the order of work. recheck: same in the listing, to be asked again.

    waiting: withheld for missing chunks, to be tried when those have come.
    """

    changed: list[Regular] = field(default_factory=list)
    recheck: list[Regular] = field(default_factory=list)
    waiting: list[Regular] = field(default_factory=list)


def decide(
    listing: Listing,
    flists: Mapping[Name, FlistRecord],
    withheld: Mapping[Name, Withheld],
    spec: UsersSpec,
) -> Decisions:
    """Compare the listing with the record."""
    decisions = Decisions()
    for entry in listing.regulars.values():
        held, known = withheld.get(entry.name), flists.get(entry.name)
        as_listed = (entry.updated, entry.size_text)
        if held is not None and (held.updated, held.size_text) == as_listed:
            if held.missing:
                decisions.waiting.append(entry)
        elif known is None or (known.updated, known.size_text) != as_listed:
            decisions.changed.append(entry)
        elif known.recheck:
            decisions.recheck.append(entry)
    decisions.changed = in_order(decisions.changed, spec)
    return decisions


def in_order(entries: Iterable[Regular], spec: UsersSpec) -> list[Regular]:
    """Sort into the order of work: official repositories, then most recently updated."""
    rank = {repository: number for number, repository in enumerate(spec.official)}

    def key(entry: Regular) -> tuple[int, int, Name]:
        return rank.get(entry.name.repository, len(rank)), -entry.updated, entry.name

    return sorted(entries, key=key)


def publishable_by(spec: UsersSpec) -> str:
    """Return all that decides which flists can be published, of the spec and of us, as one text."""
    sources = [*spec.sources_zdb, *spec.allowed_backends]
    texts = [one.model_dump_json() for one in sources]
    limits = [str(spec.max_flist_bytes), str(ACCEPTED)]
    return "\n".join([spec.foreign_namespace, *limits, *texts])


def wanted_repository(spec: UsersSpec, repository: str) -> bool:
    """Tell whether the operator wants a repository."""
    return selects(spec.repositories, repository)


def wanted_name(spec: UsersSpec, name: str) -> bool:
    """Tell whether the operator wants `REPO/NAME` (of a repository that is wanted)."""
    return selects(spec.flists, name)


def deselected(spec: UsersSpec, name: Name) -> bool:
    """Tell whether the operator, not the master, is why a name is not listed."""
    if not wanted_repository(spec, name.repository):
        return True
    return not name.tag and not wanted_name(spec, str(name))
