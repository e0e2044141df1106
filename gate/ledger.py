"""Who holds a connection, and who loses one when there are too many."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from ipaddress import IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection

# A client that has said or taken something within this time is at work, not silent.
AT_WORK_SECONDS = 1.0
# The move to the end of an address's order is due once in this time, not with each block.
_ORDER_SECONDS = 0.2


class Held(Protocol):
    """A client's connection. holder: as `holder` returns it; seen: when bytes last passed."""

    holder: str
    seen: float

    def end(self) -> None:
        """Close it at once; the ledger has forgotten it."""

    def look_at(self, now: float) -> None:
        """End it if it has had its time."""


def holder(address: str) -> str:
    """Return who an address counts as: an IPv6 subscriber has a whole /64 (RFC 6177)."""
    try:
        known = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(known, IPv6Address):
        if known.ipv4_mapped is not None:
            return str(known.ipv4_mapped)
        return str(IPv6Network((known, 64), strict=False).network_address)
    return str(known)


@dataclass
class _Holding:
    """A holder's connections, the one that was silent longest first.

    waiting: those that have not yet said anything whole. served: those that have.
    """

    waiting: OrderedDict[Held, None] = field(default_factory=OrderedDict)
    served: OrderedDict[Held, None] = field(default_factory=OrderedDict)

    def __len__(self) -> int:
        return len(self.waiting) + len(self.served)

    def given_up(self, now: float) -> Held | None:
        """Return who goes first; None where all are at work."""
        for connection in self.waiting:
            return connection
        for connection in self.served:
            return connection if now - connection.seen >= AT_WORK_SECONDS else None
        return None


class Ledger:
    """The connections that are open, by holder.

    A connection too many does not shut out who comes: one of the holder's own goes, or, where all
    together are too many, one of who holds most. Of those first one that has asked for nothing
    yet, then the one that was silent longest. So what idles, however much of it, costs the others
    nothing; and what only looks like work, a byte each second, costs those who hold most: where
    all is full they lose what is at work, too. Who has as many as anybody gets no further one
    where all are at work.

    shared: holders behind which anybody may be, such as the gateway of a network that hides
    addresses; they are bounded by the total alone.

    Each step takes the same time however many holders there are: a newcomer of a flood from as
    many addresses must not cost a look at each of them.
    """

    def __init__(self, total: int, per_holder: int, shared: Collection[str] = ()) -> None:
        self.total, self.per_holder = total, per_holder
        self._shared = frozenset(shared)
        self._held: dict[str, _Holding] = {}
        # Holders by how many connections they have; the largest of those numbers.
        self._ranks: dict[int, OrderedDict[str, None]] = {}
        self._most = 0
        # Of all holders: since when they wait; the one that was silent longest first.
        self._waiting: OrderedDict[Held, float] = OrderedDict()
        self._served: OrderedDict[Held, None] = OrderedDict()
        self.count = 0
        self.evicted = 0
        self.refused = 0

    def of(self, who: str) -> int:
        """Return how many connections a holder has."""
        return len(self._held.get(who, ()))

    @property
    def holders(self) -> int:
        """How many there are that hold a connection."""
        return len(self._held)

    def admit(self, connection: Held, now: float) -> bool:
        """Enter a connection, at another's cost if need be; False where there is no room."""
        who = connection.holder
        own_room = who in self._shared or self.of(who) < self.per_holder
        if not own_room or self.count >= self.total:
            goes = self._of_all(who, now) if own_room else self._held[who].given_up(now)
            if goes is None:
                self.refused += 1
                return False
            self.forget(goes)
            self.evicted += 1
            goes.end()
        own = self._held.setdefault(who, _Holding())
        own.waiting[connection] = None
        self._waiting[connection] = now
        self._rank(who, len(own) - 1, len(own))
        self.count += 1
        connection.seen = now
        return True

    def _of_all(self, who: str, now: float) -> Held | None:
        """Return whose connection goes for one more of `who`, where all together are too many."""
        most = self._held[next(iter(self._ranks[self._most]))]
        if most.waiting:
            return next(iter(most.waiting))
        waits, since = next(iter(self._waiting.items()), (None, now))
        if waits is not None and now - since >= AT_WORK_SECONDS:
            return waits
        # Who has just come may yet ask, but what is at work is worth more.
        goes = most.given_up(now) or waits
        if goes is None and len(most) > self.of(who) + 1:
            goes = next(iter(most.served))
        silent = next(iter(self._served), None)
        if goes is None and silent is not None and now - silent.seen >= AT_WORK_SECONDS:
            goes = silent
        return goes

    def _rank(self, who: str, before: int, after: int) -> None:
        """Take note that a holder has another number of connections than before."""
        if before:
            del self._ranks[before][who]
            if not self._ranks[before]:
                del self._ranks[before]
        if after:
            self._ranks.setdefault(after, OrderedDict())[who] = None
        self._most = max(self._most, after)
        if self._most not in self._ranks:
            self._most = after

    def serve(self, connection: Held) -> None:
        """Take note that a connection has asked for something."""
        if connection in self._waiting:
            own = self._held[connection.holder]
            del self._waiting[connection], own.waiting[connection]
            self._served[connection] = own.served[connection] = None

    def touch(self, connection: Held, now: float) -> None:
        """Take note that bytes have passed."""
        if now - connection.seen >= _ORDER_SECONDS:
            connection.seen = now
            if connection in self._served:
                self._served.move_to_end(connection)
                self._held[connection.holder].served.move_to_end(connection)

    def forget(self, connection: Held) -> None:
        """Remove a connection that has ended; one that is not known is nothing to do."""
        if not (connection in self._waiting or connection in self._served):
            return
        own = self._held[connection.holder]
        for entries in (own.waiting, own.served, self._waiting, self._served):
            entries.pop(connection, None)
        self.count -= 1
        self._rank(connection.holder, len(own) + 1, len(own))
        if not own:
            del self._held[connection.holder]

    def connections(self) -> list[Held]:
        """Return all connections."""
        return [*self._waiting, *self._served]
