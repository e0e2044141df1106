"""What stands in a zone already, judged against the records that the stack wants there.

A record that says just what the stack wants is adopted; one that stands in the way is named, with
what to do about it. Pure: who asks the zone and the state is `components/dns.py`.
"""

import ipaddress
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

RecordType: TypeAlias = Literal["A", "AAAA"]
# No address can stand beside one of these at the same name.
_EXCLUSIVE: Final = ("CNAME", "NS")


@dataclass(frozen=True)
class Record:
    """One DNS record; name: fully qualified, without the last dot. ttl: seconds, 1: automatic."""

    name: str
    type: RecordType
    content: str
    ttl: int


@dataclass(frozen=True)
class Found:
    """A record as the zone has it; whoever made it."""

    id: str
    name: str
    type: str
    content: str
    ttl: int
    proxied: bool = False
    comment: str = ""
    tags: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.name} {self.type} {self.content}"


@dataclass(frozen=True)
class Ours:
    """A record in the stack's state: the provider's id, and the name that it had there."""

    id: str
    name: str


@dataclass(frozen=True)
class Wanted:
    """What the stack wants: records by resource name; stack: whose; proxied: all of them."""

    stack: str
    records: Mapping[str, Record]
    proxied: bool = False

    @property
    def comment(self) -> str:
        """What every record of the stack bears, for who reads the zone."""
        return f"gridhub stack {self.stack}"


@dataclass(frozen=True)
class Obstacle:
    """A record in the way. resource: which of the stack's may take it over, if any may.

    refused: the zone would refuse the stack's record; else it would take it, beside this one.
    """

    record: Found
    reason: str
    resource: str | None = None
    refused: bool = True


@dataclass(frozen=True)
class Verdict:
    """adopted: ids of records by the resource that takes them. gone: resources without record."""

    adopted: Mapping[str, str] = field(default_factory=dict)
    gone: tuple[str, ...] = ()
    obstacles: tuple[Obstacle, ...] = ()


class ExistingRecordsError(ValueError):
    """Records that stand in the way; `str()` has one a line, each with its remedy."""

    def __init__(self, lines: Sequence[str]) -> None:
        count = "a DNS record stands" if len(lines) == 1 else f"{len(lines)} DNS records stand"
        told = "".join(f"\n  - {line}" for line in lines)
        super().__init__(f"{count} in the way; nothing was changed:{told}")


def judge(wanted: Wanted, found: Sequence[Found], ours: Mapping[str, Ours]) -> Verdict:
    """Return what becomes of each record that is there. ours: the state's, by resource name."""
    known = {record.id for record in ours.values()}
    foreign = [record for record in found if record.id not in known]
    adopted: dict[str, str] = {}
    obstacles: list[Obstacle] = []
    for resource, record in wanted.records.items():
        twin = next((other for other in foreign if _same_answer(record, other)), None)
        if twin is None:
            continue
        reasons = _differences(wanted, record, twin)
        if resource in ours:
            obstacles.append(Obstacle(twin, "is what the stack's own record is to become"))
        elif reasons:
            obstacles.append(Obstacle(twin, f"has {' and '.join(reasons)}", resource))
        else:
            adopted[resource] = twin.id
    settled = {*adopted.values(), *(obstacle.record.id for obstacle in obstacles)}
    rest = [record for record in foreign if record.id not in settled]
    new = {key: record for key, record in wanted.records.items() if key not in ours}
    taken = {*adopted, *(obstacle.resource for obstacle in obstacles)}
    return Verdict(adopted, _gone(wanted, found, ours), (*obstacles, *_others(new, taken, rest)))


def _same_answer(record: Record, other: Found) -> bool:
    """Tell whether both give one answer: what the zone allows once, whatever else they say."""
    same = (record.name, record.type) == (other.name.rstrip(".").lower(), other.type)
    return same and ipaddress.ip_address(record.content) == _address(other.content)


def _address(content: str) -> object:
    try:
        return ipaddress.ip_address(content)
    except ValueError:
        return None


def _differences(wanted: Wanted, record: Record, other: Found) -> list[str]:
    """Return what keeps a twin from being taken without a word: it differs, or may be another's.

    Comment and tags are where a zone says whose a record is.
    """
    found = []
    if other.ttl != record.ttl:
        found.append(f"ttl {other.ttl} (the stack's: {record.ttl})")
    if other.proxied != wanted.proxied:
        found.append(f"proxied {_word(other.proxied)} (the stack's: {_word(wanted.proxied)})")
    if other.comment not in ("", wanted.comment):
        found.append(f"the comment {other.comment!r}, which may name another owner")
    if other.tags:
        found.append(f"the tags {', '.join(other.tags)}, which may name another owner")
    return found


def _word(value: bool) -> str:
    return "true" if value else "false"


def _others(
    new: Mapping[str, Record], taken: Collection[str | None], rest: Sequence[Found]
) -> Iterator[Obstacle]:
    """Yield what excludes or accompanies a new record. taken: new ones that have one to import."""
    left = {key: record for key, record in new.items() if key not in taken}
    for other in rest:
        kinds = {record.type for record in new.values() if record.name == other.name}
        if other.type in _EXCLUSIVE and kinds:
            yield Obstacle(other, f"lets no {' or '.join(sorted(kinds))} record stand beside it")
        elif other.type in kinds:
            taker = _taker(left, other)
            if taker is not None:
                del left[taker]
            reason = "would be answered beside the stack's own, which leads some clients there"
            yield Obstacle(other, reason, taker, refused=False)


def _taker(left: Mapping[str, Record], other: Found) -> str | None:
    """Return the first resource that wants this name and type and has no record yet."""
    slot = (other.name, other.type)
    return next((key for key, record in left.items() if (record.name, record.type) == slot), None)


def _gone(wanted: Wanted, found: Sequence[Found], ours: Mapping[str, Ours]) -> tuple[str, ...]:
    """Return the resources whose record was looked for by the name it had, and is not there."""
    ids = {record.id for record in found}
    return tuple(
        resource
        for resource, record in wanted.records.items()
        if resource in ours and ours[resource].name == record.name and ours[resource].id not in ids
    )
