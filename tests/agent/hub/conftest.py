"""A small hub and an empty mirror of it; a file of tests with another world has its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent.hub.small_hub import small_model
from tests.agent.mirrors import UsersMirror, users_mirror
from tests.sandbox.upstream import Upstream


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream(small_model()) as running:
        yield running


@pytest.fixture
def mirror(upstream: Upstream, tmp_path: Path) -> Iterator[UsersMirror]:
    with users_mirror(tmp_path, upstream) as made:
        yield made
