"""The host's Docker dies under a mirror: nothing is recorded meanwhile, `up` repairs."""

from pathlib import Path

import pytest

from tests.e2e.nodes import chunk_requests, live
from tests.e2e.stack import Ground, running_mirror, steps_of
from tests.sandbox.host import dockerd
from tests.sandbox.pulumi.workspace import PulumiError

pytestmark = [pytest.mark.docker, pytest.mark.ends_engine, pytest.mark.timeout(900)]


def test_the_hosts_docker_dies_and_comes_back(place: Ground, tmp_path: Path) -> None:
    if not place.engine.private:
        pytest.skip("the Docker Engine is the machine's own; this test kills its engine")
    with running_mirror(place, tmp_path) as (stack, master):
        copied = chunk_requests(master)
        before = stack.state()
        dockerd.kill_private()
        try:
            with pytest.raises(PulumiError) as failure:
                stack.pulumi("preview", "--refresh")
            assert "docker" in failure.value.output.lower()
            # Pulumi's own frames are there, none of ours.
            assert "sync/providers/host/connection.py" not in failure.value.output
            assert "During handling" not in failure.value.output
            assert stack.state() == before
        finally:
            dockerd.start_private()
        stack.up("--refresh")
        assert steps_of(stack, "--refresh") == {}
        assert chunk_requests(master) == copied, "chunks were fetched again"
        live(stack, master.model.boot_sources(), "127.0.0.1")
