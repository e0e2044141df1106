"""Where mirrors of tests live: in memory where the machine has such a place, for speed."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from sync.agent.job import Directories
from tests.agent.mirrors import make_directories
from tests.sandbox.host import run


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """Give a directory of the test's own, in memory, and remove it afterwards."""
    with run.in_memory() as path:
        yield Path(path)


@pytest.fixture
def directories(tmp_path: Path) -> Directories:
    """Give the folders of a job."""
    return make_directories(tmp_path)
