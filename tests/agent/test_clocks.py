"""What counts as old: never by a clock that another one contradicts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync.agent.clocks import DAY_SECONDS, Clocks
from sync.agent.deletion_guard import Vanished, guard
from sync.agent.job import JobPaused
from sync.contract.spec import KernelsSpec

TIMES = st.floats(-1e10, 1e11)
DAYS = st.floats(0, 10_000)


@given(st.none() | TIMES, TIMES, TIMES, DAYS)
def test_nothing_is_old_unless_both_clocks_say_so(
    master: float | None, here: float, since: float, days: float
) -> None:
    clocks = Clocks(master, here)
    if clocks.is_older(since, days):
        assert master is not None
        assert not clocks.fault
        assert abs(here - master) <= DAY_SECONDS
        assert here - since >= (days - 1) * DAY_SECONDS - 1
        assert master - since >= days * DAY_SECONDS


@given(st.none() | TIMES, TIMES, st.none() | TIMES)
def test_retention_never_began_in_time_to_come_and_is_never_put_off_twice(
    master: float | None, here: float, since: float | None
) -> None:
    clocks = Clocks(master, here)
    started = clocks.started(since)
    if master is None or clocks.fault:
        assert started == since, "nothing is noted by a clock that may be wrong"
    else:
        assert started is not None
        assert started <= master + DAY_SECONDS
        assert clocks.started(started) == started


@pytest.mark.parametrize(
    ("days", "words"),
    [(5475, "5475 days ahead of"), (-5475, "5475 days behind"), (1.2, "1 days ahead of")],
)
def test_clock_that_disagrees_is_named_with_its_remedy(days: float, words: str) -> None:
    fault = Clocks(1e9, 1e9 + days * DAY_SECONDS).fault
    assert f"clock is {words} the master's" in fault
    assert "set the one that is wrong" in fault
    assert Clocks(1e9, 1e9 + DAY_SECONDS).fault == ""


@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 20), st.integers(0, 3))
def test_guard_counts_what_outlived_with_what_vanished(
    gone: int, outlived: int, floor: int, listed: int
) -> None:
    spec = KernelsSpec(
        stack="t", sources=["http://master.example"], removal_floor_items=floor, removal_limit=0.1
    )
    vanished = Vanished(gone, 100, listed, outlived=outlived)
    allowed = gone + outlived <= max(floor, 10) and listed > 0
    if not gone + outlived or allowed:
        assert guard(spec, vanished, 0, 1) is False
        return
    with pytest.raises(JobPaused, match="removalConfirmation"):
        guard(spec, vanished, 0, 1)
    confirmed = spec.model_copy(update={"removal_confirmation": 1})
    assert guard(confirmed, vanished, 0, 1) is True
