"""0-db and the edge by themselves, in their images: start line and health probe."""

import contextlib

import docker
import pytest
from docker.models.containers import Container

from components import edge, zdb
from components.caddyfile import METRICS_PORT
from components.settings.model import ZdbSettings
from tests.e2e.stack import Ground
from tests.sandbox.host import images
from tests.sandbox.host.images import Service
from tests.sandbox.host.processes import wait_until

pytestmark = [pytest.mark.docker, pytest.mark.timeout(120)]


@pytest.mark.parametrize("password", ["plain", "-begins_with_a_dash", "--protect"])
def test_0_db_starts_with_whatever_password_was_made(place: Ground, password: str) -> None:
    made = f"mkdir -p /secrets /zdb/data /zdb/index && printf %s '{password}' > /secrets/zdb-admin"
    script = f"{made} && {zdb.start_script(ZdbSettings())}"
    with contextlib.closing(docker.DockerClient(base_url=place.engine.url, timeout=90)) as client:
        container = client.containers.run(
            images.reference("zdb"),
            entrypoint=["/bin/sh", "-c", script],
            healthcheck={"test": list(zdb.HEALTH), "interval": 10**9, "timeout": 10**10},
            network_mode="none",
            init=True,
            detach=True,
        )
        try:
            wait_until(lambda: _settled(container), "0-db", 60)
            assert container.status == "running", container.logs().decode()
        finally:
            container.remove(force=True)


def _settled(container: Container) -> bool:
    """Tell whether it is healthy or has ended."""
    container.reload()
    return container.status == "exited" or container.health == "healthy"


# An engine that gives up a probe ends the shell, not what the shell started.
def _end_before_a_deaf_service(container: Container) -> str:
    try:
        container.start()
        container.wait(timeout=60)
        return container.logs(stderr=False).decode().strip()
    finally:
        container.remove(force=True)


@pytest.mark.parametrize(
    ("service", "probe", "port"),
    [("zdb", zdb.HEALTH, zdb.PORT), ("caddy", edge.HEALTH, METRICS_PORT)],
)
def test_a_probe_of_a_service_that_takes_connections_and_never_answers_ends(
    place: Ground, service: Service, probe: tuple[str, str], port: int
) -> None:
    form, line = probe
    assert form == "CMD-SHELL"
    deaf = f"sleep 600 | busybox nc -l -p {port} > /dev/null &"
    listens = f"until grep -q ':{port:04X} .* 0A ' /proc/net/tcp /proc/net/tcp6; do :; done"
    script = f"{deaf} {listens}; {line}; echo ended with $?"
    with contextlib.closing(docker.DockerClient(base_url=place.engine.url, timeout=90)) as client:
        made = client.containers.create(
            images.reference(service),
            entrypoint=["/bin/sh", "-c", script],
            network_mode="none",
            init=True,
        )
        said = _end_before_a_deaf_service(made)
    # What grep says of no answer, and what a shell says of one that SIGTERM ended.
    assert said in {"ended with 1", "ended with 143"}
