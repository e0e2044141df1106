"""What the end-to-end tests stand on: one engine with images, a master of one's own."""

from collections.abc import Iterator

import pytest

from tests.e2e.stack import Ground, MirrorStack, ground, running_mirror
from tests.sandbox.upstream import Upstream, standard_world


@pytest.fixture(scope="session")
def place() -> Iterator[Ground]:
    with ground() as found:
        yield found


@pytest.fixture
def master(place: Ground) -> Iterator[Upstream]:
    upstream = Upstream(addresses=(place.wan.gateway,))
    standard_world(upstream.model)
    with upstream:
        yield upstream


@pytest.fixture(scope="session")
def running(
    place: Ground, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[MirrorStack, Upstream]]:
    """Provide a mirror and its master to all tests that look, or put back what they broke.

    tests/conftest.py gives the files that use it to one worker.
    """
    directory = tmp_path_factory.mktemp("running")
    with running_mirror(place, directory, hub={"aliases": ["hub.grid.tf"]}) as found:
        yield found
