"""Facts about a data root: its directories, files and agent bundles, gathered by one command."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pydantic import TypeAdapter

from sync.contract import layout
from sync.providers.base import Model, Whole
from sync.providers.host.cache import Cache
from sync.providers.host.connection import DataRootGoneError
from sync.providers.host.host import DataRoot

_TREES: Final = (layout.CONFIG, layout.SECRETS)


class OwnedPath(Model):
    """A path (relative to the data root) with the owner (gid equals uid) and mode it must have."""

    path: str
    uid: Whole
    mode: Whole


@dataclass(frozen=True)
class PathState:
    """A path on the host. kind: directory, file or other; sha256 (hex) of small files only."""

    kind: str
    uid: int
    gid: int
    mode: int
    sha256: str = ""


@dataclass(frozen=True)
class Facts:
    """Paths relative to the data root, and the problems of each agent bundle by its digest."""

    paths: Mapping[str, PathState]
    bundles: Mapping[str, tuple[str, ...]]


_ADAPTER: Final = TypeAdapter(Facts)


def _known_paths() -> list[str]:
    return sorted({directory.path for directory in layout.directories(hub_writes=False)})


def _ask(
    root: DataRoot, paths: Iterable[str], trees: tuple[str, ...] = (), agents: str = ""
) -> Facts:
    try:
        seen = root.as_root("facts", paths=sorted(paths), trees=trees, agents=agents)
        return _ADAPTER.validate_python(seen)
    except DataRootGoneError:
        return Facts({}, {})


_FACTS: Final[Cache[DataRoot, Facts]] = Cache(
    lambda root: _ask(root, _known_paths(), _TREES, layout.AGENTS)
)


def gather(root: DataRoot, paths: Iterable[str] = ()) -> Facts:
    """Look at a data root; a path that the shared facts do not show is asked for on its own.

    They show a part of what is in a folder: a service may have filled it with files of its own.
    """
    shared = _FACTS.get(root)
    further = [path for path in paths if not _is_shown(path, shared)]
    if not further:
        return shared
    return Facts({**shared.paths, **_ask(root, further).paths}, shared.bundles)


def _is_shown(path: str, shared: Facts) -> bool:
    found = shared.paths.get(path)
    if found is None:
        return path in _known_paths()  # all of these were asked for
    return found.kind != "file" or bool(found.sha256)


def drift(
    wanted: Sequence[OwnedPath],
    found: Mapping[str, PathState],
    digests: Mapping[str, str] | None = None,
) -> tuple[str, ...]:
    """Return a line for each path that is missing, changed, or owned otherwise.

    digests: of the contents by path, where files are wanted; directories otherwise.
    """
    lines = []
    for entry in wanted:
        state, wrong = found.get(entry.path), "not a directory"
        content: tuple[str, str | None] = ("directory", "")
        if digests is not None:
            content, wrong = ("file", digests.get(entry.path)), "changed on the host"
        if state is None:
            lines.append(f"{entry.path}: missing")
        elif (state.kind, state.sha256) != content:
            lines.append(f"{entry.path}: {wrong}")
        elif (state.uid, state.gid, state.mode) != (entry.uid, entry.uid, entry.mode):
            group = "" if state.gid == state.uid else f":{state.gid}"
            lines.append(
                f"{entry.path}: belongs to {state.uid}{group}, mode {state.mode:o} instead of "
                f"{entry.uid}, {entry.mode:o}"
            )
    return tuple(lines)
