"""`zflist COMMAND …` as 0-hub calls it: a flist is opened in ZFLIST_MNT, changed, and committed.

Answers in JSON (ZFLIST_JSON=1). Sources: 0-flist, zflist/actions.c, actions_metadata.c, tools.c,
libflist/flist_merger.c, database_redis.c. In an image of the sandbox this is /usr/bin/zflist.
"""

import argparse
import io
import json
import os
import sqlite3
import sys
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from tests.sandbox.flist import Directory, Flist, FormatError, Inode, pack_directory
from tests.sandbox.flist.tree import Access
from tests.sandbox.services.zdb_client import ZdbClient, ZdbError

_COUNTED: Final = {"file": "regular", "link": "symlink"}
_COUNTS: Final = ("regular", "symlink", "directory", "special", "failure", "fullsize")

Answer = dict[str, Any] | list[str]


class ZflistError(Exception):
    """A command that failed; function: the part of zflist that says so."""

    def __init__(self, function: str, message: str) -> None:
        super().__init__(message)
        self.function = function


def run(arguments: Sequence[str], environ: Mapping[str, str]) -> tuple[int, str]:
    """Run one command; return its exit code and what it prints."""
    answer: dict[str, Any] = {"success": True, "error": None, "response": {}}
    code = 0
    try:
        mounted = Mounted(Path(environ["ZFLIST_MNT"]), environ.get("ZFLIST_BACKEND"))
        answer["response"] = mounted.run(arguments[0], list(arguments[1:]))
    except ZflistError as error:
        code = 1
        answer["success"] = False
        answer["error"] = {"function": error.function, "message": str(error)}
    return code, json.dumps(answer) + "\n"


class Mounted:
    """The flist that is open in a directory; backend: JSON, where chunks are put."""

    def __init__(self, directory: Path, backend: str | None) -> None:
        self._directory, self._backend = directory, backend
        self._database = directory / "flistdb.sqlite3"

    def run(self, command: str, arguments: list[str]) -> Answer:
        """Run one command and return its response."""
        commands: dict[str, Callable[..., Answer]] = {
            "init": self._init,
            "open": self._open,
            "close": self._close,
            "commit": self._commit,
            "putdir": self._putdir,
            "find": self._find,
            "check": self._check,
            "merge": self._merge,
            "metadata": self._metadata,
        }
        if command not in commands:
            raise ZflistError("zflist", f"{command}: not a command of this stand-in")
        return commands[command](*arguments)

    # -- the open flist ----------------------------------------------------------------------

    def _flist(self) -> Flist:
        """Return what is open; as with SQLite, a database that is not there is an empty one."""
        if not self._database.is_file():
            return Flist({})
        with closing(sqlite3.connect(self._database)) as database:
            found = database.execute("SELECT rowid, key, value FROM entries").fetchall()
            metadata = dict(database.execute("SELECT key, value FROM metadata").fetchall())
        entries = {key: value for _, key, value in found}
        return Flist(entries, metadata, {key: row for row, key, _ in found})

    def _save(self, flist: Flist) -> None:
        with tarfile.open(fileobj=io.BytesIO(flist.encode())) as tar:
            image = tar.extractfile(f"./{self._database.name}")
            self._database.write_bytes(b"" if image is None else image.read())

    def _free(self, function: str) -> None:
        if self._database.is_file():
            raise ZflistError(function, "mountpoint already contains an open flist")

    def _init(self) -> Answer:
        self._free("init")
        root = Access()
        self._save(Flist.of([Directory("", root.key)], {root.key: root}))
        return {}

    def _open(self, file: str) -> Answer:
        self._free("open file")
        self._save(_decoded(file))
        return {}

    def _close(self) -> Answer:
        if not self._database.is_file():
            raise ZflistError("remove", "no database opened found")
        self._database.unlink()
        return {}

    def _commit(self, file: str) -> Answer:
        target = Path(file)
        target.unlink(missing_ok=True)
        try:
            target.write_bytes(self._flist().encode())
        except OSError as error:
            raise ZflistError("commit", "could not create flist") from error
        return {}

    # -- content -----------------------------------------------------------------------------

    def _putdir(self, source: str, _: str) -> Answer:
        failed = ZflistError("putdir", "could not load local directory")
        if not any(Path(source).iterdir()):
            raise failed
        try:
            packed = pack_directory(Path(source), keep=lambda _: True)
            if self._backend is not None:
                _store(packed.chunks, json.loads(self._backend))
        except (OSError, ZdbError) as error:
            raise failed from error
        self._save(packed.flist)
        counts = _counts(packed.flist)
        # Each directory is written whenever one in it is made, and counted at every writing.
        counts["directory"] = sum(_written(directory) for directory in packed.flist.walk())
        return {name: counts[name] for name in _COUNTS}

    def _find(self) -> Answer:
        return _found(self._flist(), "find")

    def _check(self) -> Answer:
        flist = self._flist()
        if "backend" not in flist.metadata:
            reason = "backend metadata not found, could not fetch data"
            raise ZflistError("check", f"backend: {reason}")
        try:
            with _connected(json.loads(flist.metadata["backend"])) as zdb:
                found = _found(flist, "check")
                found["failure"] = sum(_lacks(zdb, inode) for inode in _inodes(flist))
        except ZdbError as error:
            raise ZflistError("check", f"backend: {error}") from error
        return found

    def _merge(self, file: str) -> Answer:
        self._save(_merged(self._flist(), _decoded(file)))
        return {}

    # -- metadata ----------------------------------------------------------------------------

    def _metadata(self, name: str = "", *values: str) -> Answer:
        flist = self._flist()
        if not name:
            return list(flist.metadata)
        if not values:
            return _shown(flist, name)
        setters = {"backend": _backend, "readme": _readme}
        value = setters[name](values) if name in setters else values[0]
        self._save(replace(flist, metadata={**flist.metadata, name: value}))
        return {}


def _decoded(file: str) -> Flist:
    try:
        return Flist.decode(Path(file).read_bytes())
    except (OSError, FormatError) as error:
        raise ZflistError("warning", f"libflist_archive_extract: {error}") from error


def _shown(flist: Flist, name: str) -> dict[str, Any]:
    if name not in flist.metadata:
        raise ZflistError("metadata", "metadata not found")
    text = flist.metadata[name]
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    return {"metadata": name, "value": value}


def _backend(values: Sequence[str]) -> str:
    parser = argparse.ArgumentParser(prog="zflist metadata backend", exit_on_error=False)
    for name in ("password", "namespace", "host"):
        parser.add_argument(f"--{name}", default=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, default=9900)
    given = vars(parser.parse_args(list(values)))
    order = [name for name in ("password", "namespace", "host", "port") if name in given]
    return json.dumps({name: given[name] for name in order})


def _readme(values: Sequence[str]) -> str:
    _, file = values  # --import FILE
    return json.dumps({"readme": Path(file).read_text("utf-8", "replace")})


# -- what a flist holds ------------------------------------------------------------------------


def _found(flist: Flist, function: str) -> dict[str, Any]:
    """Return all paths in the flist's own order, and how many there are of each kind."""
    content: list[dict[str, Any]] = []
    try:
        _list(flist, flist.directory(""), content)
    except FormatError as error:
        raise ZflistError(function, "no such root directory") from error
    counts = _counts(flist)
    return {"content": content, **{name: counts[name] for name in _COUNTS}}


def _list(flist: Flist, directory: Directory, content: list[dict[str, Any]]) -> None:
    for inode in directory.inodes:
        path = f"{directory.path}/{inode.name}".lstrip("/")
        entry: dict[str, Any] = {"size": inode.size}
        if _is_utf8(path):  # else zflist's JSON library leaves the path out
            entry["path"] = f"/{path}"
        content.append(entry)
        if inode.kind == "directory":
            _list(flist, flist.directory(path), content)


def _inodes(flist: Flist) -> Iterator[Inode]:
    for directory in flist.walk():
        yield from directory.inodes


def _lacks(zdb: ZdbClient, inode: Inode) -> bool:
    return any(not zdb.command("EXISTS", chunk.id) for chunk in inode.chunks)


def _is_utf8(path: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in path)


def _counts(flist: Flist) -> Counter[str]:
    counts: Counter[str] = Counter()
    for inode in _inodes(flist):
        counts[_COUNTED.get(inode.kind, inode.kind)] += 1
        counts["fullsize"] += inode.size if inode.kind == "file" else 0
    return counts


def _written(directory: Directory) -> int:
    """Return how many directories zflist counts in a directory of n: 1 + 2 + … + n, and n."""
    inside = sum(inode.kind == "directory" for inode in directory.inodes)
    return inside * (inside + 3) // 2


def _merged(ours: Flist, theirs: Flist) -> Flist:
    """Add what only the other flist has; where both have a name, ours stays."""
    tree = {directory.path: directory for directory in ours.walk()}
    for directory in theirs.walk():
        own = tree.get(directory.path)
        if own is None:
            continue
        known = {inode.name for inode in own.inodes}
        added = [inode for inode in directory.inodes if inode.name not in known]
        added.sort(key=lambda inode: inode.kind != "directory")
        tree[directory.path] = replace(own, inodes=(*own.inodes, *added))
        for inode in added:
            if inode.kind == "directory":
                path = f"{directory.path}/{inode.name}".lstrip("/")
                tree[path] = replace(theirs.directory(path), inodes=())
    access = {
        key: (ours if key in ours.entries else theirs).access(key)
        for directory in tree.values()
        for key in (directory.access_key, *(inode.access_key for inode in directory.inodes))
    }
    return replace(Flist.of(list(tree.values()), access), metadata=ours.metadata)


# -- 0-db --------------------------------------------------------------------------------------


def _connected(backend: Mapping[str, Any]) -> ZdbClient:
    """Connect as zflist does: a password that is given is sent, even an empty one."""
    try:
        client = ZdbClient(str(backend["host"]), int(backend["port"]))
    except ZdbError as error:
        reason = getattr(error.__cause__, "strerror", None) or error
        raise ZdbError(f"redis: connect: tcp: {reason}") from error
    namespace, password = str(backend.get("namespace") or "default"), backend.get("password")
    try:
        client.command("SELECT", namespace, *([] if password is None else [str(password)]))
    except ZdbError as error:
        client.close()
        raise ZdbError(f"{namespace}: {error}") from error
    return client


def _store(chunks: Mapping[bytes, bytes], backend: Mapping[str, Any]) -> None:
    with _connected(backend) as zdb:
        for key, payload in chunks.items():
            if not zdb.command("EXISTS", key):
                zdb.command("SET", key, payload)


if __name__ == "__main__":
    exit_code, output = run(sys.argv[1:], os.environ)
    sys.stdout.write(output)
    sys.exit(exit_code)
