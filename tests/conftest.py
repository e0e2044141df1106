"""A Docker Engine for the whole test run: the machine's, else a private one of this run.

`make test` runs several workers, a file (or, in files named here, a test) at a time; they share the
engine that their parent starts. What a test leaves because it was cut short, the parent removes.

`make test` sets GRIDHUB_TEST_ENGINE=1, so an engine with images, sshd's program and the Pulumi CLI
are there before the tests are collected.
A run of single tests without it uses an engine where one answers; tests that need one skip with
that reason where none does.
"""

import importlib
import os
import signal
import sys
from collections.abc import Generator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil
import pytest
from rich.console import Console
from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import NodeManager

from tests.sandbox.host import dockerd, images, packages, run, sshd
from tests.sandbox.pulumi import cli

# Where this is set, each of the thousand processes of a run would compile the program anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Needs no engine, for the time in which one file has it alone.
_MEANWHILE: Final = "tests/agent/chunks/"
# Each test has a stack of its own, so workers may share the file. Longest first.
_SHARED: Final = (
    "tests/e2e/test_failures.py",
    "tests/e2e/test_kills.py",
    "tests/e2e/test_dns_records.py",
    "tests/e2e/test_modes.py",
    "tests/e2e/test_whole_line.py",
    "tests/e2e/test_remote_host.py",
)
# Their tests look at one mirror that runs; what changes it comes last.
_ONE_MIRROR: Final = (
    "tests/e2e/test_hardening.py",
    "tests/e2e/test_rude_clients.py",
    "tests/e2e/test_previews.py",
    "tests/e2e/test_review.py",
    "tests/e2e/test_drift.py",
)
_LONG: Final = (
    *_ONE_MIRROR,
    *_SHARED,
    "tests/e2e/test_typed.py",
    "tests/e2e",
)
# A worker that was interrupted has this long to end what its test has started.
_CLEAN_SECONDS: Final = 60
_OURS = pytest.StashKey[bool]()
_RUN = pytest.StashKey[str]()


@dataclass
class _Turns:
    """Which files use the engine, which end it, and the turn that the present one has."""

    users: frozenset[Path] = frozenset()
    enders: frozenset[Path] = frozenset()
    held: ExitStack = field(default_factory=ExitStack)
    now: bool = False


_TURNS = pytest.StashKey[_Turns]()


def _is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Find or start the engine and name it in DOCKER_HOST for everything below."""
    run.interruptible()
    before = dockerd.find()
    engine = before
    # A worker finds what its parent has started or installed.
    if not _is_worker(session.config):
        session.config.stash[_RUN] = run.begin()
        if os.environ.get("GRIDHUB_TEST_ENGINE") == "1":
            console = Console(file=sys.stderr)
            with cli.getting_ready() as program:
                engine = dockerd.ensure(console)
                if before is None and engine.private:
                    # It has just started: a killed run's stacks would start over and over in it.
                    run.remove_stacks(engine.url, "e2e-")
                if os.geteuid() == 0:
                    # The tests start one of their own; the machine's must not begin to listen.
                    programs = sshd.PROGRAMS | {"tmux": "tmux"}  # panes of `gridhub logs`
                    packages.ensure(programs, console, services=False)
                images.ensure(engine.url, console)
                program()
    session.stash[_OURS] = engine is not None and before is None and engine.private
    if engine is not None:
        os.environ["DOCKER_HOST"] = engine.url


def pytest_keyboard_interrupt() -> None:
    """Interrupt the workers as well: a signal to this process alone does not reach them."""
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):
            if "execnet" in " ".join(child.cmdline()):
                child.send_signal(signal.SIGINT)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """End what is left of the run, and the engine if this run started it; its images stay."""
    # execnet interrupts a worker that takes its time to end.
    run.uninterruptible()
    if not _is_worker(session.config):
        engine = dockerd.find()
        run.end(session.config.stash[_RUN], engine.url if engine else None)
    if session.stash.get(_OURS, False):
        dockerd.stop_private(remove_data=False)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Give a worker a file at a time; files that share a mirror at once; others test by test."""
    NodeManager.EXIT_TIMEOUT = _CLEAN_SECONDS
    config.option.loadscopereorder = False
    scheduling = LoadScopeScheduling(config, log)
    scheduling._split_scope = _unit
    return scheduling


def _unit(nodeid: str) -> str:
    file = nodeid.partition("::")[0]
    if file in _ONE_MIRROR:
        return "one mirror"
    return nodeid if file in _SHARED else file


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the long forms to `make soak`; skip, with the reason, what has no engine."""
    if not config.getoption("-m"):
        soak = [item for item in items if item.get_closest_marker("soak")]
        config.hook.pytest_deselected(items=soak)
        items[:] = [item for item in items if item not in soak]
    turns = _Turns(_files(items, "docker"), _files(items, "ends_engine"))
    config.stash[_TURNS] = turns
    _order(items, turns)
    if dockerd.find() is None:
        reason = "no Docker Engine answers: start one, or run `make test`, which does"
        for item in items:
            if item.get_closest_marker("docker"):
                item.add_marker(pytest.mark.skip(reason=reason))


def _order(items: list[pytest.Item], turns: _Turns) -> None:
    """Put what ends the engine first, something to do meanwhile after it, then the longest.

    Within that the order is pytest-randomly's, but for files that use the engine: there a stack is
    made, looked at, changed and destroyed by one test after the other.
    """

    def rank(item: pytest.Item) -> int:
        file = item.nodeid.partition("::")[0]
        if item.path in turns.enders:
            return -2
        if file.startswith(_MEANWHILE):
            return -1
        return next((n for n, long in enumerate(_LONG) if file.startswith(long)), len(_LONG))

    def place(item: pytest.Item) -> tuple[object, ...]:
        if item.path not in turns.users:
            return rank(item), ""
        file, line, _ = item.location
        parameters = getattr(item, "callspec", None)
        return rank(item), file, line or 0, list(parameters.indices.values() if parameters else ())

    items.sort(key=place)


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
