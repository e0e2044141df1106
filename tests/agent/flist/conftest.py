"""Reader processes that end with the test."""

from collections.abc import Iterator

import pytest

from sync.agent.flist.reader_pool import ReaderPool


@pytest.fixture
def reading() -> Iterator[ReaderPool]:
    pool = ReaderPool()
    yield pool
    pool.stop_idle()
