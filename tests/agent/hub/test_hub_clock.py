"""A wrong clock, here or on the master, ends no flist's retention, and says so."""

import pytest

from sync.agent.hub.state_db import DATABASE, HubStateDb
from sync.agent.job import JobPaused
from tests.agent.hub.small_hub import DAY, OLD
from tests.agent.mirrors import UsersMirror, model_tree
from tests.agent.two_clocks import JUMPS, YEAR, TwoClocks, two_clocks

NOW = OLD + 30 * DAY
RETAINED = ("alice/shop.flist", "alice/blog.flist", "tf-zos/zos-0.flist")


@pytest.fixture
def clocks(mirror: UsersMirror, monkeypatch: pytest.MonkeyPatch) -> TwoClocks:
    return two_clocks(mirror.upstream.hub, monkeypatch, NOW)


def drop(mirror: UsersMirror) -> None:
    """Let the master drop three flists that stay for 30 days; serve them all the same."""
    mirror.settings |= {"retention_days": 30}
    mirror.one_pass()
    for name in RETAINED:
        mirror.upstream.model.delete_flist(*name.split("/"))
    assert mirror.one_pass().details["retained"] == len(RETAINED)


@pytest.mark.parametrize("wrong", JUMPS.values(), ids=JUMPS)
def test_no_clock_that_jumps_removes_anything(
    wrong: tuple[float, float], mirror: UsersMirror, clocks: TwoClocks
) -> None:
    drop(mirror)
    before = mirror.served()
    model = mirror.upstream.model
    model.delete_flist("tf-zos", "zos.flist")  # what goes at once, when the clocks agree
    clocks.set(NOW + DAY, wrong)
    record = mirror.one_pass()
    assert mirror.served() == before
    assert [name for name in record.broken.names if "removals are paused" in name]
    clocks.set(NOW + 2 * DAY)
    record = mirror.one_pass()
    assert "tf-zos/zos.flist" not in mirror.served()
    assert before.keys() - mirror.served().keys() == {"tf-zos/zos.flist"}
    assert record.details["retained"] == len(RETAINED)
    assert not [name for name in record.broken.names if "paused" in name]


def test_retention_ends_by_the_masters_clock(mirror: UsersMirror, clocks: TwoClocks) -> None:
    drop(mirror)
    clocks.set(NOW + 29.9 * DAY, (0, 0.9 * DAY))
    mirror.one_pass()
    assert mirror.served().keys() >= {*RETAINED}
    clocks.set(NOW + 30.1 * DAY, (0, -0.9 * DAY))
    mirror.one_pass()
    assert mirror.served() == model_tree(mirror.upstream.model)


def test_guard_covers_what_retention_removes(mirror: UsersMirror, clocks: TwoClocks) -> None:
    drop(mirror)
    before = mirror.served()
    mirror.settings |= {"removal_floor_items": 2}
    clocks.set(NOW + 15 * YEAR)
    with pytest.raises(JobPaused, match="3 outlived their age or retention"):
        mirror.one_pass()
    assert mirror.served() == before
    mirror.settings |= {"removal_confirmation": 1}
    mirror.one_pass()
    assert mirror.served() == model_tree(mirror.upstream.model)


def test_master_that_says_no_time_ends_no_retention(mirror: UsersMirror, clocks: TwoClocks) -> None:
    drop(mirror)
    before = mirror.served()
    clocks.master, clocks.here = None, NOW + 15 * YEAR
    mirror.settings |= {"retention_days": 0}
    mirror.one_pass()
    assert mirror.served() == before


@pytest.mark.parametrize("noted", [NOW + 15 * YEAR, NOW + 2 * DAY, 0.0, 300.0, 10 * YEAR, -5.0])
def test_retention_noted_by_a_clock_that_was_wrong_counts_from_now(
    noted: float, mirror: UsersMirror, clocks: TwoClocks
) -> None:
    drop(mirror)
    with HubStateDb(mirror.directories.state / DATABASE) as state_db:
        state_db._db.execute(
            "UPDATE flist SET missing_since=? WHERE missing_since IS NOT NULL", (noted,)
        )
    mirror.one_pass()
    clocks.set(NOW + 29 * DAY)
    mirror.one_pass()
    assert mirror.served().keys() >= {*RETAINED}
    clocks.set(NOW + 31 * DAY)
    mirror.one_pass()
    assert mirror.served() == model_tree(mirror.upstream.model)
