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


@pytest.fixture(scope="module")
def running(
    place: Ground, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[MirrorStack, Upstream]]:
    """Provide a mirror that a file's tests share, and its master; it is probed seldom."""
    directory = tmp_path_factory.mktemp("running")
    with running_mirror(place, directory, healthIntervalSeconds=5) as found:
        yield found
