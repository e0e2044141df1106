"""A master that keeps changing, a mirror that keeps being killed, and a reader that sees it all.

`World` edits the model and remembers what each name may ever be; `Reader` walks the mirror's
folder all the time and notes every name that is wrong, half, dangling, incomplete or missing.
"""

import contextlib
import errno
import hashlib
import os
import random
import sqlite3
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeAlias

from tests.agent.hub.flists_of import small
from tests.agent.mirrors import model_tree
from tests.sandbox.services.zdb import ZdbServer
from tests.sandbox.upstream import UpstreamModel
from tests.sandbox.upstream.nodes import File

REPOSITORIES = ("tf-zos", "tf-bootable", "alice")
OLD = 1_700_000_000.0

# Name and text of each link in a tag.
TagState: TypeAlias = frozenset[tuple[str, str]]


def resolvable(tree: dict[str, tuple[str, bytes | str]], tags: set[str]) -> set[str]:
    """Return the names that lead to a flist or a tag."""

    def leads(name: str) -> bool:
        for _ in range(10):
            if name in tags:
                return True
            node = tree.get(name)
            if node is None:
                return False
            if node[0] == "file":
                return True
            name = os.path.normpath(f"{Path(name).parent}/{node[1]!s}")
        return False

    return {name for name in tree if leads(name)}


class World:
    """Edits a model at random; `allowed` holds every content a name ever had, by name.

    `allowed_tags` holds every state that a tag ever had, without what led nowhere then.
    """

    def __init__(self, model: UpstreamModel, chance: random.Random) -> None:
        self.model = model
        self.lock = threading.RLock()
        self.allowed: dict[str, set[str]] = {}
        self.allowed_tags: dict[str, set[TagState]] = {}
        self.must: set[str] = set()
        self.now: set[str] = set()
        self._back_at: dict[str, float] = {}
        self.keys: dict[str, frozenset[bytes]] = {}
        self._chance = chance
        self._seed = 0
        self._clock = OLD
        self._used: set[float] = set()
        self._broken: set[tuple[str, str]] = set()
        self._editing(self._begin)

    def edit(self) -> None:
        """Make one random edit."""
        kinds = [self._add, self._change, self._change, self._delete, self._rename]
        kinds += [self._link, self._link_to_link, self._turn_into_link]
        kinds += [self._tag, self._retag, self._taglink]
        self._editing(self._chance.choice(kinds))

    def note_seen(self, name: str, pass_started_at: float) -> None:
        """From now on `name` must be there, for as long as the master has it.

        pass_started_at: of the mirror's last complete pass. A name that the master lost and got
        back counts from a pass that began after that: an older one may still rightly remove it.
        """
        with self.lock:
            if name in self.now and pass_started_at > self._back_at.get(name, 0):
                self.must.add(name)

    def break_flist(self, data: bytes) -> None:
        """Give a flist that is served a new version, which nobody can read."""
        with self.model.lock, self.lock:
            repository, name = self._pick()
            node = self.model.repositories[repository].nodes[name]
            # One that was never served would leave links to it waiting.
            if f"{repository}/{name}" in self.must and isinstance(node, File):
                self.model.put_node(repository, name, File(data, self._next_time()))
                self._broken.add((repository, name))

    def mend_flists(self) -> None:
        """Give all of those a version again that can be read."""
        with self.model.lock, self.lock:
            broken, self._broken = self._broken, set()
            for repository, name in sorted(broken):
                if name in self.model.repositories[repository].nodes:
                    self._editing(partial(self._put, repository, name))

    def _editing(self, change: Callable[[], None]) -> None:
        with self.model.lock, self.lock:
            change()
            tree = model_tree(self.model)
            tags = {
                f"{repository}/{name}"
                for repository, found in self.model.repositories.items()
                for name in found.nodes
                if name.startswith(".tag-")
            }
            before, self.now = self.now, resolvable(tree, tags)
            self._back_at |= dict.fromkeys(self.now - before, time.time())
            # Before the mirror can know: what the master lost may go.
            self.must &= self.now
            for name, (kind, content) in tree.items():
                if kind == "file" and digest(content) not in self.keys:
                    continue  # one that `break_flist` broke: it must never be served
                self.allowed.setdefault(name, set()).add(digest(content))
            for tag in tags:
                inside = {
                    (Path(name).name, str(content))
                    for name, (_, content) in tree.items()
                    if name.startswith(f"{tag}/") and name in self.now
                }
                self.allowed_tags.setdefault(tag, set()).add(frozenset(inside))

    def _begin(self) -> None:
        for repository in REPOSITORIES:
            for number in range(4):
                self._put(repository, f"f{number}.flist")
            self.model.set_link(repository, "l0.flist", "f0.flist")
            self.model.set_tag(repository, "t0", {"n0.flist": f"{repository}/f1.flist"})
            self.model.set_taglink(repository, "latest", repository, "t0")

    def _next_time(self) -> float:
        self._clock += self._chance.choice([-100, 1, 1, 100])
        while self._clock in self._used:  # contents of one time are told apart by nothing listed
            self._clock += 1
        self._used.add(self._clock)
        return self._clock

    def _put(self, repository: str, name: str) -> None:
        self._seed += 1
        packed = small(self._seed % 60, files=2, file_bytes=3000)
        data = self.model.add_flist(repository, name, packed, self._next_time())
        self.keys[digest(data)] = frozenset(packed.chunks)

    def _pick(self) -> tuple[str, str]:
        repository = self._chance.choice(REPOSITORIES)
        nodes = self.model.repositories[repository].nodes
        flists = sorted(name for name in nodes if name.startswith(("f", "new")))
        return repository, self._chance.choice(flists)

    def _spare(self, repository: str) -> bool:
        """Tell whether a repository can do with a flist less."""
        nodes = self.model.repositories[repository].nodes
        return sum(name.startswith(("f", "new")) for name in nodes) > 2

    def _add(self) -> None:
        self._put(self._chance.choice(REPOSITORIES), f"new{self._chance.randrange(9)}.flist")

    def _change(self) -> None:
        self._put(*self._pick())

    def _delete(self) -> None:
        repository, name = self._pick()
        if self._spare(repository):
            self.model.delete_flist(repository, name)

    def _rename(self) -> None:
        repository, name = self._pick()
        if self._spare(repository) and (repository, name) not in self._broken:
            self.model.rename_flist(repository, name, f"new{self._chance.randrange(9)}.flist")

    def _link(self) -> None:
        repository, name = self._pick()
        source = self._chance.choice(REPOSITORIES)
        target = name if source == repository else f"{repository}/{name}"
        self.model.set_link(source, f"l{self._chance.randrange(3)}.flist", target)

    def _link_to_link(self) -> None:
        source, repository = self._chance.choices(REPOSITORIES, k=2)
        name = f"l{self._chance.randrange(3)}.flist"
        target = name if source == repository else f"{repository}/{name}"
        self.model.set_link(source, f"l{self._chance.randrange(3, 6)}.flist", target)

    def _turn_into_link(self) -> None:
        """Let a flist become a link to another that stays a flist."""
        repository, name = self._pick()
        if self._spare(repository) and name != "f0.flist":
            self._put(repository, "f0.flist")
            self.model.set_link(repository, name, "f0.flist")

    def _tag(self) -> None:
        repository, name = self._pick()
        links = {f"n{n}.flist": f"{repository}/{name}" for n in range(self._chance.randrange(1, 4))}
        self.model.set_tag(repository, f"t{self._chance.randrange(3)}", links)

    def _retag(self) -> None:
        repository, name = self._pick()
        self.model.retarget_tag(repository, "t0", "n0.flist", f"{repository}/{name}")

    def _taglink(self) -> None:
        repository, target = self._chance.sample(REPOSITORIES, 2)
        self.model.set_taglink(repository, "latest", target, "t0")


def digest(content: bytes | str) -> str:
    """Return a short name for a flist's bytes or a link's text."""
    data = content if isinstance(content, bytes) else f"-> {content}".encode()
    return hashlib.md5(data).hexdigest()


def read_itself(path: Path) -> bytes | str:
    """Return a file's bytes or a link's text: whichever is there, and never what a link leads to.

    Between a look at its kind and another the one may have taken the other's place.
    """
    while True:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
        else:
            with os.fdopen(descriptor, "rb") as file:
                return file.read()
        try:
            return str(path.readlink())
        except OSError as error:
            if error.errno != errno.EINVAL:  # a file by now
                raise


class Reader:
    """Reads the mirror's folder all the time; `faults` says what it should never have seen."""

    def __init__(self, world: World, users: Path, state: Path, zdb: ZdbServer) -> None:
        self._world = world
        self._state = state
        self._users = users
        self._zdb = zdb
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reader")
        self.faults: list[str] = []
        self.names_seen = 0
        self.tags_seen = 0
        self._walked = threading.Event()
        self._tag_seen = threading.Event()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.005):
            self.walk()
            self._walked.set()

    def await_look(self, seconds: float = 30) -> None:
        """Wait until every name was looked at since now, so that a slow machine sees as much."""
        for _ in range(2):  # the first may have begun before
            self._walked.clear()
            assert self._walked.wait(seconds), "the reader does not read"

    def await_first_tag(self, seconds: float = 60) -> None:
        """Wait until the mirror serves something: on a slow machine kills would come before."""
        assert self._tag_seen.wait(seconds), "nothing is served"

    def walk(self) -> None:
        """Look at every name once."""
        pass_started_at = self._pass_started_at()
        with self._world.lock:
            must = set(self._world.must)
        found = set()
        for name in self._names():
            if self._look(name):
                found.add(name)
        for tag in sorted(self._users.glob("*/.tag-*")):
            self._look_at_tag(tag)
        for name in must - found:
            if not self._look(name):
                self._fault(name, "missing", unless_lost=True)
        for name in found:
            self._world.note_seen(name, pass_started_at)

    def _pass_started_at(self) -> float:
        """Read when the mirror's last complete pass began, as the flists job does."""
        path = self._state / "published.sqlite"
        try:
            with contextlib.closing(
                sqlite3.connect(f"file:{path}?mode=ro", 0, uri=True)
            ) as database:
                query = "SELECT value FROM meta WHERE name='pass_started_at'"
                row = database.execute(query).fetchone()
        except sqlite3.Error:
            return 0.0
        return float(row[0]) if row else 0.0

    def _names(self) -> list[str]:
        names = []
        for folder, folders, files in os.walk(self._users):
            names += [
                os.path.relpath(f"{folder}/{name}", self._users)
                for name in [*folders, *files]
                if not Path(folder, name).is_dir() or Path(folder, name).is_symlink()
            ]
        return names

    def _look(self, name: str) -> bool:
        """Check one name; False if it is not there."""
        path = self._users / name
        try:
            content = read_itself(path)
        except OSError:
            return False
        self.names_seen += 1
        with self._world.lock:
            allowed = self._world.allowed.get(name, set())
            keys = self._world.keys.get(digest(content), frozenset())
        if digest(content) not in allowed:
            self._fault(name, f"wrong or half: {content[:60]!r}")
        if isinstance(content, str):
            self._look_through(name, path, content)
        elif missing := [key for key in keys if self._zdb.store.default.payload(key) is None]:
            # Between the two looks it may have gone, and then its chunks.
            with contextlib.suppress(OSError):
                if read_itself(path) == content:
                    self._fault(name, f"served without {len(missing)} of its chunks")
        return True

    def _look_at_tag(self, folder: Path) -> None:
        """Check that a tag is in a state that it had as a whole: as a hub reads it.

        Two looks that met two states, which the folder's number tells, are none.
        """
        try:
            number = folder.stat().st_ino
            state = frozenset((path.name, str(path.readlink())) for path in folder.iterdir())
            if folder.stat().st_ino != number:
                return
        except OSError:
            return
        self.tags_seen += 1
        self._tag_seen.set()
        name = os.path.relpath(folder, self._users)
        with self._world.lock:
            allowed = state in self._world.allowed_tags.get(name, set())
        if not allowed:
            self._fault(name, f"a state that it never had: {sorted(state)}")

    def _look_through(self, name: str, path: Path, text: str) -> None:
        if path.exists():
            return
        # Between the two looks the link may have moved on, or gone.
        with contextlib.suppress(OSError):
            if str(path.readlink()) == text and not path.exists() and path.is_symlink():
                self._fault(name, f"dangles: {text}")

    def _fault(self, name: str, what: str, *, unless_lost: bool = False) -> None:
        with self._world.lock:
            if unless_lost and name not in self._world.must:
                return
        self.faults.append(f"{name}: {what}")
