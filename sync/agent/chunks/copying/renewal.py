"""Connections that may have been forgotten on the way: a second one, and which of the two is used.

NAT and firewalls drop a connection that was idle, and swallow what is sent on it from then on. A
channel that rested and hears nothing of its next requests gets another connection, on which they
are asked again; nothing that a channel asks changes anything the second time.
"""

import threading
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

    def ready(self, channel: Channel, now: float) -> Connected | None:
        """Return the connection that is to take the place of a channel's, once there is one."""
        second = self._opening.get(channel)
        if not channel.is_forgotten(now):
            if second is not None:
                _abandon(self._opening.pop(channel))
            return None
        if second is None:
            opening = channel.opening
            if opening is not None and (boot := self.boots.get(opening.role, "")):
                self._opening[channel] = _begin(opening, boot)
            return None
        # One that failed is not tried again: that the server is silent is said by the time-out.
        if not second.done() or second.exception() is not None:
            return None
        return self._opening.pop(channel).result()

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


def _abandon(second: Future[Connected]) -> None:
    def close(done: Future[Connected]) -> None:
        if done.exception() is None:
            done.result().socket.close()

    second.add_done_callback(close)
