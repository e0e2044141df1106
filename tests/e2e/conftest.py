"""What the end-to-end tests stand on: one engine with images, a master of one's own."""

from collections.abc import Iterator

import pytest

from tests.e2e.stack import Ground, ground
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
