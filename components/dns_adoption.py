"""What stands in a zone already, judged against the records that the stack wants there.

A record that says just what the stack wants is adopted; one that stands in the way is named, with
what to do about it. Pure: who asks the zone and the state is `components/dns.py`.
"""

import ipaddress
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal, TypeAlias

RecordType: TypeAlias = Literal["A", "AAAA"]
# No address can stand beside one of these at the same name.
_EXCLUSIVE: Final = ("CNAME", "NS")
# Not what `ipaddress` takes: the scope of an IPv6 address may be any text.
_ADDRESS: Final = re.compile(r"[0-9A-Fa-f.:]+")


@dataclass(frozen=True)
class Record:
    """One DNS record; name: fully qualified, without the last dot. ttl: seconds, 1: automatic."""

    name: str
    type: RecordType
    content: str
    ttl: int


@dataclass(frozen=True)
class Ours:
    """A record in the stack's state: the provider's id, and what it was when last seen.

    `name` is kept as names are compared: in lower case, without the last dot.
    """

    id: str
    name: str
    type: str
    content: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name.rstrip(".").lower())


@dataclass(frozen=True)
class Found(Ours):
    """A record as the zone has it, whoever made it."""

    ttl: int
    proxied: bool = False
    comment: str = ""
    tags: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return it for a terminal or a comment; what others may have written there is quoted."""
        content = self.content if _ADDRESS.fullmatch(self.content) else repr(self.content)
        return f"{self.name} {self.type} {content}"


@dataclass(frozen=True)
class Wanted:
    """What the stack wants: records by resource name; stack: whose; proxied: all of them."""

    stack: str
    records: Mapping[str, Record]
    proxied: bool = False

    @property
    def comment(self) -> str:
        """The comment on every record of the stack, for people who read the zone."""
        return f"gridhub stack {self.stack}"


@dataclass(frozen=True)
class Obstacle:
    """A record in the way. resource: which of the stack's may take it over, if any may.

    refused: the zone would refuse the stack's record; else it would take it, beside this one.
    after_refresh: the resource may only once a refresh has dropped its own record, which is gone.
    """

    record: Found
    reason: str
    resource: str | None = None
    refused: bool = True
    after_refresh: bool = False


@dataclass(frozen=True)
class Verdict:
    """adopted: ids of records by the resource that takes them.

    gone: resources of the state without a record, also such as are not wanted any more.
    """

    adopted: Mapping[str, str] = field(default_factory=dict)
    gone: tuple[str, ...] = ()
    obstacles: tuple[Obstacle, ...] = ()


class ExistingRecordsError(ValueError):
    """Records that stand in the way; `str()` has one a line, each with its remedy."""

    def __init__(self, lines: Sequence[str]) -> None:
        count = "a DNS record stands" if len(lines) == 1 else f"{len(lines)} DNS records stand"
        listed = "".join(f"\n  - {line}" for line in lines)
        super().__init__(f"{count} in the way; nothing was changed:{listed}")


def judge(wanted: Wanted, found: Sequence[Found], ours: Mapping[str, Ours]) -> Verdict:
    """Return what becomes of each record that is there. ours: the state's, by resource name."""
    known = {record.id for record in ours.values()}
    foreign = [record for record in found if record.id not in known]
    # Looked for by the name that they had, and not there.
    ids, names = {record.id for record in found}, {one.name for one in wanted.records.values()}
    gone = tuple(key for key, own in ours.items() if own.name in names and own.id not in ids)
    adopted: dict[str, str] = {}
    obstacles: list[Obstacle] = []
    for resource, record in wanted.records.items():
        twin = next((other for other in foreign if _same_answer(record, other)), None)
        if twin is None:
            continue
        if resource in ours:
            reason = "is what the stack's own record is to become"
            taker = resource if resource in gone else None
            obstacles.append(Obstacle(twin, reason, taker))
        elif differences := _differences(wanted, record, twin):
            obstacles.append(Obstacle(twin, f"has {' and '.join(differences)}", resource))
        else:
            adopted[resource] = twin.id
    settled = {*adopted.values(), *(obstacle.record.id for obstacle in obstacles)}
    rest = [record for record in foreign if record.id not in settled]
    taken = {*adopted, *(obstacle.resource for obstacle in obstacles)}
    # What has no record at its name yet: not made, deleted by hand, or elsewhere until now.
    new = {
        key: record
        for key, record in wanted.records.items()
        if key not in ours or key in gone or ours[key].name != record.name
    }
    takers = [key for key in new if key not in taken and (key not in ours or key in gone)]
    obstacles += _others(new, takers, rest)
    judged = (replace(one, after_refresh=one.resource in gone) for one in obstacles)
    return Verdict(adopted, gone, tuple(judged))


def _same_answer(record: Record, other: Found) -> bool:
    """Return whether both give one answer, which the zone allows once, whatever else they say."""
    same = (record.name, record.type) == (other.name, other.type)
    return same and ipaddress.ip_address(record.content) == address_of(other.content)


def address_of(content: str) -> object:
    """Return the address that a record's content is, however written; None where it is none."""
    try:
        return ipaddress.ip_address(content)
    except ValueError:
        return None


def _differences(wanted: Wanted, record: Record, other: Found) -> list[str]:
    """Return why a twin is not adopted silently: it differs, or may be another's.

    Comment and tags are where a zone says whose a record is.
    """
    found = []
    if other.ttl != record.ttl:
        found.append(f"ttl {other.ttl} (the stack's: {record.ttl})")
    if other.proxied != wanted.proxied:
        now, then = str(other.proxied).lower(), str(wanted.proxied).lower()
        found.append(f"proxied {now} (the stack's: {then})")
    if other.comment not in ("", wanted.comment):
        found.append(f"the comment {other.comment!r}, which may name another owner")
    if other.tags:
        found.append(f"the tags {', '.join(map(repr, other.tags))}, which may name another owner")
    return found


def _others(
    new: Mapping[str, Record], takers: Sequence[str], rest: Sequence[Found]
) -> Iterator[Obstacle]:
    """Yield what excludes or accompanies a new record. takers: new ones with none to take yet."""
    left = {key: new[key] for key in takers}
    for other in rest:
        kinds = {record.type for record in new.values() if record.name == other.name}
        if other.type in _EXCLUSIVE and kinds:
            yield Obstacle(other, f"lets no {' or '.join(sorted(kinds))} record stand beside it")
        elif other.type in kinds:
            slot = (other.name, other.type)
            taker = next((key for key, one in left.items() if (one.name, one.type) == slot), None)
            if taker is not None:
                del left[taker]
            reason = "would be answered beside the stack's own, which leads some clients there"
            yield Obstacle(other, reason, taker, refused=False)
