"""Boot media of 0-bootstrap, asked for by Caddy: what is ordered, and who makes it.

0-bootstrap copies 115 MB and compiles for seconds for each request, in memory, as many at a time
as come (0-bootstrap: bootstrap.py, generic_image_generator). So nothing asks it for a medium but
this, in turn (builds.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import Final
from urllib.parse import parse_qsl, quote, unquote

from gate.builds import Builds, BusyError, Medium, Order
from gate.service import PLAIN, Origin, Request, Service

# Kind to the least and most parts that follow: MODE[/FARM[/EXTRA[/KERNEL]]].
KINDS: Final = {"iso": (1, 4), "usb": (1, 4), "uefi": (1, 4), "krn": (1, 3), "snponly": (3, 3)}
# Beside the shelf, what clients are still taking: one that takes a little at a time keeps a medium
# for an hour that the shelf let go long ago.
_MOST_SENT_BYTES: Final = 32 << 20
# Linux's own bound for a command line, which is most of a path (COMMAND_LINE_SIZE of x86).
_LONGEST_ORDER: Final = 2048
_LATER: Final = (("content-type", "text/plain"), ("retry-after", "60"))
_HOST: Final = re.compile(r"[A-Za-z0-9.:\[\]-]{1,255}")


class RefusedError(Exception):
    """What is asked for is no medium. medium: the answer."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.medium = Medium(status, PLAIN, f"{sentence}\n".encode())


def ordered(request: Request, modes: Collection[str]) -> Order:
    """Return what a request orders; raise RefusedError, as 0-bootstrap would after all its work."""
    path, _, query = request.target.partition("?")
    kind, *parts = [part for part in unquote(path).split("/") if part] or [""]
    least, most = KINDS.get(kind, (1, 0))
    if not least <= len(parts) <= most or request.method not in {"GET", "HEAD"}:
        raise RefusedError(404, "There is no such boot medium.")
    if parts[0] not in modes:
        raise RefusedError(401, "There is no such run mode.")
    host = request.headers.get("host", "").lower()
    if not _HOST.fullmatch(host):
        raise RefusedError(400, "The request names no host.")
    version = dict(reversed(parse_qsl(query, keep_blank_values=True))).get("version")
    path = "/" + "/".join(quote(part, safe="") for part in (kind, *parts))
    # What is kept is counted by its bodies; a refusal is kept too, and has next to none.
    if len(path) + len(version or "") > _LONGEST_ORDER:
        raise RefusedError(414, "No boot medium has parameters as long as these.")
    return Order(host, path, version)


class Bootstrap(Origin):
    """0-bootstrap, which builds."""

    most_bytes = 64 << 20


class Media(Service):
    """Answers Caddy's requests for boot media.

    modes: the run modes that there are. known: gives whom an address stands for, nothing where it
    may be anybody.
    """

    def __init__(
        self,
        builds: Builds,
        modes: Collection[str],
        known: Callable[[str], str],
        most_bytes: int = _MOST_SENT_BYTES,
    ) -> None:
        super().__init__(most_bytes)
        self.builds, self.modes, self._known = builds, modes, known

    async def answer(self, request: Request) -> Medium:
        """Return the medium, or why there is none."""
        try:
            order = ordered(request, self.modes)
            return await self.builds.medium(order, self._known(request.client))
        except RefusedError as refused:
            return refused.medium
        except BusyError:
            sentence = b"Too many boot media are being built: please ask again in a minute.\n"
            return Medium(503, _LATER, sentence)
