"""The whole line, once through: a stack file becomes a mirror that a node boots from."""

import socket
from pathlib import Path
from typing import Any

import pytest

from sync.contract.layout import JOBS
from tests.e2e.nodes import kernels_are_the_masters, live, node_of
from tests.e2e.stack import Ground, MirrorStack, mirror_stack, steps_of
from tests.sandbox.dns.sandbox import DnsSandbox
from tests.sandbox.host.processes import wait_until
from tests.sandbox.upstream import Upstream

pytestmark = [pytest.mark.docker, pytest.mark.timeout(600)]
_LOOPBACKS = ("127.0.0.1", "::1")
_FOLLOW_SECONDS = 30
_TOKEN = "e2e-dns-token-of-forty-characters-000000"


def test_a_stack_file_becomes_a_mirror_that_boots_without_its_master(
    place: Ground, master: Upstream, tmp_path: Path
) -> None:
    with (
        DnsSandbox(["grid.test"], token=_TOKEN) as dns,
        mirror_stack(place, master, tmp_path, **with_dns(dns)) as stack,
    ):
        stack.environment_for_dns(dns.api_url, _TOKEN)
        said = stack.up()
        assert "created" in said
        records_are_set(dns)
        # While its master answers: the host is looked at again for other addresses.
        records_follow_the_settings(stack, dns)
        sources = master.model.boot_sources()
        assert len(master.model.flists()) >= 12

        master.stop()
        for address in _LOOPBACKS:
            live(stack, sources, address)
            kernels_are_the_masters(stack, master, address)

        assert steps_of(stack, "--expect-no-changes") == {}

        # With room for as many clients as before: the gate stays as it is.
        stack.config["limits"] = {"hub": {"memoryMb": 768}}
        assert steps_of(stack) == {"hub-container": "update"}
        stack.up()
        assert steps_of(stack) == {}
        assert stack.containers()["hub"].attrs["HostConfig"]["Memory"] == 768 << 20

        stack.refresh()
        stack.destroy()
        assert stack.containers() == {}
        assert stack.networks() == []
        kept = list((stack.root / "0-hub_public/users").iterdir())
        assert len(kept) == len(master.model.repositories)
        assert dns.zones.records() == []


def with_dns(dns: DnsSandbox) -> dict[str, Any]:
    """Return the settings of a stack that sets its records in the sandbox's zone."""
    zone = {"provider": "cloudflare", "zoneId": dns.zone_id("grid.test"), "ttl": 60}
    return {"domain": "grid.test", "dns": zone}


def records_are_set(dns: DnsSandbox) -> None:
    names = {(r.name, r.type, r.content) for r in dns.zones.records()}
    assert names == {
        (f"{service}.grid.test", kind, content)
        for service in ("hub", "bootstrap", "unsecure.bootstrap")
        for kind, content in (("A", "203.0.113.10"), ("AAAA", "2001:db8::10"))
    }


def records_follow_the_settings(stack: MirrorStack, dns: DnsSandbox) -> None:
    stack.config["publicAddresses"] = {"ipv4": ["203.0.113.11"], "ipv6": ["2001:db8::10"]}
    changed = [name for name in steps_of(stack) if "dns" in name]
    assert len(changed) == 3
    stack.up()
    assert {r.content for r in dns.zones.records() if r.type == "A"} == {"203.0.113.11"}


def behind_dead_names(place: Ground, master: Upstream) -> dict[str, Any]:
    """Return the master's services as lists, each after a name that refuses."""
    gateway = place.wan.gateway
    return {
        "hub": [f"http://{gateway}:1", f"http://{gateway}:{master.hub.port}"],
        "bootstrap": [f"http://{gateway}:1", f"http://{gateway}:{master.bootstrap.port}"],
        "zdb": [
            {"host": gateway, "port": 1},
            {"host": gateway, "port": master.zdb.port},
        ],
    }


def test_a_master_whose_first_names_are_dead_is_mirrored_and_followed_by_the_second(
    place: Ground, master: Upstream, tmp_path: Path
) -> None:
    source = behind_dead_names(place, master)
    with mirror_stack(place, master, tmp_path, source=source) as stack:
        stack.up()
        resources = stack.state()["deployment"]["resources"]
        (preflight,) = (one for one in resources if one["urn"].endswith("::preflight"))
        warned = [text for text in preflight["outputs"]["findings"] if "warning: master" in text]
        assert len(warned) == 3, preflight["outputs"]["findings"]
        live(stack, master.model.boot_sources(), "127.0.0.1")
        services = {"users": "hub", "kernels": "bootstrap", "flists": "zdb"}
        for job in JOBS:
            names = [one for one in stack.record(job).sources if one.service == services[job]]
            assert [one.in_use for one in names] == [False, True], job
            assert names[0].reason, job
        assert steps_of(stack) == {}
        the_mirror_follows_its_master_and_refresh_records_it(stack, master)


def the_mirror_follows_its_master_and_refresh_records_it(
    stack: MirrorStack, master: Upstream
) -> None:
    before = stack.recorded("users")["__record"]["done"]["items"]
    model = master.model
    library = Path(socket.__file__).parent
    model.add_flist("alice.3bot", "new.flist", library / "logging")
    model.change_flist("tf-zos", "zos-base.flist", library / "concurrent")
    tag, name = first_tag(model.boot_sources())
    model.retarget_tag(tag[0], tag[1], name, "tf-zos/zos-base.flist")
    model.add_kernel("v9.9.9-new.efi", b"MZ new kernel" * 5000)

    def followed() -> bool:
        with node_of(stack, "127.0.0.1") as node:
            return (
                "v9.9.9-new.efi" in node.kernels()
                and set(node.bootable()) == set(model.boot_sources())
                and node.boot("tf-zos/zos-base.flist").keys
                == model.chunk_keys("tf-zos", "zos-base.flist")
            )

    wait_until(followed, "the mirror of a changed master", _FOLLOW_SECONDS)
    for address in _LOOPBACKS:
        live(stack, model.boot_sources(), address)
    stack.refresh()
    assert stack.recorded("users")["__record"]["done"]["items"] == before + 1
    assert steps_of(stack) == {}


def first_tag(sources: dict[str, Path]) -> tuple[tuple[str, str], str]:
    """Return ((repository, tag), name) of some entry of some tag."""
    path = next(path for path in sorted(sources) if "/tags/" in path)
    repository, _, tag, name = path.split("/")
    return (repository, tag), name
