"""Where mirrors of tests live: in memory where the machine has such a place, for speed."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sync.agent.job import Directories
from tests.agent.mirrors import make_directories

_MEMORY = Path("/dev/shm")


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """Give a directory of the test's own, in memory, and remove it afterwards."""
    parent = _MEMORY if _MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="gridhub-test-", dir=parent) as path:
        yield Path(path)


@pytest.fixture
def directories(tmp_path: Path) -> Directories:
    """Give the folders of a job."""
    return make_directories(tmp_path)
