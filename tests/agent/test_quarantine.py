"""How long a name is set aside; a restart, a wrong clock and many names change nothing."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sync.agent.job import PassIncompleteError
from sync.agent.master.client import HttpError
from sync.agent.quarantine import Quarantine, QuarantineDb
from sync.agent.status_writer import StatusWriter
from sync.contract.spec import Backoff, KernelsSpec
from tests.agent.mirrors import make_directories, make_status
from tests.sandbox.host import run

LISTED: Final = 100
SPEC: Final = KernelsSpec(stack="t", sources=["http://master.example"])


class Master:
    """Asked by nobody here."""

    briefly = staticmethod(nullcontext)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1_700_000_000.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    return now


@contextmanager
def opened(root: Path, spec: KernelsSpec = SPEC) -> Iterator[tuple[Quarantine, StatusWriter]]:
    """Yield the quarantine as a fresh process has it."""
    master: Any = Master()
    status = make_status("kernels", make_directories(root), "m")
    with QuarantineDb(root / "q.sqlite", "") as db:
        try:
            yield Quarantine(spec, db, master), status
        finally:
            status.close()


def fails(name: str) -> None:
    raise HttpError(f"/{name}: 500", retry=True)


def one_pass(
    quarantine: Quarantine, status: StatusWriter, bad: set[str], *, well: bool = True
) -> set[str]:
    """Make a pass in which `bad` fail; returns what was asked for of it."""
    quarantine.begin(lambda _: "as ever")
    failures, asked = dict[str, str](), set[str]()
    for name in bad:
        if quarantine.leaves_out(name):
            continue
        try:
            with quarantine.trying(name):
                asked.add(name)
                fails(name)
        except HttpError as error:
            failures[name] = str(error)
    quarantine.settle(status, failures, LISTED, lambda: well)
    return asked


def test_intervals_grow_up_to_an_hour_and_a_restart_changes_nothing(
    tmp_path: Path, clock: list[float]
) -> None:
    waits: list[float] = []
    with opened(tmp_path) as (quarantine, status), pytest.raises(PassIncompleteError):
        one_pass(quarantine, status, {"x"})
    for _ in range(15):
        with opened(tmp_path) as (quarantine, status):
            assert one_pass(quarantine, status, {"x"}) == {"x"}
        wait = quarantine.next_try_seconds()
        assert wait is not None
        waits.append(wait)
        clock[0] += wait - 0.5
        with opened(tmp_path) as (quarantine, status):
            assert one_pass(quarantine, status, {"x"}) == set()
        clock[0] += 0.5
    assert waits == [*(2**number for number in range(12)), 3600, 3600, 3600]


@pytest.mark.parametrize("years", [-15, 15])
def test_a_clock_that_was_wrong_keeps_no_name_away(
    years: int, tmp_path: Path, clock: list[float]
) -> None:
    clock[0] += years * 3.2e7
    with opened(tmp_path) as (quarantine, status):
        for _ in range(6):
            with suppress(PassIncompleteError):
                one_pass(quarantine, status, {"x"})
            clock[0] += 3600
        clock[0] -= years * 3.2e7
        assert one_pass(quarantine, status, {"x"}) == {"x"}


def test_of_many_that_hang_only_some_are_asked_for_in_a_pass(
    tmp_path: Path, clock: list[float]
) -> None:
    many = {f"n{number}" for number in range(40)}
    with opened(tmp_path) as (quarantine, status):
        with pytest.raises(PassIncompleteError, match="40 failed"):
            one_pass(quarantine, status, many)
        assert one_pass(quarantine, status, many) == many
        left = set(many)
        for _ in range(5):
            clock[0] += 3600
            asked = one_pass(quarantine, status, many)
            assert len(asked) == SPEC.http.connections
            left -= asked
        assert quarantine.reasons().keys() == many


def test_one_that_comes_back_has_the_others_tried_at_once(
    tmp_path: Path, clock: list[float]
) -> None:
    with opened(tmp_path) as (quarantine, status):
        for _ in range(12):
            with suppress(PassIncompleteError):
                one_pass(quarantine, status, {"x", "y"})
            clock[0] += 3600
        one_pass(quarantine, status, {"y"})
        assert quarantine.reasons().keys() == {"y"}
        clock[0] += 1
        quarantine.begin(lambda _: "changed")
        assert not quarantine.leaves_out("y")


@pytest.mark.parametrize("well", [True, False])
def test_more_than_half_or_a_master_that_is_not_well_is_no_one_name_s_fault(
    well: bool, tmp_path: Path, clock: list[float]
) -> None:
    bad = {f"n{number}" for number in range(LISTED // 2 + 1 if well else 1)}
    with opened(tmp_path) as (quarantine, status):
        for _ in range(5):
            clock[0] += 10
            with pytest.raises(PassIncompleteError):
                one_pass(quarantine, status, bad, well=well)
        assert len(quarantine) == 0


names = st.sampled_from("abcdefgh")


@settings(max_examples=60, deadline=None)
@given(events=st.lists(st.tuples(st.sets(names), st.booleans()), max_size=30))
def test_no_two_passes_in_a_row_are_incomplete_and_what_fails_is_always_named(
    events: list[tuple[set[str], bool]],
) -> None:
    spec = SPEC.model_copy(update={"backoff": Backoff(first_seconds=0.001)})
    with run.in_memory() as folder:
        incomplete = False
        for bad, restarts in events:
            with opened(Path(folder), spec) as (quarantine, status):
                for _ in range(1 if restarts else 2):
                    try:
                        one_pass(quarantine, status, bad)
                    except PassIncompleteError:
                        assert not incomplete
                        incomplete = True
                    else:
                        incomplete = False
                        assert bad <= quarantine.reasons().keys()
