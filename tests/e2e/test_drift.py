"""Whatever is broken on the host: refresh tells, up repairs, nothing is copied twice."""

import shutil
from collections.abc import Callable, Iterator

import pytest

from tests.e2e.nodes import live
from tests.e2e.stack import Ground, MirrorStack, running_mirror, steps_of
from tests.sandbox.host import dockerd
from tests.sandbox.pulumi.workspace import PulumiError
from tests.sandbox.upstream import Upstream

pytestmark = [pytest.mark.docker, pytest.mark.ends_engine, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def drifting(
    place: Ground, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[MirrorStack, Upstream]]:
    directory = tmp_path_factory.mktemp("drift")
    with running_mirror(place, directory) as found:
        yield found


def stop_container(stack: MirrorStack) -> None:
    stack.containers()["users"].stop(timeout=10)


def kill_job(stack: MirrorStack) -> None:
    stack.containers()["flists"].kill()


def kill_0_db(stack: MirrorStack) -> None:
    stack.containers()["zdb"].kill()


def remove_container(stack: MirrorStack) -> None:
    stack.containers()["kernels"].remove(force=True)


def remove_agent_files(stack: MirrorStack) -> None:
    for directory in (stack.root / "agent").iterdir():
        shutil.rmtree(directory / "src")


def remove_spec(stack: MirrorStack) -> None:
    (stack.root / "sync/flists/spec/spec.json").unlink()


@pytest.mark.parametrize(
    ("damage", "touched"),
    [
        (stop_container, "sync-users"),
        (kill_job, "sync-flists"),
        (kill_0_db, "zdb-container"),
        (remove_container, "sync-kernels"),
        (remove_agent_files, "sync-bundle"),
        (remove_spec, "sync-flists"),
    ],
)
def test_refresh_tells_and_up_repairs(
    drifting: tuple[MirrorStack, Upstream],
    damage: Callable[[MirrorStack], None],
    touched: str,
) -> None:
    stack, master = drifting
    copied = chunk_requests(master)
    damage(stack)
    told = steps_of(stack, "--refresh")
    assert any(name.startswith(touched) for name in told), told
    stack.up("--refresh")
    assert steps_of(stack, "--refresh") == {}
    assert chunk_requests(master) == copied, "chunks were fetched again"
    live(stack, master.model.boot_sources(), "127.0.0.1")


def test_the_hosts_docker_dies_and_comes_back(drifting: tuple[MirrorStack, Upstream]) -> None:
    stack, master = drifting
    if not stack.engine.private:
        pytest.skip("the Docker Engine is the machine's own; this test kills its engine")
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


def chunk_requests(master: Upstream) -> int:
    """Return how many requests for payloads the master's 0-db has answered."""
    asked = master.zdb.requests
    return sum(count for name, count in asked.items() if name.upper() in ("GET", "MGET"))
