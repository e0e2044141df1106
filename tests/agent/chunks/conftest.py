"""The mirror that the tests of this folder break."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent.chunks.chunks_mirror import FlistsMirror, running


@pytest.fixture
def mirror(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FlistsMirror]:
    """Provide a master and a slave, the real 0-db where there is one.

    A module with `STAND_IN = True` has stand-ins: what it tests does not depend on the server.
    """
    stand_in = getattr(request.module, "STAND_IN", False)
    with running(tmp_path / "mirror", stand_in=stand_in) as made:
        yield made
