"""Both jobs together: the master deletes the chunks of a flist that is served here and stays."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sync.contract.status import StatusRecord
from tests.agent.hub.chunks_job import chunks_job
from tests.agent.hub.flists_of import small
from tests.agent.hub.small_hub import small_model
from tests.agent.hub.test_hub_keys import (
    SHOP,
    lose,
    not_delivered,
    put_shop,
    retained,
    some_pass,
    unreadable_by_now,
    without_chunks_by_now,
)
from tests.agent.mirrors import UsersMirror, users_mirror
from tests.sandbox.upstream import Upstream


def served_before(lost: str) -> Callable[[UsersMirror], None]:
    """Let the job itself have published it, before a state was lost and the master dropped it."""

    def change(mirror: UsersMirror) -> None:
        mirror.settings["retention_days"] = 30.0
        mirror.one_pass()
        lose(lost)(mirror, mirror.directories.state)
        mirror.upstream.model.delete_flist("alice", "shop.flist")

    return change


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[UsersMirror]:
    with Upstream(small_model()) as upstream, users_mirror(tmp_path, upstream) as made:
        yield made


CASES: dict[str, Callable[[UsersMirror], None]] = {
    "retained": retained,
    "withheld: unreadable": unreadable_by_now,
    "withheld: lacks chunks": without_chunks_by_now,
    "fails": not_delivered,
    "table lost": served_before("published.sqlite"),
    "rows lost": served_before("users.sqlite"),
}


def count(record: StatusRecord, name: str) -> int:
    return int(record.details.get(name, 0))


@pytest.mark.parametrize("case", CASES)
def test_chunks_of_a_served_flist_outlive_the_masters(
    case: str, mirror: UsersMirror, tmp_path: Path
) -> None:
    keys = put_shop(mirror)
    model = mirror.upstream.model
    unneeded = small(99).chunks.keys()
    model.add_chunks(small(99).chunks)
    with chunks_job(
        mirror, tmp_path / "chunks", delete_check_seconds=0.2, removal_floor_items=1000
    ) as job:
        job.wait(lambda record: record.phase == "following", "following")
        CASES[case](mirror)
        some_pass(mirror)
        for key in {*keys, *unneeded}:
            model.drop_chunk(key)
        dropped = len(keys | unneeded)
        job.wait(lambda record: count(record, "dropped_items") >= dropped, "noticed")
        for _ in range(3):
            some_pass(mirror)
        mirror.upstream.hub_faults.clear()
        some_pass(mirror)
        job.wait(lambda record: count(record, "deleted_items") > 0, "judged")
        job.wait(lambda record: count(record, "kept_items") >= len(keys), "kept")
        assert SHOP in mirror.served()
        assert keys <= mirror.local_keys()
        assert not unneeded & mirror.local_keys()
