"""The state of the directories, files and agent bundles of a data root, in one look."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sync.contract import layout
from sync.providers.host.cache import Once
from sync.providers.host.connection import HostConnection
from sync.providers.host.host import DataRootGoneError, Host, connect

_TREES: Final = (layout.CONFIG, layout.SECRETS)


@dataclass(frozen=True)
class PathState:
    """A path on the host. kind: directory, file or other; sha256 (hex) of small files only."""

    kind: str
    uid: int
    gid: int
    mode: int
    sha256: str = ""


@dataclass(frozen=True)
class Survey:
    """Paths relative to the data root, and the problems of each agent bundle by its digest."""

    paths: Mapping[str, PathState]
    bundles: Mapping[str, tuple[str, ...]]
    root_exists: bool = True


@dataclass(frozen=True)
class _Place:
    connection: HostConnection
    root: str


def _known_paths() -> list[str]:
    return sorted({directory.path for directory in layout.directories(hub_writes=False)})


def _ask(host: Host, root: str, paths: Iterable[str]) -> Survey:
    request = {"paths": sorted(paths), "trees": list(_TREES), "agents": layout.AGENTS}
    try:
        answer: dict[str, Any] = host.as_root("survey", root, request)
    except DataRootGoneError:
        return Survey({}, {}, root_exists=False)
    paths_found = {path: PathState(**state) for path, state in answer["paths"].items()}
    bundles = {digest: tuple(problems) for digest, problems in answer["bundles"].items()}
    return Survey(paths_found, bundles)


def _fetch(place: _Place) -> Survey:
    return _ask(_HOSTS[place.connection], place.root, _known_paths())


_HOSTS: Final[dict[HostConnection, Host]] = {}
_SURVEYS: Final[Once[_Place, Survey]] = Once(_fetch)


def survey(props: Mapping[str, Any], paths: Iterable[str] = ()) -> Survey:
    """Look at a data root; a path that the common look does not cover is asked for on its own.

    props: a resource's inputs or outputs with `host` and `root`.
    """
    host = connect(props["host"])
    _HOSTS[host.connection] = host
    found = _SURVEYS.get(_Place(host.connection, props["root"]))
    covered = (*_known_paths(),)
    further = [
        path
        for path in paths
        if path not in covered and not any(path.startswith(f"{tree}/") for tree in _TREES)
    ]
    if not further or not found.root_exists:
        return found
    more = _ask(host, props["root"], further)
    return Survey({**found.paths, **more.paths}, found.bundles)


def forget() -> None:
    """Drop what was seen: call it after every change on the host."""
    _SURVEYS.forget()
