"""Whatever is broken on the host: refresh tells, up repairs, nothing is copied twice."""

import contextlib
import shutil
from collections.abc import Callable

import pytest
from docker.errors import APIError

from tests.e2e.nodes import chunk_requests, live
from tests.e2e.stack import MirrorStack, steps_of
from tests.sandbox.upstream import Upstream

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]


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


def turn_a_config_file_into_a_directory(stack: MirrorStack) -> None:
    # Docker does, where the source of a mount is missing when it starts a container.
    hub, file = stack.containers()["hub"], stack.root / "secrets/hub/config.py"
    hub.stop(timeout=10)
    file.unlink()
    with contextlib.suppress(APIError):
        hub.start()
    assert file.is_dir()


@pytest.mark.parametrize(
    "damages",
    [
        # Of three jobs that know nothing of each other.
        {stop_container: "sync-users", kill_job: "sync-flists", remove_container: "sync-kernels"},
        {kill_0_db: "zdb-container"},
        {remove_agent_files: "sync-bundle"},
        {remove_spec: "sync-flists", turn_a_config_file_into_a_directory: "hub-config"},
    ],
    ids=lambda damages: " + ".join(damage.__name__ for damage in damages),
)
def test_refresh_tells_and_up_repairs(
    running: tuple[MirrorStack, Upstream],
    damages: dict[Callable[[MirrorStack], None], str],
) -> None:
    stack, master = running
    copied = chunk_requests(master)
    for damage in damages:
        damage(stack)
    told = steps_of(stack, "--refresh")
    for touched in damages.values():
        assert any(name.startswith(touched) for name in told), told
    stack.up("--refresh")
    assert steps_of(stack, "--refresh") == {}
    assert chunk_requests(master) == copied, "chunks were fetched again"
    live(stack, master.model.boot_sources(), "127.0.0.1")
