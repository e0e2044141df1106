"""The stand-in docker plugin at work on a real Docker Engine."""

from __future__ import annotations

import io
import json
import os
import stat
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.errors import NotFound

from tests.sandbox.host.ports import free_port
from tests.sandbox.plugins import golden as golden_records
from tests.sandbox.plugins.client import Created, PluginCallError, PluginProcess
from tests.sandbox.plugins.tiny_image import make_image

pytestmark = pytest.mark.docker

ROOT = Path(__file__).parents[3]
PLUGIN = ROOT / "tests/sandbox/plugins/bin/pulumi-resource-docker"
CONTAINER = "docker:index/container:Container"
NETWORK = "docker:index/network:Network"
VOLUME = "docker:index/volume:Volume"
IMAGE = "docker:index/remoteImage:RemoteImage"
PREFIX = f"gridhub-plugin-{os.getpid()}"
REPOSITORY = "localhost/gridhub-plugin-test"
GOLDEN = {
    resource["urn"].rsplit("::", 1)[-1]: resource
    for resource in json.loads(
        (Path(golden_records.__file__).parent / "docker-5.2-state.json").read_text()
    )["deployment"]["resources"]
}


@dataclass(frozen=True)
class World:
    """A plugin configured for the test's Engine, and that Engine itself."""

    plugin: PluginProcess
    engine: Any
    image: str

    def make(self, token: str, inputs: dict[str, Any]) -> Created:
        """Check and create."""
        return self.plugin.create(token, self.plugin.check(token, inputs))

    def container(self, **inputs: Any) -> Created:
        """Create a container that sleeps, on no network unless told."""
        base = {
            "name": f"{PREFIX}-c",
            "image": self.image,
            "command": ["sleep", "600"],
            "networkMode": "none",
        }
        return self.make(CONTAINER, {**base, **inputs})


def engine_url() -> str:
    return os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")


def sweep(engine: Any) -> None:
    """Remove what tests of this process left, whatever became of them."""
    for container in engine.containers(all=True, filters={"name": PREFIX}):
        engine.remove_container(container["Id"], force=True, v=True)
    for network in engine.networks(filters={"name": PREFIX}):
        engine.remove_network(network["Id"])
    for volume in engine.volumes(filters={"name": PREFIX})["Volumes"] or []:
        engine.remove_volume(volume["Name"])


@pytest.fixture(scope="module")
def shared() -> Iterator[World]:
    engine = docker.APIClient(base_url=engine_url())
    image = make_image(engine, REPOSITORY, str(os.getpid()))
    with PluginProcess([str(PLUGIN)], "docker") as plugin:
        plugin.configure({"host": engine_url()})
        yield World(plugin, engine, image)
    engine.remove_image(f"{REPOSITORY}:{os.getpid()}", force=True)
    engine.close()


@pytest.fixture
def world(shared: World) -> Iterator[World]:
    yield shared
    sweep(shared.engine)


def hub_inputs(world: World, port: int, network: Created) -> dict[str, Any]:
    """Return the golden hub's inputs, with names, port and commands of this test."""
    written = {
        key: value
        for key, value in GOLDEN["hub"]["inputs"].items()
        if key not in ("__defaults", "containerReadRefreshTimeoutMilliseconds")
    }
    check = {**written["healthcheck"], "tests": ["CMD", "true"]}
    return {
        **written,
        "name": f"{PREFIX}-hub",
        "image": world.image,
        "command": ["sleep", "600"],
        "healthcheck": check,
        "networksAdvanced": [{"name": network.properties["name"], "aliases": ["hub"]}],
        "ports": [{"internal": 5555, "external": port, "ip": "127.0.0.1", "protocol": "tcp"}],
        "volumes": [
            {"hostPath": "/usr", "containerPath": "/public", "readOnly": False},
            {"volumeName": f"{PREFIX}-named", "containerPath": "/named"},
        ],
    }


# What is another container's own: its id, names, addresses, the command of the test's image.
OWN = {
    *("id", "name", "image", "command", "networkDatas", "networksAdvanced", "ports"),
    *("volumes", "healthcheck", "mountpoint", "ipamConfigs", "imageId", "labels"),
}


def common(properties: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in properties.items() if key not in OWN}


@pytest.fixture
def network(world: World) -> Created:
    written = GOLDEN["backend"]["inputs"]
    return world.make(
        NETWORK,
        {
            **{key: value for key, value in written.items() if key != "__defaults"},
            "name": f"{PREFIX}-net",
            "ipamConfigs": [{"subnet": "fd00:9977::/64"}, {"subnet": "10.213.76.0/24"}],
        },
    )


def test_the_golden_stack_has_the_golden_outputs(world: World, network: Created) -> None:
    assert common(network.properties) == common(GOLDEN["backend"]["outputs"])
    assert [c["subnet"] for c in network.properties["ipamConfigs"]] == [
        "10.213.76.0/24",
        "fd00:9977::/64",
    ]
    volume = world.make(
        VOLUME, {"name": f"{PREFIX}-named", "labels": [{"label": "stack", "value": "golden"}]}
    )
    assert volume.id == f"{PREFIX}-named"
    assert common(volume.properties) == common(GOLDEN["named"]["outputs"])
    name = f"{REPOSITORY}:{os.getpid()}"
    image = world.make(IMAGE, {"name": name, "keepLocally": True})
    assert image.id == f"{world.image}{name}"
    assert common(image.properties) == common(GOLDEN["py"]["outputs"])
    hub = world.make(CONTAINER, hub_inputs(world, free_port(), network))
    # What the daemon says of its default bridge: an engine of the sandbox's own has none.
    bridge = "" if world.engine.networks(names=["bridge"]) else "none"
    golden_hub = {**GOLDEN["hub"]["outputs"], "bridge": bridge}
    assert common(hub.properties) == common(golden_hub)
    golden_network = GOLDEN["hub"]["outputs"]["networksAdvanced"][0]
    assert hub.properties["networksAdvanced"] == [{**golden_network, "name": f"{PREFIX}-net"}]
    assert [v["containerPath"] for v in hub.properties["volumes"]] == ["/named", "/public"]
    data = hub.properties["networkDatas"][0]
    assert data.keys() == GOLDEN["hub"]["outputs"]["networkDatas"][0].keys()
    assert data["networkName"] == f"{PREFIX}-net"
    assert (data["ipAddress"][:10], data["globalIpv6Address"][:9]) == ("10.213.76.", "fd00:9977")
    for token, made in ((CONTAINER, hub), (NETWORK, network), (VOLUME, volume), (IMAGE, image)):
        seen = world.plugin.read(token, made.id, made.properties, made.inputs)
        assert seen.inputs == {**made.inputs, **_sorted_sets(seen.inputs, made.inputs)}
        again = world.plugin.diff(token, made.id, seen.properties, made.inputs)
        assert (again.changes, again.detailed) == (False, {})


def _sorted_sets(seen: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Return the sets as read, once their elements are seen to be the given ones."""
    sets = ("ipamConfigs", "envs")
    for key in sets:
        if key in seen:
            assert sorted(map(json.dumps, seen[key])) == sorted(map(json.dumps, given[key]))
    return {key: seen[key] for key in sets if key in seen}


def test_limits_are_applied_in_place_and_a_healthcheck_is_not(
    world: World, network: Created
) -> None:
    inputs = hub_inputs(world, free_port(), network)
    hub = world.make(CONTAINER, inputs)
    changed = {
        "memory": 128,
        "memorySwap": 128,
        "cpuShares": 256,
        "restart": "always",
        "healthcheck": {**inputs["healthcheck"], "interval": "2s"},
        "init": False,
        "tmpfs": {"/tmp": "size=32m"},
    }
    news = world.plugin.check(CONTAINER, {**inputs, **changed}, hub.inputs)
    updated = world.plugin.update(CONTAINER, hub.id, hub.properties, news)
    assert {key: updated.properties[key] for key in ("memory", "init", "tmpfs")} == {
        "memory": 128,
        "init": False,
        "tmpfs": {"/tmp": "size=32m"},
    }
    live = world.engine.inspect_container(hub.id)
    host = live["HostConfig"]
    assert (host["Memory"], host["CpuShares"]) == (128 * 1024 * 1024, 256)
    assert host["RestartPolicy"]["Name"] == "always"
    assert host["Init"] is True
    assert host["Tmpfs"] == {"/tmp": "size=16m"}
    assert live["Config"]["Healthcheck"]["Interval"] == 10**9
    seen = world.plugin.read(CONTAINER, hub.id, updated.properties, news)
    again = world.plugin.diff(CONTAINER, hub.id, seen.properties, news)
    assert again.detailed == {
        "healthcheck.interval": "update",
        "init": "update",
        'tmpfs["/tmp"]': "update",
    }


def test_a_stopped_container_shows_in_a_refresh_and_is_replaced_or_started(
    world: World, network: Created
) -> None:
    hub = world.make(CONTAINER, hub_inputs(world, free_port(), network))
    plain = world.container(destroyGraceSeconds=1)
    for made in (hub, plain):
        world.engine.stop(made.id, timeout=0)
        unseen = world.plugin.diff(CONTAINER, made.id, made.properties, made.inputs)
        assert not unseen.changes
    stopped_hub = world.plugin.read(CONTAINER, hub.id, hub.properties, hub.inputs)
    with_ports = world.plugin.diff(CONTAINER, hub.id, stopped_hub.properties, hub.inputs)
    assert with_ports.detailed == {"mustRun": "update", "ports": "add-replace"}
    assert with_ports.delete_before_replace
    stopped = world.plugin.read(CONTAINER, plain.id, plain.properties, plain.inputs)
    assert stopped.inputs["mustRun"] is False
    without = world.plugin.diff(CONTAINER, plain.id, stopped.properties, plain.inputs)
    assert without.detailed == {"mustRun": "update"}
    world.plugin.update(CONTAINER, plain.id, stopped.properties, plain.inputs)
    assert world.engine.inspect_container(plain.id)["State"]["Running"]


def test_what_was_removed_behind_the_stack_reads_as_gone_and_deletes_without_error(
    world: World, network: Created
) -> None:
    volume = world.make(VOLUME, {"name": f"{PREFIX}-gone"})
    made = world.container()
    world.engine.remove_container(made.id, force=True)
    world.engine.remove_network(network.id)
    world.engine.remove_volume(volume.id)
    for token, gone in ((CONTAINER, made), (NETWORK, network), (VOLUME, volume)):
        assert world.plugin.read(token, gone.id, gone.properties, gone.inputs).id == ""
        world.plugin.delete(token, gone.id, gone.properties)


def test_delete_removes_what_create_made(world: World, network: Created) -> None:
    hub = world.make(CONTAINER, hub_inputs(world, free_port(), network))
    deaf = world.container(command=["sh", "-c", "trap '' TERM; sleep 600"])
    for made in (hub, deaf):
        world.plugin.delete(CONTAINER, made.id, made.properties)
        with pytest.raises(NotFound):
            world.engine.inspect_container(made.id)
    world.plugin.delete(NETWORK, network.id, network.properties)
    with pytest.raises(NotFound):
        world.engine.inspect_network(network.id)


ERRORS: dict[str, tuple[dict[str, Any], str, bool]] = {
    "image": ({"image": "sandbox.invalid/none:1"}, "Unable to create container with image", False),
    "command": (
        {"command": ["/nonexistent"]},
        "Unable to start container: Error response from daemon: ",
        True,
    ),
    "wait": (
        {"wait": True},
        "you have supplied a 'wait' argument, but the container does not have a healthcheck",
        True,
    ),
    "health": (
        {"wait": True, "waitTimeout": 1, "healthcheck": {"tests": ["CMD", "false"]}},
        "container failed to be in healthy state",
        True,
    ),
    "network": (
        {"networkMode": "bridge", "networksAdvanced": [{"name": f"{PREFIX}-none"}]},
        f"network {PREFIX}-none not found",
        True,
    ),
    "volumes": (
        {"volumes": [{"volumeName": "v"}]},
        "Unable to parse volumes: volume entry without container path or source container",
        False,
    ),
    "uploads": (
        {"uploads": [{"file": "/f"}]},
        "error with upload content: one of 'content', 'content_base64', or 'source' must be set",
        True,
    ),
    "cpus": ({"cpus": "half"}, "Error setting cpus: failed to parse half", False),
}


@pytest.mark.parametrize("kind", ERRORS)
def test_a_failed_create_says_why_and_keeps_what_exists(world: World, kind: str) -> None:
    inputs, message, exists = ERRORS[kind]
    with pytest.raises(PluginCallError) as failed:
        world.container(**inputs)
    assert message in str(failed.value)
    partial = failed.value.partial
    assert (partial is not None) is exists
    if partial is None:
        assert world.engine.containers(all=True, filters={"name": PREFIX}) == []
        return
    assert str(failed.value).startswith("creating urn:")
    assert world.engine.inspect_container(partial.id)["Id"] == partial.id
    assert partial.properties["id"] == partial.id
    world.plugin.delete(CONTAINER, partial.id, partial.properties)


def test_conflicts_are_told_in_the_daemons_words(world: World, network: Created) -> None:
    port = free_port()
    world.make(CONTAINER, hub_inputs(world, port, network))
    with pytest.raises(PluginCallError, match=r"The container name .* is already in use"):
        world.container(name=f"{PREFIX}-hub")
    with pytest.raises(PluginCallError, match="port is already allocated"):
        world.container(
            networkMode="bridge",
            networksAdvanced=[{"name": network.properties["name"]}],
            ports=[{"internal": 1, "external": port, "ip": "127.0.0.1"}],
        )
    with pytest.raises(PluginCallError, match="already exists"):
        world.make(NETWORK, {"name": f"{PREFIX}-net"})


def test_everything_that_a_service_declares_reaches_the_container(
    world: World, network: Created
) -> None:
    made = world.make(
        CONTAINER,
        {
            "name": f"{PREFIX}-all",
            "image": world.image,
            "entrypoints": ["/bin/sleep"],
            "command": ["600"],
            "hostname": "zdb",
            "domainname": "example.org",
            "workingDir": "/etc",
            "networksAdvanced": [
                {
                    "name": network.properties["name"],
                    "aliases": ["zdb", "store"],
                    "ipv4Address": "10.213.76.40",
                    "ipv6Address": "fd00:9977::40",
                }
            ],
            "uploads": [
                {"file": "/etc/plain.conf", "content": "a=1\n"},
                {"file": "/etc/run", "contentBase64": "eA==", "permissions": "0750"},
            ],
            "mounts": [{"target": "/srv", "source": "/usr", "type": "bind", "readOnly": True}],
            "ulimits": [{"name": "nofile", "soft": 1024, "hard": 2048}],
            "sysctls": {"net.ipv4.ip_unprivileged_port_start": "80"},
            "hosts": [{"host": "master", "ip": "10.0.0.1"}],
            "dns": ["127.0.0.1"],
            "groupAdds": ["10"],
            "capabilities": {"adds": ["NET_BIND_SERVICE"], "drops": ["all"]},
            "shmSize": 16,
            "stopSignal": "SIGINT",
            "stopTimeout": 7,
            "cpus": "0.5",
            "devices": [{"hostPath": "/dev/null", "containerPath": "/dev/nothing"}],
        },
    )
    live = world.engine.inspect_container(made.id)
    config, host = live["Config"], live["HostConfig"]
    address = live["NetworkSettings"]["Networks"][f"{PREFIX}-net"]
    assert address["IPAddress"] == "10.213.76.40"
    assert address["GlobalIPv6Address"] == "fd00:9977::40"
    assert {"zdb", "store"} <= set(address["Aliases"])
    assert (config["Entrypoint"], config["Cmd"]) == (["/bin/sleep"], ["600"])
    assert (config["Hostname"], config["Domainname"]) == ("zdb", "example.org")
    assert (config["StopSignal"], config["StopTimeout"]) == ("SIGINT", 7)
    assert (host["NanoCpus"], host["ShmSize"]) == (500_000_000, 16 * 1024 * 1024)
    assert (host["CapAdd"], host["CapDrop"]) == (["CAP_NET_BIND_SERVICE"], ["ALL"])
    assert (host["ExtraHosts"], host["Dns"]) == (["master:10.0.0.1"], ["127.0.0.1"])
    assert host["Ulimits"] == [{"Name": "nofile", "Hard": 2048, "Soft": 1024}]
    assert host["Sysctls"] == {"net.ipv4.ip_unprivileged_port_start": "80"}
    assert host["Devices"][0]["PathInContainer"] == "/dev/nothing"
    mount = next(m for m in live["Mounts"] if m["Destination"] == "/srv")
    assert (mount["Source"], mount["RW"]) == ("/usr", False)
    assert _file(world, made.id, "/etc/plain.conf") == (b"a=1\n", 0o644)
    assert _file(world, made.id, "/etc/run") == (b"x", 0o750)


def _file(world: World, container: str, path: str) -> tuple[bytes, int]:
    """Return a file of a container: content and permissions."""
    chunks, _ = world.engine.get_archive(container, path)
    with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as archive:
        member = archive.getmembers()[0]
        content = archive.extractfile(member)
        assert content is not None
        return content.read(), stat.S_IMODE(member.mode)


def test_a_port_on_two_addresses_is_quiet_only_where_its_changes_are_ignored(
    world: World, network: Created
) -> None:
    """Engine 20.10 turns the order of such a pair, and the real plugin takes it for a change."""
    port = free_port()
    made = world.container(
        networkMode="bridge",
        networksAdvanced=[{"name": network.properties["name"]}],
        ports=[
            {"internal": 80, "external": port, "ip": address} for address in ("127.0.0.1", "::1")
        ],
    )
    seen = world.plugin.read(CONTAINER, made.id, made.properties, made.inputs)
    assert seen.inputs["ports"] == made.inputs["ports"]
    turned = [p["ip"] for p in seen.properties["ports"]] != ["127.0.0.1", "::1"]
    for state in (made.properties, seen.properties):
        watched = world.plugin.diff(CONTAINER, made.id, state, made.inputs)
        assert watched.changes is turned
        ignored = world.plugin.diff(CONTAINER, made.id, state, made.inputs, ignore=("ports",))
        assert not ignored.changes
