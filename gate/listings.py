"""The hub's lists of all there is, asked for by Caddy: one is made at a time for all who wait.

0-hub makes them in memory for each request (src/flist-uploader.py: api_list, api_fileslist), 60 MB
for 100,000 flists, and holds one until its client has taken the last byte. As many as one address
may ask for, or a few that are taken slowly, would have all of its memory. Here who comes waits for
the next one, so that no answer is older than its question, and what is being taken is held packed.
"""

from __future__ import annotations

from typing import Final

from gate.builds import Builds, Medium, Order, Shelf
from gate.service import PLAIN, Origin, Request, Service

PATHS: Final = ("/api/flist", "/api/fileslist")
_MOST_SENT_BYTES: Final = 16 << 20


class Hub(Origin):
    """0-hub, which lists."""

    packs = True
    most_bytes = 512 << 20


class Listings(Service):
    """Answers Caddy's requests for the lists of all there is."""

    def __init__(self, hub: Hub, most_bytes: int = _MOST_SENT_BYTES) -> None:
        super().__init__(most_bytes)
        # A list of its own for each, as what nodes ask for first must not wait for the other one.
        self._made = {
            path: Builds(
                hub.build,
                at_once=1,
                most_waiting=1,
                per_client=1,
                shelf=Shelf(0),
                joins_begun=False,
            )
            for path in PATHS
        }

    async def answer(self, request: Request) -> Medium:
        """Return the list that a request is about."""
        parts = request.target.partition("?")[0].split("/")
        path = "/" + "/".join(part for part in parts if part)
        if path not in self._made or request.method not in {"GET", "HEAD"}:
            return Medium(404, PLAIN, b"There is no such list.\n")
        return await self._made[path].medium(Order("hub", path), "")
