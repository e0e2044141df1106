"""A Docker Engine for the whole test run: the machine's, else a private one of this run.

`make test` runs on two workers, a file at a time; they share the engine that their parent starts.

`make test` sets GRIDHUB_TEST_ENGINE=1, so an engine with images, sshd's program and the Pulumi CLI
are there before the tests are collected.
A run of single tests without it uses an engine where one answers; tests that need one skip with
that reason where none does.
"""

import importlib
import os
import sys
from collections.abc import Generator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.sandbox.host import dockerd, images, packages, sshd
from tests.sandbox.pulumi import cli

# Where this is set, each of the thousand processes of a run would compile the program anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

_OURS = pytest.StashKey[bool]()


@dataclass
class _Turns:
    """Which files use the engine, which end it, and the turn that the present one has."""

    users: frozenset[Path] = frozenset()
    enders: frozenset[Path] = frozenset()
    held: ExitStack = field(default_factory=ExitStack)
    now: bool = False


_TURNS = pytest.StashKey[_Turns]()


def pytest_sessionstart(session: pytest.Session) -> None:
    """Find or start the engine and name it in DOCKER_HOST for everything below."""
    before = dockerd.find()
    engine = before
    # A worker finds what its parent, which has no such attribute, has started or installed.
    worker = hasattr(session.config, "workerinput")
    if os.environ.get("GRIDHUB_TEST_ENGINE") == "1" and not worker:
        console = Console(file=sys.stderr)
        with cli.getting_ready() as program:
            engine = dockerd.ensure(console)
            if os.geteuid() == 0:
                # The tests start one of their own; the machine's own must not begin to listen.
                packages.ensure(sshd.PROGRAMS, console, services=False)
            images.ensure(engine.url, console)
            program()
    session.stash[_OURS] = engine is not None and before is None and engine.private
    if engine is not None:
        os.environ["DOCKER_HOST"] = engine.url


def pytest_sessionfinish(session: pytest.Session) -> None:
    """End the engine if this run started it; its images stay as a cache below .sandbox/."""
    if session.stash.get(_OURS, False):
        dockerd.stop_private(remove_data=False)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the long forms to `make soak`; skip, with the reason, what has no engine."""
    if not config.getoption("-m"):
        soak = [item for item in items if item.get_closest_marker("soak")]
        config.hook.pytest_deselected(items=soak)
        items[:] = [item for item in items if item not in soak]
    # What ends the engine goes first: others have enough to do without one meanwhile.
    turns = _Turns(_files(items, "docker"), _files(items, "ends_engine"))
    config.stash[_TURNS] = turns
    items.sort(key=lambda item: item.path not in turns.enders)
    if dockerd.find() is None:
        reason = "no Docker Engine answers: start one, or run `make test`, which does"
        for item in items:
            if item.get_closest_marker("docker"):
                item.add_marker(pytest.mark.skip(reason=reason))


def _files(items: list[pytest.Item], marker: str) -> frozenset[Path]:
    return frozenset(item.path for item in items if item.get_closest_marker(marker))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(
    item: pytest.Item, nextitem: pytest.Item | None
) -> Generator[None, object, object]:
    """Let a file have the engine, one that ends it alone, from before its fixtures to after them.

    No test's time limit counts the wait for that.
    """
    turns = item.config.stash[_TURNS]
    if item.path in turns.users and not turns.now:
        turns.held.enter_context(dockerd.turn(ends_it=item.path in turns.enders))
        turns.now = True
    try:
        return (yield)
    finally:
        if nextitem is None or nextitem.path != item.path:
            turns.held.close()
            turns.now = False


@pytest.fixture(scope="session")
def schema() -> Any:
    """Return the flist schema in pycapnp; a second copy of it would abort the process."""
    return importlib.import_module("capnp").load(str(Path(__file__).parent / "flist.capnp"))
