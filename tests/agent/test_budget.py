"""A budget never hands out more than it has, and nobody waits for ever."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync.agent.budget import Budget, OverBudgetError, Share
from sync.contract.job_memory import MIB, OWN_BYTES
from sync.contract.spec import KernelsSpec

TOTAL = 100


class Watched:
    """Counts what the holders of a budget hold together."""

    def __init__(self) -> None:
        self.held = self.most = 0
        self._lock = threading.Lock()

    def add(self, amount: int) -> None:
        with self._lock:
            self.held += amount
            self.most = max(self.most, self.held)


@given(st.lists(st.integers(0, TOTAL), min_size=1, max_size=30))
def test_threads_together_hold_no_more_than_there_is_and_each_is_served(sizes: list[int]) -> None:
    budget, watched = Budget(TOTAL), Watched()

    def work(size: int) -> None:
        with budget.hold(size, "a thing"):
            watched.add(size)
            watched.add(-size)

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(work, size) for size in sizes]:
            done.result(timeout=10)
    assert watched.most <= TOTAL
    assert budget.left_bytes == TOTAL


def test_what_does_not_fit_alone_is_refused_with_the_setting_that_gives_more() -> None:
    budget = Budget(TOTAL, "limits.users.memoryMb")
    with (
        pytest.raises(OverBudgetError, match=r"the page takes 101 bytes.*limits\.users\.memoryMb"),
        budget.hold(TOTAL + 1, "the page"),
    ):
        pass
    assert budget.left_bytes == TOTAL


def test_small_ones_do_not_pass_a_large_one_that_waits() -> None:
    budget = Budget(TOTAL)
    assert budget.take(60)
    got = threading.Event()

    def large() -> None:
        with budget.hold(80, "a large one"):
            got.set()

    waiting = threading.Thread(target=large)
    waiting.start()
    while budget.take(1):
        budget.give(1)
    assert not got.is_set()
    budget.give(60)
    waiting.join(timeout=10)
    assert got.is_set()
    assert budget.take(TOTAL)


def test_an_error_while_holding_gives_all_back() -> None:
    budget = Budget(TOTAL)
    with pytest.raises(ZeroDivisionError), budget.hold(TOTAL, "a thing"):
        raise ZeroDivisionError
    assert budget.left_bytes == TOTAL


def test_a_job_has_less_than_its_container_and_never_less_than_nothing() -> None:
    spec = KernelsSpec(stack="s", sources=["http://m"], memory_limit_mb=256)
    assert 0 < Budget.of(spec).total_bytes <= 256 * MIB - OWN_BYTES
    tiny = spec.model_copy(update={"memory_limit_mb": 32})
    assert Budget.of(tiny).total_bytes == 0


@given(st.lists(st.integers(0, 2 * TOTAL), max_size=20), st.integers(0, TOTAL))
def test_what_grows_holds_its_size_beyond_what_is_free_and_gives_all_back(
    sizes: list[int], free_bytes: int
) -> None:
    budget = Budget(TOTAL)
    share = Share(budget, free_bytes)
    largest = 0
    for size in sizes:
        grown = share.grow(size)
        assert grown == (size <= free_bytes + TOTAL)
        largest = max(largest, size if grown else 0)
        assert TOTAL - budget.left_bytes == max(0, largest - free_bytes)
    share.close()
    share.close()
    assert budget.left_bytes == TOTAL
