"""Whether what a listing lacks is gone: the master is asked for the names themselves.

A listing has no digest. One byte that a proxy, a disk or a bug turned over can rename a flist, a
tag's link or a whole repository in it, and nothing else would tell that from a removal.
"""

import random
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Final
from urllib.parse import quote

from sync.agent.http import HttpError, HttpMissingError, HttpStoppedError, Master
from sync.agent.users.listing import Name
from sync.contract.names import FLIST_SUFFIX

# Of more names than these a sample is asked for.
_ASKED: Final = 64
_UNASKED: Final = "not listed any more, beside others that may be there still"


def page_path(name: Name) -> str:
    """Return what a hub answers with 404 once `name` is gone."""
    repository, last = quote(name.repository), quote(name.name)
    if name.tag:
        return f"/{repository}/tags/{quote(name.tag)}/{last}"
    if name.name.endswith(FLIST_SUFFIX):
        return f"/{repository}/{last}"
    return f"/api/flist/{repository}/{last}/taglink"


class Absences:
    """Asks, and remembers what is gone for as long as it stays so."""

    def __init__(self, master: Master, connections: int) -> None:
        self._master = master
        self._connections = connections
        self._gone: set[Name] = set()

    def doubted(self, absent: Collection[Name]) -> dict[Name, str]:
        """Return those of the absent names that may still be there, each with the reason.

        Where some of a sample may, nobody vouches for the rest.
        """
        self._gone &= set(absent)
        unknown = [name for name in absent if name not in self._gone]
        asked = random.sample(unknown, min(_ASKED, len(unknown)))
        doubts: dict[Name, str] = {}
        if asked:
            with ThreadPoolExecutor(min(self._connections, len(asked))) as pool:
                answers = zip(asked, pool.map(self._doubt, asked), strict=True)
                doubts = {name: doubt for name, doubt in answers if doubt}
        if doubts:
            doubts |= dict.fromkeys(set(unknown).difference(asked), _UNASKED)
        self._gone.update(name for name in unknown if name not in doubts)
        return doubts

    def _doubt(self, name: Name) -> str:
        try:
            self._master.head(page_path(name))
        except HttpMissingError:
            return ""
        except HttpStoppedError:
            raise
        except HttpError as error:
            return f"not listed any more; whether it is gone is not known: {error}"
        return "not listed any more, but still served by the master"
