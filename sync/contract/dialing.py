"""TCP connections to a name by any of its addresses: raced, and the bad ones remembered.

Both families are tried at nearly the same time (RFC 8305), so that an address that leads nowhere
costs a quarter of a second, once. One that accepts and then says nothing is found out by who talks:
after `fell_silent` the others come first, and with small segments, as what passes no large packets
and loses the word of it (RFC 2923, 2.1) looks the same.
"""

import contextlib
import errno
import ipaddress
import os
import queue
import selectors
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Any, Final, TypeAlias

# RFC 8305, 5: Connection Attempt Delay.
ATTEMPT_SECONDS: Final = 0.25
# For how long an address comes after the others, and gets small segments.
_SHUNNED_SECONDS: Final = 600.0
_NARROW_SECONDS: Final = 86_400.0
# 1280 bytes pass every IPv6 link (RFC 8200, 5), less the headers and TCP's options.
_NARROW_BYTES: Final = 1200
# NAT and firewalls forget a connection that was idle for a minute at the soonest (in clouds 240 to
# 350 s; RFC 5382, REQ-5, asks for two hours): a probe comes before.
_KEEPALIVE: Final = (("TCP_KEEPIDLE", 25), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))
# A resolver that has no answer for now is asked again after these.
_ASK_AGAIN_SECONDS: Final = (0.5, 1.0)
# For how long a resolver that failed is not asked for a name whose addresses are known.
_TRUSTED_SECONDS: Final = 60.0

_Address: TypeAlias = tuple[socket.AddressFamily, tuple[Any, ...]]
_Place: TypeAlias = tuple[str, int]

_lock: Final = threading.Lock()
# When (monotonic) an address did not do, though another did or it had accepted.
_bad_at: Final[dict[_Place, float]] = {}
_silent_at: Final[dict[_Place, float]] = {}


@dataclass
class _Known:
    """The last addresses of a name; trusted_until (monotonic): without asking the resolver."""

    addresses: list[_Address]
    trusted_until: float = 0.0


_known: Final[dict[_Place, _Known]] = {}


def dial(host: str, port: int, timeout_seconds: float) -> socket.socket:
    """Connect, within timeout_seconds over all addresses, by the first of them that accepts.

    The socket has that time-out, sends without delay and keeps itself alive. Raises OSError: one
    address' own, or one that names what each said; socket.gaierror where the name has none.
    """
    deadline = time.monotonic() + timeout_seconds
    connected = _Race(_in_turn(_addresses(host, port, deadline)), deadline, timeout_seconds).run()
    connected.settimeout(timeout_seconds)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    keep_alive(connected)
    return connected


def keep_alive(connected: socket.socket) -> None:
    """Have the system probe an idle connection: NAT goes on knowing it, and a dead one ends."""
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE:
        if (option := getattr(socket, name, None)) is not None:  # macOS has not all of them
            connected.setsockopt(socket.IPPROTO_TCP, option, value)


def fell_silent(connected: socket.socket) -> None:
    """Note that who was dialled accepted and then did not answer in time."""
    with contextlib.suppress(OSError):  # gone meanwhile
        fell_silent_at(connected.getpeername())


def fell_silent_at(peer: tuple[Any, ...]) -> None:
    """Note the same of the address (as of getpeername) of a socket that is closed by now."""
    place = peer[0], peer[1]
    with _lock:
        _bad_at[place] = _silent_at[place] = time.monotonic()


def bad_addresses(host: str, port: int) -> list[str]:
    """Return those addresses of a name that lately did not do, though another one did."""
    known = _known.get((host, port))
    places = {_place(address) for address in known.addresses} if known else set()
    oldest = time.monotonic() - _SHUNNED_SECONDS
    with _lock:
        return sorted(place[0] for place in places if _bad_at.get(place, oldest) > oldest)


def forget() -> None:
    """Forget all that was seen of addresses."""
    with _lock:
        _bad_at.clear()
        _silent_at.clear()
        _known.clear()


def _addresses(host: str, port: int, deadline: float) -> list[_Address]:
    """Resolve a name; a resolver that fails for a while is not the end of a name known before."""
    with contextlib.suppress(socket.gaierror, UnicodeError):
        return _asked(host, port, socket.AI_NUMERICHOST)
    known = _known.get((host, port))
    if known is None:
        return _resolved(host, port, deadline)
    now = time.monotonic()
    if now < known.trusted_until:
        return known.addresses
    try:
        # Not all the time: some of it is needed to connect.
        return _resolved_once(host, port, now + (deadline - now) / 2)
    except socket.gaierror as error:
        if error.errno != socket.EAI_AGAIN:
            raise
        known.trusted_until = time.monotonic() + _TRUSTED_SECONDS
        return known.addresses


def _resolved(host: str, port: int, deadline: float) -> list[_Address]:
    for pause in _ASK_AGAIN_SECONDS:
        try:
            return _resolved_once(host, port, deadline)
        except socket.gaierror as error:
            if error.errno != socket.EAI_AGAIN or time.monotonic() + 2 * pause >= deadline:
                raise
            time.sleep(pause)
    return _resolved_once(host, port, deadline)


def _resolved_once(host: str, port: int, deadline: float) -> list[_Address]:
    """Ask the system's resolver, which has time-outs of its own, but not for longer than ours."""
    answers: queue.SimpleQueue[list[_Address] | Exception] = queue.SimpleQueue()

    def ask() -> None:
        try:
            found = _asked(host, port)
        except (OSError, UnicodeError) as error:
            answers.put(error)
        else:
            _known[host, port] = _Known(found)
            answers.put(found)

    threading.Thread(target=ask, name="resolver", daemon=True).start()
    try:
        answer = answers.get(timeout=max(0.0, deadline - time.monotonic()))
    except queue.Empty:
        raise socket.gaierror(socket.EAI_AGAIN, "the resolver does not answer") from None
    if isinstance(answer, UnicodeError):
        raise socket.gaierror(socket.EAI_NONAME, "no name that DNS could have") from answer
    if isinstance(answer, Exception):
        raise answer
    return answer


def _asked(host: str, port: int, flags: int = 0) -> list[_Address]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    return [(entry[0], entry[4]) for entry in found]


def _in_turn(found: Sequence[_Address]) -> list[_Address]:
    """Order addresses: families in turn (RFC 8305, 4), and last what did not do lately."""
    first = [address for address in found if address[0] == found[0][0]]
    others = [address for address in found if address[0] != found[0][0]]
    pairs = chain.from_iterable(zip_longest(first, others))
    oldest = time.monotonic() - _SHUNNED_SECONDS

    def when_bad(address: _Address) -> float:
        return max(oldest, _bad_at.get(_place(address), oldest))

    with _lock:
        return sorted((address for address in pairs if address), key=when_bad)


def _place(address: _Address) -> _Place:
    return address[1][0], address[1][1]


class _Race:
    """Attempts to connect, each begun a little after the one before it or as soon as that failed.

    The first that accepts wins; what was begun before it and did not do is shunned for a while.
    """

    def __init__(
        self, addresses: Sequence[_Address], deadline: float, timeout_seconds: float
    ) -> None:
        self._waiting = list(addresses)
        self._several = len(addresses) > 1
        self._deadline = deadline
        self._timeout_seconds = timeout_seconds
        self._running: dict[socket.socket, tuple[_Address, float]] = {}
        self._failed: list[tuple[_Address, OSError]] = []
        self._next_at = 0.0
        self._selector = selectors.DefaultSelector()

    def run(self) -> socket.socket:
        """Return the winner. Raises OSError."""
        try:
            while (winner := self._accepted()) is None:
                now = time.monotonic()
                if now >= self._deadline or not (self._running or self._waiting):
                    raise self._failure()
                if self._waiting and (now >= self._next_at or not self._running):
                    self._begin(self._waiting.pop(0))
            return winner
        finally:
            for connecting in self._running:
                connecting.close()
            self._selector.close()

    def _begin(self, address: _Address) -> None:
        self._next_at = time.monotonic() + ATTEMPT_SECONDS
        try:
            connecting = socket.socket(address[0], socket.SOCK_STREAM)
        except OSError as error:
            self._failed.append((address, error))
            return
        connecting.setblocking(False)
        if _is_narrow(_place(address)):
            with contextlib.suppress(OSError):
                connecting.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, _NARROW_BYTES)
        number = connecting.connect_ex(address[1])
        if number not in {0, errno.EINPROGRESS}:
            connecting.close()
            self._failed.append((address, OSError(number, os.strerror(number))))
            return
        self._running[connecting] = address, time.monotonic()
        self._selector.register(connecting, selectors.EVENT_WRITE)

    def _accepted(self) -> socket.socket | None:
        """Wait for the next event; returns the socket that is connected, if one is."""
        if not self._running:
            return None
        until = min(self._deadline, self._next_at) if self._waiting else self._deadline
        for key, _ in self._selector.select(max(0.0, until - time.monotonic())):
            connecting = next(one for one in self._running if one is key.fileobj)
            self._selector.unregister(connecting)
            address, began = self._running.pop(connecting)
            if number := connecting.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                connecting.close()
                self._failed.append((address, OSError(number, os.strerror(number))))
                self._next_at = 0.0
                continue
            self._shun(began)
            return connecting
        return None

    def _shun(self, winner_began: float) -> None:
        now = time.monotonic()
        slower = [one for one, began in self._running.values() if began < winner_began]
        with _lock:
            for address in (*slower, *(one for one, _ in self._failed)):
                _bad_at[_place(address)] = now

    def _failure(self) -> OSError:
        """Return what one address met, or all that they met."""
        late = f"no connection in {self._timeout_seconds:g} s"
        timed_out = [
            (address, TimeoutError(errno.ETIMEDOUT, late))
            for address in (*(one for one, _ in self._running.values()), *self._waiting)
        ]
        met = [*self._failed, *timed_out]
        error = met[-1][1]
        if not self._several:
            return error
        each = "; ".join(f"{address[1][0]}: {met_by.strerror}" for address, met_by in met)
        return OSError(error.errno, each)


def _is_narrow(place: _Place) -> bool:
    at = _silent_at.get(place)
    if at is None or time.monotonic() - at > _NARROW_SECONDS:
        return False
    return not ipaddress.ip_address(place[0].partition("%")[0]).is_loopback
