"""One look at the host is shared by threads, and invalidated when something changed."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from sync.providers.host.cache import Cache, invalidate


def test_threads_that_ask_together_share_one_look() -> None:
    looks: list[str] = []
    gate = threading.Barrier(4)

    def fetch(key: str) -> int:
        looks.append(key)
        return len(looks)

    cache: Cache[str, int] = Cache(fetch)

    def ask(_number: int) -> int:
        gate.wait(10)
        return cache.get("host")

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, range(4))) == [1, 1, 1, 1]
    assert looks == ["host"]


def test_a_change_is_seen_by_the_next_look() -> None:
    state = ["old"]
    cache: Cache[str, str] = Cache(lambda _key: state[0])
    assert cache.get("host") == "old"
    state[0] = "new"
    assert cache.get("host") == "old"
    invalidate()
    assert cache.get("host") == "new"


def test_a_change_during_a_look_is_not_hidden_by_it() -> None:
    state = ["old"]

    def fetch(_key: str) -> str:
        seen = state[0]
        if seen == "old":
            state[0] = "new"
            invalidate()
        return seen

    cache: Cache[str, str] = Cache(fetch)
    cache.get("host")
    assert cache.get("host") == "new"


def test_a_look_is_not_kept_for_ever() -> None:
    state = [0]

    def fetch(_key: str) -> int:
        state[0] += 1
        return state[0]

    cache: Cache[str, int] = Cache(fetch)
    assert [cache.get("host", 0), cache.get("host", 0)] == [1, 2]


def test_a_failed_look_is_not_remembered() -> None:
    attempts: list[int] = []

    def fetch(_key: str) -> str:
        attempts.append(1)
        if len(attempts) == 1:
            raise OSError("down")
        return "up"

    cache = Cache(fetch)
    with pytest.raises(OSError, match="down"):
        cache.get("host")
    assert cache.get("host") == "up"
