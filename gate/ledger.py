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
    yet, then the one that was silent longest. Only who has none of either gets no further one. So
    what idles, however much of it, costs the others nothing.

    shared: holders behind which anybody may be, such as the gateway of a network that hides
    addresses; they are bounded by the total alone.
    """

    def __init__(self, total: int, per_holder: int, shared: Collection[str] = ()) -> None:
        self.total, self.per_holder = total, per_holder
        self._shared = frozenset(shared)
        self._held: dict[str, _Holding] = {}
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
        crowded = self._crowded(who)
        if crowded is not None and not self._make_room(crowded, now):
            self.refused += 1
            return False
        self._held.setdefault(who, _Holding()).waiting[connection] = None
        self.count += 1
        connection.seen = now
        return True

    def _crowded(self, who: str) -> str | None:
        """Return whose connection must go before `who` gets one more."""
        if who not in self._shared and self.of(who) >= self.per_holder:
            return who
        if self.count >= self.total:
            return max(self._held, key=self.of)
        return None

    def _make_room(self, who: str, now: float) -> bool:
        goes = self._held[who].given_up(now)
        if goes is None:
            return False
        self.forget(goes)
        self.evicted += 1
        goes.end()
        return True

    def serve(self, connection: Held) -> None:
        """Take note that a connection has asked for something."""
        own = self._held.get(connection.holder)
        if own is not None and connection in own.waiting:
            del own.waiting[connection]
            own.served[connection] = None

    def touch(self, connection: Held, now: float) -> None:
        """Take note that bytes have passed."""
        if now - connection.seen >= _ORDER_SECONDS:
            connection.seen = now
            own = self._held.get(connection.holder)
            if own is not None and connection in own.served:
                own.served.move_to_end(connection)

    def forget(self, connection: Held) -> None:
        """Remove a connection that has ended; one that is not known is nothing to do."""
        own = self._held.get(connection.holder)
        if own is None or not (connection in own.waiting or connection in own.served):
            return
        own.waiting.pop(connection, None)
        own.served.pop(connection, None)
        self.count -= 1
        if not own:
            del self._held[connection.holder]

    def connections(self) -> list[Held]:
        """Return all connections."""
        return [one for own in self._held.values() for one in (*own.waiting, *own.served)]
