"""What a hub lists: whole, repository by repository as older ones do, and the pages of tags."""

import gzip
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Final, TypeVar, cast

from sync.agent.budget import Budget, OverBudgetError
from sync.agent.hub import listing as hub
from sync.agent.hub.source import Source
from sync.agent.master.client import HttpError, HttpMissingError, Master, Page
from sync.agent.master.json_rows import JsonRows, LeftOut, read_all
from sync.agent.name_room import NameRoom
from sync.agent.status_writer import name_list
from sync.contract.spec import UsersSpec
from tests.fuzz.target import RECORDINGS, Target, promise

_LATEST: Final = 1 << 40
_LARGEST: Final = 1 << 80
_PIECE_BYTES: Final = 61
_BUDGET_BYTES: Final = 64 << 20
_SPEC: Final = {
    "stack": "fuzz",
    "sources": ["http://master.test"],
    "local_zdb": {"host": "zdb.test"},
    "sources_zdb": [{"host": "zdb.test"}],
}


_T = TypeVar("_T")


def _pieces(data: bytes) -> Iterator[bytes]:
    return (data[at : at + _PIECE_BYTES] for at in range(0, len(data), _PIECE_BYTES))


class Answering:
    """Answers every page with one body, and 404 for those that are missing."""

    source = "http://master.test"

    def __init__(self, body: bytes, missing: tuple[str, ...] = ()) -> None:
        self._body = body
        self._missing = missing

    def while_listing(self) -> nullcontext[None]:
        return nullcontext()

    def get(self, path: str, max_bytes: int, _headers: Mapping[str, str] | None = None) -> Page:
        if path in self._missing:
            raise HttpMissingError(path, retry=False)
        return Page(200, self._body[:max_bytes])

    def get_rows(
        self,
        path: str,
        max_bytes: int,
        take: Callable[[JsonRows], _T],
        _headers: Mapping[str, str] | None = None,
    ) -> tuple[Page, _T]:
        page = self.get(path, max_bytes)
        return page, read_all(_pieces(page.body), take)


def master(body: bytes, missing: tuple[str, ...] = ()) -> Master:
    """Return what stands for a master that answers so."""
    return cast("Master", Answering(body, missing))


def is_file_name(name: str, *, tag: bool = False) -> None:
    """Check that a name is safe as one component of a path."""
    promise(name and "/" not in name and "\0" not in name, f"{name!r} is no file name")
    promise(not name.startswith("."), f"{name!r} is hidden")
    promise(len(name.encode()) + (len(".tag-") if tag else 0) <= 255, f"{name!r} is too long")


def _name(name: hub.Name | hub.TagName) -> None:
    is_file_name(name.repository)
    if isinstance(name, hub.TagName):
        is_file_name(name.tag, tag=True)
        return
    is_file_name(name.name)
    if name.tag:
        is_file_name(name.tag, tag=True)


def _listing(found: hub.Listing) -> None:
    for repository in found.repositories:
        is_file_name(repository)
    for regular in found.regulars.values():
        _name(regular.name)
        promise(abs(regular.updated) <= _LATEST, f"a time of {regular.updated}")
        promise((hub.printed_bytes(regular.size_text) or 0) <= _LARGEST, "a size")
    for link in found.links.values():
        _name(link.name)
        _name(link.target)
        promise(abs(link.link_time) <= _LATEST, f"a time of {link.link_time}")
    for tag in found.tags.values():
        _name(tag.name)
        promise(abs(tag.updated) <= _LATEST, f"a time of {tag.updated}")
    name_list(found.refused).model_dump_json().encode()


_USERS: Final = UsersSpec.model_validate(_SPEC | {"job": "users"})


def _same_as_whole(data: bytes) -> None:
    """Read an array of values row by row: as a reader that takes all of it at once."""
    found = read_all(_pieces(data), lambda rows: list(rows.rows()))
    if any(isinstance(one, LeftOut) for one in found):
        return
    # A byte that is no UTF-8 is its row's fault alone.
    whole = json.loads(data.decode("utf-8", "surrogateescape"))
    promise(repr(found) == repr(whole), "rows that are not in the text")


def run(data: bytes, _scratch: Path) -> None:
    """Read as a hub's listing, an older hub's, a tag's page, or an array of any values."""
    how, data = data[:1], data[1:]
    room = NameRoom.of(Budget(_BUDGET_BYTES))
    try:
        if how == b"j":
            _same_as_whole(data)
        elif how == b"t":
            _listing(Source(master(data), _USERS).tag(hub.TagName("r", "t"), room)[1])
        else:
            missing = ("/api/fileslist",) if how == b"o" else ()
            _listing(Source(master(data, missing), _USERS).listing(room, {}))
    except (HttpError, OverBudgetError) as error:
        str(error).encode()


def seeds() -> Iterator[bytes]:
    """Return listings as the real services gave them, and rows of each type."""
    for body in recorded_json("hub"):
        yield b"u" + body
    rows = [
        {"name": "f.flist", "type": "regular", "size": "26.65 KB", "updated": 1700000000},
        {"name": "l.flist", "type": "symlink", "target": "r/f.flist", "linktime": 1.5e9},
        {"name": "t", "type": "tag", "updated": 5},
        {"name": "tl", "type": "taglink", "target": "r/tags/t", "linktime": 7},
    ]
    yield b"u" + json.dumps({"r": rows}).encode()
    yield b"o" + json.dumps([{"name": "r"}, *rows]).encode()
    yield (
        b"j" + json.dumps([1, -1.5e9, "\u00e9\U0001f600", None, True, {"a": [[]]}, 10**30]).encode()
    )
    yield b"j" + '["\u00e9", "\U0001f600"]'.encode()
    yield b"t" + json.dumps([rows[1]]).encode()


def recorded_json(service: str) -> Iterator[bytes]:
    """Yield each list or object that a recorded answer of a service has as JSON."""
    with gzip.open(RECORDINGS / f"{service}.json.gz") as file:
        yield from _recorded(json.load(file))


def _recorded(found: Any) -> Iterator[bytes]:
    if isinstance(found, dict):
        body = found.get("json")
        if isinstance(body, list | dict) and 2 < len(text := json.dumps(body).encode()) < 4096:
            yield text
    for value in found.values() if isinstance(found, dict) else found:
        if isinstance(value, dict | list):
            yield from _recorded(value)


JSON_WORDS: Final = tuple(
    rb'NaN 1e999 -Infinity "\ud800" "\u0000" "\u202e" 1e11 99999999999999999999 null [] {}'.split()
)
_WORDS: Final = (
    b'"name" "type" "regular" "symlink" "tag" "taglink" "target" "linktime" "updated" "size" '
    b"../ .flist /tags/ KB"
)
TARGET: Final = Target("listings", run, seeds, (*JSON_WORDS, *_WORDS.split()))
