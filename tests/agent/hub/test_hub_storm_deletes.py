"""While chunks are deleted, on the master and then here: what is served never lacks one.

Flists are served that the master no longer lists (retained), whose new version cannot be read
(withheld), and whose keys no record knows, as they were there before or the record was lost
(adopted). The users job is killed and its disk fills meanwhile.
"""

import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from sync.contract import pinned_chunks
from tests.agent.hub.chunks_job import chunks_job
from tests.agent.hub.storm import Reader, World, digest
from tests.agent.hub.test_hub_storm import RESTLESS, Storm
from tests.agent.mirrors import UsersMirror, model_tree, users_mirror
from tests.sandbox.upstream import Upstream, UpstreamModel

_BROKEN: Final = b"no flist"
_PATIENCE_SECONDS: Final = 120


@dataclass
class _DeletingStorm(Storm):
    """A storm in which the master collects chunks, breaks flists, and the mirror loses records.

    collected: keys that the master deleted.
    """

    collected: set[bytes] = field(default_factory=set)

    def collect(self) -> None:
        """Let the master delete every chunk that no flist of its own names."""
        with self.world.model.lock, self.world.lock:
            listed = {digest(content) for _, content in model_tree(self.world.model).values()}
            needed = {key for one in listed for key in self.world.keys.get(one, ())}
            for key in set(self.world.model.store.default.keys()) - needed:
                self.world.model.drop_chunk(key)
                self.collected.add(key)

    def withhold(self) -> None:
        """Give a served flist a new version on the master that nobody can read."""
        self.world.break_flist(_BROKEN)

    def lose_record(self) -> None:
        """Take the job's record away, as where another mirror left the data root."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        for file in self.mirror.directories.state.glob(f"{pinned_chunks.FILE}*"):
            file.unlink()
        self.start()

    def event(self) -> None:
        kind = self.chance.choice([self.collect, self.collect, self.withhold, self.lose_record])
        self.events[kind.__name__] = self.events.get(kind.__name__, 0) + 1
        kind()
        super().event()

    def converge(self) -> bool:
        """End faults; True once all that the master has is served, and a pass of it is complete."""
        self.world.mend_flists()
        self.mirror.upstream.hub_faults.clear()
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while time.monotonic() < deadline:
            served, expected = self.mirror.served(), self.expected()
            if expected.items() <= served.items():
                return True
            time.sleep(0.1)
        return False


def _adopted(mirror: UsersMirror, world: World) -> None:
    """Let the mirror begin with flists in place that no record of it knows."""
    users = mirror.directories.public / "users"
    for name, (kind, content) in model_tree(world.model).items():
        if kind == "file" and isinstance(content, bytes):
            path = users / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            for key in world.keys[digest(content)]:
                payload = world.model.store.default.payload(key)
                assert payload is not None
                mirror.zdb.store.put(key, payload)


def storm(tmp_path: Path, events: int, seed: int) -> tuple[int, int]:
    """Rage; returns how many names were read and how many chunks were deleted here."""
    chance = random.Random(seed)
    model = UpstreamModel()
    world = World(model, chance)
    with Upstream(model) as upstream, users_mirror(tmp_path, upstream) as mirror:
        mirror.settings |= RESTLESS | {"retention_days": 1.0}
        directories = mirror.directories
        reader = Reader(world, directories.public / "users", directories.state, mirror.zdb)
        (directories.public / "users").mkdir()
        running = _DeletingStorm(mirror, world, chance)
        _adopted(mirror, world)
        with chunks_job(
            mirror, tmp_path / "chunks", delete_check_seconds=0.2, removal_limit=1
        ) as job:
            running.start()
            reader.start()
            try:
                reader.await_first_tag()
                for _ in range(events):
                    running.event()
                    reader.await_look()
                converged = running.converge()
                reader.await_look()
            finally:
                running.terminate()
                reader.stop()
            deleted = int(job.record.details.get("deleted_items", 0))
        assert reader.faults == [], f"seed {seed}, {running.events}, {reader.faults[:9]}"
        assert converged, f"seed {seed}, {running.events}"
        return reader.names_seen, deleted


def test_nothing_served_lacks_a_chunk_while_chunks_are_deleted(tmp_path: Path) -> None:
    names_seen, _ = storm(tmp_path, events=12, seed=13)
    assert names_seen > 200


@pytest.mark.soak
def test_nothing_served_lacks_a_chunk_in_a_long_storm_of_deletes(tmp_path: Path) -> None:
    seed = int(time.time())
    names_seen, deleted = storm(tmp_path, events=300, seed=seed)
    print(f"seed {seed}: {names_seen} names read, 0 wrong; {deleted} chunks deleted here")
    assert names_seen > 10_000
    assert deleted
