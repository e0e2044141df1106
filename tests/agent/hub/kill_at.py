"""A process that ends in the middle of its work, at any step that changes something."""

import threading
from collections.abc import Iterable

import pytest


class Killed(BaseException):
    """The process is gone: nothing that it would do then is done."""


def kill_at(
    monkeypatch: pytest.MonkeyPatch,
    at: int,
    watched: Iterable[tuple[object, Iterable[str]]],
    *,
    left_alone: str = "status",
) -> list[str]:
    """Let the process end at the step `at`; returns the steps that were done.

    watched: whose methods are a step each. left_alone: the thread whose steps do not count; or
    "all others" for all but the main one.
    """
    done: list[str] = []

    def counts() -> bool:
        name = threading.current_thread().name
        return name == "MainThread" if left_alone == "all others" else name != left_alone

    def watch(owner: object, name: str) -> None:
        inner = getattr(owner, name)

        def step(*arguments: object, **named: object) -> object:
            if not counts():
                return inner(*arguments, **named)
            if len(done) >= at:
                raise Killed
            done.append(name)
            return inner(*arguments, **named)

        monkeypatch.setattr(owner, name, step)

    for owner, names in watched:
        for name in names:
            watch(owner, name)
    return done
