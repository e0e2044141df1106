"""The whole line over SSH: as root and as an unprivileged user of the docker group."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import commands
from tests.e2e.nodes import kernels_are_the_masters, live
from tests.e2e.stack import Ground, MirrorStack, mirror_stack, steps_of
from tests.sandbox.host import sshd
from tests.sandbox.upstream import Upstream

pytestmark = [pytest.mark.docker, pytest.mark.timeout(600)]


@pytest.fixture
def remote(request: pytest.FixtureRequest, place: Ground) -> Iterator[dict[str, str]]:
    """Return the setting `host` of a stack: an sshd on loopback, a key and a pinned host key."""
    if reason := sshd.missing():
        pytest.skip(reason)
    socket_path = Path(place.engine.url.removeprefix("unix://")).resolve()
    with contextlib.ExitStack() as stack:
        user = "root"
        if request.param != "root":
            if socket_path.stat().st_gid == 0:
                pytest.skip(f"{socket_path} belongs to group root: there is no group to join")
            made = sshd.temporary_user(f"hub-e2e-{os.getpid()}", socket_path=socket_path)
            user = stack.enter_context(made)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gridhub-sshd-")))
        # The plugin opens a connection per container, all at once.
        options = ["MaxStartups 100", "MaxSessions 20"]
        settings = sshd.SshdSettings((user,), docker_host=place.engine.url, options=options)
        server = stack.enter_context(sshd.running(folder, settings))
        yield {
            "docker": server.url(user),
            "sshKeyPath": str(server.users[user].private_key),
            "knownHostsPath": str(server.known_hosts),
        }


def a_killed_job_is_found_and_repaired(stack: MirrorStack) -> None:
    stack.containers()["kernels"].kill()
    # Without its master a job that begins again does not get in sync.
    stack.config["readyTimeoutSeconds"] = 5
    assert steps_of(stack, "--refresh")["sync-kernels-sync"] == "update"
    stack.up("--refresh")


# Each user tries a part, as each part costs seconds.
@pytest.mark.parametrize(
    ("remote", "checks", "alone"),
    [
        (
            "root",
            [commands.ctrl_c_ends_the_logs_here_and_on_the_host],
            [a_killed_job_is_found_and_repaired],
        ),
        (
            "member-of-docker",
            [
                commands.what_is_wrong_is_named_and_repaired,
                commands.what_is_cut_off_ends_in_the_container,
            ],
            [],
        ),
    ],
    indirect=["remote"],
    ids=["root", "member-of-docker"],
)
def test_a_remote_host_becomes_a_mirror_that_gridhub_looks_after_and_boots_without_its_master(
    place: Ground,
    master: Upstream,
    remote: dict[str, str],
    tmp_path: Path,
    checks: list[commands.Check],
    alone: list[commands.Check],
) -> None:
    """checks: while its master is there; alone: without it."""
    with mirror_stack(place, master, tmp_path, host=remote) as stack:
        stack.up()
        for check in (commands.the_status_is_what_the_host_shows, *checks):
            check(stack)
        sources = master.model.boot_sources()
        master.stop()
        for address in ("127.0.0.1", "::1"):
            live(stack, sources, address)
            kernels_are_the_masters(stack, master, address)
        for check in alone:
            check(stack)
        assert steps_of(stack, "--refresh") == {}
        stack.destroy()
        assert stack.containers() == {}
