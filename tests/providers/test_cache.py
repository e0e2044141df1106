"""One look at the host is shared by threads, and forgotten when something changed."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from sync.providers.host.cache import Once


def test_threads_that_ask_together_share_one_look() -> None:
    looks: list[str] = []
    gate = threading.Barrier(4)

    def fetch(key: str) -> int:
        looks.append(key)
        return len(looks)

    once: Once[str, int] = Once(fetch)

    def ask(_number: int) -> int:
        gate.wait(10)
        return once.get("host")

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, range(4))) == [1, 1, 1, 1]
    assert looks == ["host"]


def test_a_change_is_seen_by_the_next_look() -> None:
    state = ["old"]
    once: Once[str, str] = Once(lambda _key: state[0])
    assert once.get("host") == "old"
    state[0] = "new"
    assert once.get("host") == "old"
    once.forget()
    assert once.get("host") == "new"


def test_a_change_during_a_look_is_not_hidden_by_it() -> None:
    state = ["old"]

    def fetch(_key: str) -> str:
        seen = state[0]
        if seen == "old":
            state[0] = "new"
            once.forget()
        return seen

    once: Once[str, str] = Once(fetch)
    once.get("host")
    assert once.get("host") == "new"


def test_a_look_is_not_kept_for_ever() -> None:
    state = [0]

    def fetch(_key: str) -> int:
        state[0] += 1
        return state[0]

    once: Once[str, int] = Once(fetch)
    assert [once.get("host", 0), once.get("host", 0)] == [1, 2]


def test_a_failed_look_is_not_remembered() -> None:
    attempts: list[int] = []

    def fetch(_key: str) -> str:
        attempts.append(1)
        if len(attempts) == 1:
            raise OSError("down")
        return "up"

    once = Once(fetch)
    with pytest.raises(OSError, match="down"):
        once.get("host")
    assert once.get("host") == "up"
