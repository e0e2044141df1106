"""Two stacks of one checkout on one host, the second a mirror of the first."""

from pathlib import Path

import pytest

from tests.e2e.front_door import FrontDoor
from tests.e2e.nodes import kernels_are_the_masters, live
from tests.e2e.stack import Ground, mirror_stack, steps_of
from tests.sandbox.upstream import Upstream

pytestmark = [pytest.mark.docker, pytest.mark.timeout(600)]


def test_a_mirror_is_the_master_of_its_neighbour_and_neither_knows_of_the_other(
    place: Ground, master: Upstream, tmp_path: Path
) -> None:
    sources = master.model.boot_sources()
    # The neighbour's agents reach the first stack's 0-db at the host's address on the wan.
    reachable = {"ipv4": ["127.0.0.1", place.wan.gateway], "ipv6": ["::1"]}
    with mirror_stack(place, master, tmp_path / "first", bind=reachable) as first:
        first.up()
        with (
            FrontDoor(first, "hub", place.wan.gateway) as hub,
            FrontDoor(first, "bootstrap", place.wan.gateway) as bootstrap,
        ):
            source = {
                "hub": hub.url,
                "bootstrap": bootstrap.url,
                "zdb": {"host": place.wan.gateway, "port": first.zdb_port},
            }
            with mirror_stack(place, master, tmp_path / "second", source=source) as second:
                master.stop()
                second.up()
                live(second, sources, "::1")
                kernels_are_the_masters(second, master, "127.0.0.1")
                assert steps_of(first) == {}
                assert steps_of(second) == {}
                second.destroy()
                assert second.containers() == {}
            assert len(first.containers()) == 8
            live(first, sources, "127.0.0.1")
