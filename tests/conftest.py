"""A Docker Engine for the whole test run: the machine's, else a private one of this run.

`make test` sets GRIDHUB_TEST_ENGINE=1, so an engine and sshd's program are there before the tests
are collected.
A run of single tests without it uses an engine where one answers; tests that need one skip with
that reason where none does.
"""

import importlib
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.sandbox.host import dockerd, packages, sshd

_OURS = pytest.StashKey[bool]()


def pytest_sessionstart(session: pytest.Session) -> None:
    """Find or start the engine and name it in DOCKER_HOST for everything below."""
    before = dockerd.find()
    engine = before
    if os.environ.get("GRIDHUB_TEST_ENGINE") == "1":
        console = Console(file=sys.stderr)
        engine = dockerd.ensure(console)
        if os.geteuid() == 0:
            # The tests start one of their own; the machine's own must not begin to listen.
            packages.ensure(sshd.PROGRAMS, console, services=False)
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
    if dockerd.find() is None:
        reason = "no Docker Engine answers: start one, or run `make test`, which does"
        for item in items:
            if item.get_closest_marker("docker"):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def schema() -> Any:
    """Return the flist schema in pycapnp; a second copy of it would abort the process."""
    return importlib.import_module("capnp").load(str(Path(__file__).parent / "flist.capnp"))
