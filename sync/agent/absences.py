"""Whether what a listing lacks is gone: the master is asked for the names themselves.

A listing has no digest. One byte that a proxy, a disk or a bug turned over can rename an entry or a
whole repository in it, and nothing else would tell that from a removal.
"""

import random
from collections.abc import Callable, Collection, Hashable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Generic, TypeVar

from sync.agent.master.client import HttpError, HttpMissingError, HttpStoppedError, Master

# Of more names than these a sample is asked for.
_ASKED: Final = 64
_UNASKED: Final = "not listed any more, beside others that may be there still"
_AnyName = TypeVar("_AnyName", bound=Hashable)


class Absences(Generic[_AnyName]):
    """Asks, and remembers what is gone for as long as it stays so.

    path_of: what the master answers with 404 once a name is gone.
    """

    def __init__(
        self, master: Master, connections: int, path_of: Callable[[_AnyName], str]
    ) -> None:
        self._master = master
        self._connections = connections
        self._path_of = path_of
        self._gone: set[_AnyName] = set()

    def doubted(self, absent: Collection[_AnyName]) -> dict[_AnyName, str]:
        """Return those of the absent names that may still be there, each with the reason.

        Where some of a sample may, nobody vouches for the rest.
        """
        self._gone &= set(absent)
        unknown = [name for name in absent if name not in self._gone]
        asked = random.sample(unknown, min(_ASKED, len(unknown)))
        doubts: dict[_AnyName, str] = {}
        if asked:
            with ThreadPoolExecutor(min(self._connections, len(asked))) as pool:
                answers = zip(asked, pool.map(self._doubt, asked), strict=True)
                doubts = {name: doubt for name, doubt in answers if doubt}
        if doubts:
            doubts |= dict.fromkeys(set(unknown).difference(asked), _UNASKED)
        self._gone.update(name for name in unknown if name not in doubts)
        return doubts

    def _doubt(self, name: _AnyName) -> str:
        try:
            self._master.head(self._path_of(name))
        except HttpMissingError:
            return ""
        except HttpStoppedError:
            raise
        except HttpError as error:
            return f"not listed any more; whether it is gone is not known: {error}"
        return "not listed any more, but still served by the master"
