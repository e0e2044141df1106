"""The clocks of a master and of the mirror's host, as a test sets them."""

import email.utils
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest

from sync.agent import clocks
from tests.sandbox.services.http import Connection, HttpServer, Request, Response

DAY = 86_400.0
YEAR = 365 * DAY
# By how much the master's clock and the one here may be wrong, when they disagree.
JUMPS = {
    "here 15 years ahead": (0.0, 15 * YEAR),
    "here at the beginning of time": (0.0, -20 * YEAR),
    "here two days ahead": (0.0, 2 * DAY),
    "here two days behind": (0.0, -2 * DAY),
    "the master's 15 years ahead": (15 * YEAR, 0.0),
    "the master's 15 years behind": (-15 * YEAR, 0.0),
    "each into its own direction": (YEAR, -YEAR),
}


@dataclass
class TwoClocks:
    """master, here: unix seconds; of the master None: it does not say the time."""

    master: float | None
    here: float

    def set(self, seconds: float, wrong: tuple[float, float] = (0.0, 0.0)) -> None:
        """Set both to a time, or to how much they are wrong about it."""
        self.master, self.here = seconds + wrong[0], seconds + wrong[1]


def two_clocks(server: HttpServer, monkeypatch: pytest.MonkeyPatch, seconds: float) -> TwoClocks:
    """Return the clocks of a master's server and of this host, both at that time."""
    made = TwoClocks(seconds, seconds)
    inner = server.deliver

    def deliver(connection: Connection, request: Request, response: Response) -> bool:
        said = "" if made.master is None else email.utils.formatdate(made.master, usegmt=True)
        dated = replace(response, headers=response.headers | {"Date": said})
        return bool(inner(connection, request, dated))

    server.deliver = deliver
    monkeypatch.setattr(clocks, "time", SimpleNamespace(time=lambda: made.here))
    return made
