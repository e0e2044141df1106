"""A health probe ends by itself, whatever the service does: an engine ends the shell alone."""

import contextlib

import docker
import pytest
from docker.models.containers import Container

from components import edge, zdb
from components.caddyfile import METRICS_PORT
from tests.e2e.stack import Ground
from tests.sandbox.host import images
from tests.sandbox.host.images import Service

pytestmark = [pytest.mark.docker, pytest.mark.timeout(120)]


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
