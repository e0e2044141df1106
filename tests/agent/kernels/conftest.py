"""The master of most tests here: a small bootstrap server."""

from collections.abc import Iterator

import pytest

from tests.agent.kernels.kernels_mirror import kernels_model
from tests.sandbox.upstream import Upstream


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream(kernels_model()) as running:
        yield running
