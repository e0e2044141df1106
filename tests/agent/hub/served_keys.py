"""What served flists need, read from the files, against what the flists job may delete."""

import contextlib
import sqlite3
import tempfile
from pathlib import Path

from sync.agent.flist import read_flist
from sync.agent.flist.errors import FlistError
from sync.agent.job import Directories
from sync.contract.pinned_chunks import FILE, PinnedChunksReader
from tests.agent.hub.flists_of import keys_in


def served_keys(public: Path) -> dict[str, frozenset[bytes]]:
    """Return the chunk keys of each served flist that can be read, by REPO/NAME."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for path in (public / "users").glob("*/*.flist"):
            if not path.is_symlink():
                with contextlib.suppress(FlistError):
                    name = f"{path.parent.name}/{path.name}"
                    found[name] = keys_in(read_flist(path, Path(folder, "scratch")))
    return found


def pinned_keys(state: Path) -> set[bytes]:
    """Return every key of the table."""
    with contextlib.closing(sqlite3.connect(state / FILE)) as table:
        return {bytes(key) for (key,) in table.execute("SELECT key FROM chunk")}


def may_be_deleted(directories: Directories) -> dict[str, int]:
    """Return how many chunks of each served flist the flists job takes for needed by nobody.

    Nothing while the users job does not vouch for its table, as the flists job sees it.
    """
    reader = PinnedChunksReader(directories.state)
    if reader.pass_started_at() is None:
        return {}
    faults = {}
    for name, keys in served_keys(directories.public).items():
        try:
            lacking = len(keys) - len(reader.pinned(sorted(keys)))
        except sqlite3.Error:
            continue
        if lacking:
            faults[name] = lacking
    return faults
