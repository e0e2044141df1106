"""A failed `up` in a test tells of the containers that are not well."""

import contextlib
from pathlib import Path

import pytest

from tests.e2e.stack import Ground, mirror_stack
from tests.sandbox.host import images
from tests.sandbox.host.processes import wait_until
from tests.sandbox.pulumi.workspace import PulumiError
from tests.sandbox.upstream import Upstream

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]


def test_a_failed_up_tells_state_probes_and_last_words_of_what_is_not_healthy(
    place: Ground, master: Upstream, tmp_path: Path
) -> None:
    with (
        mirror_stack(place, master, tmp_path, mode="nonsense") as stack,
        contextlib.closing(stack.client()) as client,
    ):
        for service, line in {
            "zdb": "echo no such password; exit 3",
            "hub": "echo serving; sleep 600",
            "caddy": "sleep 600",
        }.items():
            probe = "exit 0" if service == "caddy" else "echo refused; exit 1"
            client.containers.run(
                images.reference("python"),
                ["sh", "-c", line],
                name=f"gridhub-{stack.name}-{service}",
                healthcheck={"test": ["CMD-SHELL", probe], "interval": 10**9, "retries": 1},
                network_mode="none",
                init=True,
                detach=True,
            )
        wait_until(
            lambda: (
                stack.containers()["hub"].health == "unhealthy"
                and stack.containers()["caddy"].health == "healthy"
                and stack.containers()["zdb"].status == "exited"
            ),
            "the containers",
            60,
        )
        with pytest.raises(PulumiError, match="nonsense") as failed:
            stack.up()
    (told,) = failed.value.__notes__
    zdb, hub = told[told.index("zdb: ") :], told[told.index("hub: ") : told.index("zdb: ")]
    assert "'ExitCode': 3" in zdb
    assert "no such password" in zdb
    assert "(1, 'refused\\n')" in hub
    assert "serving" in hub
    assert "caddy: " not in told
