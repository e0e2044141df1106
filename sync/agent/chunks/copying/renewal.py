"""Connections that may have been forgotten on the way: a second one, and which of the two is used.

NAT and firewalls drop a connection that was idle, and swallow what is sent on it from then on. A
channel that rested and hears nothing of its next requests gets another connection, on which they
are asked again; nothing that a channel asks changes anything the second time.
"""

import threading
from collections.abc import Sequence
from concurrent.futures import Future

from sync.agent.chunks.copying.channel import Channel, Connected, Opening
from sync.agent.zdb.errors import ZdbError


class Renewals:
    """The second connections of a copy loop's channels; for one thread.

    boots: by role (master, slave), which start of which server the session is with, as far as that
    is known. Only the same one is connected to again: another one has to be met by a new session.
    """

    def __init__(self) -> None:
        self.boots: dict[str, str] = {}
        self._opening: dict[Channel, Future[Connected]] = {}

    def ready(self, suspects: Sequence[Channel], now: float) -> list[tuple[Channel, Connected]]:
        """Return channels with the connections that are to take the place of theirs.

        suspects: those that asked since they rested and heard nothing yet.
        """
        forgotten = [channel for channel in suspects if channel.is_forgotten(now)]
        for channel in self._opening.keys() - forgotten:
            _abandon(self._opening.pop(channel))
        for channel in forgotten:
            opening = channel.opening
            boot = self.boots.get(opening.role, "") if opening else ""
            if opening is not None and boot and channel not in self._opening:
                self._opening[channel] = _begin(opening, boot)
        # One that failed is not tried again: that the server is silent is said by the time-out.
        opened = [one for one, second in self._opening.items() if _is_open(second)]
        return [(channel, self._opening.pop(channel).result()) for channel in opened]

    def close(self) -> None:
        """Give up what is being opened."""
        for second in self._opening.values():
            _abandon(second)
        self._opening.clear()


def _begin(opening: Opening, boot: str) -> Future[Connected]:
    """Connect on a thread that nobody has to wait for."""
    second: Future[Connected] = Future()

    def connect() -> None:
        try:
            second.set_result(opening.connect(boot))
        except ZdbError as error:
            second.set_exception(error)

    threading.Thread(target=connect, name="renewal", daemon=True).start()
    return second


def _is_open(second: Future[Connected]) -> bool:
    return second.done() and second.exception() is None


def _abandon(second: Future[Connected]) -> None:
    def close(done: Future[Connected]) -> None:
        if done.exception() is None:
            done.result().socket.close()

    second.add_done_callback(close)
