"""An unfit host is refused before the first change, with every finding at once."""

import json
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest

from sync.contract.preflight import Check
from sync.contract.zdb_memory import bytes_for
from sync.providers.host.connection import HostConnection
from sync.providers.preflight import probe, provider
from sync.providers.preflight.checks import (
    Binding,
    Container,
    DnsName,
    Facts,
    Finding,
    Limits,
    Master,
    Needs,
    judge,
)
from sync.providers.preflight.provider import PreflightError, PreflightProvider
from tests.providers.conftest import ENGINE_COMPARES, changed, zdb_asked
from tests.sandbox.host.ports import free_port
from tests.sandbox.services.zdb import ZdbServer

ZDB = "hub.grid.tf:9900"
MASTERS = ("hub.threefold.me:443", "hub.grid.tf:443")
GOOD = Facts(
    cores=4,
    memory_bytes=8 * 10**9,
    keys={ZDB: 26_000_000},
    is_directory=True,
    is_link=False,
    is_mount=True,
    free_bytes=2 * 10**12,
    read_only=False,
    listening=(("0.0.0.0", 22), ("127.0.0.1", 53)),
    foreign_addresses=(),
    resolved={"hub.example.org": ("203.0.113.10", "2001:db8::10")},
    unreachable={},
    docker_version="20.10.24+dfsg1",
)
NAME = DnsName(name="hub.example.org", addresses=("203.0.113.10", "2001:db8::10"))
NEEDS = Needs(
    host=HostConnection("unix:///var/run/docker.sock"),
    root="/srv",
    limits=Limits(zdb_memory_bytes=4096 << 20),
    ports=(
        Binding(address="203.0.113.10", port=80),
        Binding(address="2001:db8::10", port=443),
    ),
    names=(NAME,),
    upstream=(
        Master(name="hub", host="hub.threefold.me", port=443),
        Master(name="hub", host="hub.grid.tf", port=443),
        Master(name="zdb", host="hub.grid.tf", port=9900),
    ),
    own_containers=("edge", "zdb"),
    root_is_mount=True,
)


def test_a_good_host_has_no_finding() -> None:
    assert judge(GOOD, NEEDS) == []


COMPOSE = Container("0-hub", "ghcr.io/threefoldtech/0-hub:master", "", running=True)
WEB = Container("web", "nginx", "", running=True, published=(("0.0.0.0", 80),))
OTHER_STACK = Container(
    "other-zdb",
    "0-db",
    "gridhub.service=zdb,gridhub.stack=other",
    running=False,
    mounts=("/srv/0-db_data", "/srv/0-db_index"),
)
BROKEN: list[tuple[str, Facts, str]] = [
    ("cores", replace(GOOD, cores=1), "has 1, 2 are needed"),
    ("memory", replace(GOOD, memory_bytes=6 * 10**9), "has 6.0 GB, 8.0 GB are needed"),
    (
        "zdb-memory",
        replace(GOOD, keys={ZDB: 30_000_000}),
        "holds 30000000 keys, for which 0-db needs 4275 MB of memory; limits.zdb.memoryMb is 4096",
    ),
    ("space", replace(GOOD, free_bytes=10**11), "100.0 GB free, 1.0 TB are needed"),
    ("docker", replace(GOOD, docker_version="19.03.8"), "is 19.03.8, 20.10 is needed"),
    ("ssh", replace(GOOD, shell_prints="Welcome"), "prints before each command ('Welcome')"),
    ("ports", replace(GOOD, listening=(("0.0.0.0", 80),)), "203.0.113.10:80 is taken by a program"),
    ("ports", replace(GOOD, listening=(("::", 443),)), "[2001:db8::10]:443 is taken by a program"),
    ("ports", replace(GOOD, containers=(WEB,)), "203.0.113.10:80 is taken by container web"),
    ("mount", replace(GOOD, is_mount=False), "/srv is not a mount point"),
    ("data-root", replace(GOOD, is_link=True), "/srv is a symbolic link"),
    ("data-root", replace(GOOD, read_only=True), "on a read-only file system"),
    (
        "addresses",
        replace(GOOD, foreign_addresses=("2001:db8::10",)),
        "the host has no address 2001:db8::10",
    ),
    (
        "dns",
        replace(GOOD, resolved={"hub.example.org": ("198.51.100.1",)}),
        "hub.example.org points to 198.51.100.1, not to 203.0.113.10, 2001:db8::10",
    ),
    ("data-root", replace(GOOD, containers=(OTHER_STACK,)), "/srv is used by container other-zdb"),
    ("compose", replace(GOOD, containers=(COMPOSE,)), "container 0-hub of an upstream deployment"),
    (
        "master",
        replace(GOOD, unreachable=dict.fromkeys(MASTERS, "Connection refused")),
        "hub (hub.threefold.me:443) cannot be reached from the host: Connection refused",
    ),
]


@pytest.mark.parametrize(("check", "facts", "words"), BROKEN)
def test_a_broken_host_has_its_named_finding_with_a_remedy(
    check: str, facts: Facts, words: str
) -> None:
    found = judge(facts, NEEDS)
    assert {(finding.level, finding.check) for finding in found} == {("error", check)}
    assert len(found) == (len(MASTERS) if check == "master" else 1)
    assert words in found[0].message
    assert len(found[0].remedy) > 10


@pytest.mark.parametrize("dead", MASTERS)
def test_a_name_of_the_master_that_is_dead_beside_one_that_answers_is_a_warning(dead: str) -> None:
    (finding,) = judge(replace(GOOD, unreachable={dead: "Name or service not known"}), NEEDS)
    assert (finding.level, finding.check) == ("warning", "master")
    assert f"hub ({dead}) cannot be reached" in finding.message
    (other,) = {*MASTERS} - {dead}
    assert f"{other} is used meanwhile" in finding.remedy


def test_every_check_that_can_be_ignored_is_one() -> None:
    found = {check for check, _facts, _words in BROKEN} | {"containers"}
    # The zone's records are no matter of the host: tests/program/test_dns_records.py.
    assert found == {*get_args(Check)} - {"records"}


def test_an_address_of_the_ssh_server_that_is_dead_is_a_warning() -> None:
    (found,) = judge(replace(GOOD, dead_addresses=("2001:db8::9",)), NEEDS)
    assert (found.level, found.check) == ("warning", "ssh")
    assert "nobody answers at 2001:db8::9" in found.message
    assert "give the address that answers in host.docker" in found.remedy


def test_all_findings_come_at_once_errors_first() -> None:
    broken = replace(GOOD, cores=1, memory_bytes=1, keys={}, resolved={}, containers=(COMPOSE,))
    found = judge(broken, NEEDS)
    assert [finding.check for finding in found] == ["cores", "memory", "compose", "dns"]
    assert [finding.level for finding in found] == ["error"] * 3 + ["warning"]


def test_an_ignored_check_only_warns() -> None:
    found = judge(replace(GOOD, cores=1), changed(NEEDS, ignore=("cores",)))
    assert [finding.level for finding in found] == ["warning"]


KEYS: list[tuple[int, int, int, list[str]]] = [
    # keys of the master, MB that 0-db may take, GB of the host, what is wrong
    (0, 143, 8, []),
    (26_000_000, 4096, 8, []),
    (28_701_944, 4096, 8, []),
    (28_701_945, 4096, 8, ["limits.zdb.memoryMb is 4096"]),
    (13_834_751, 2048, 8, ["limits.zdb.memoryMb is 2048"]),
    (45_000_000, 8192, 8, []),
    (45_000_000, 8192, 7, ["the host has 7.0 GB"]),
    (26_000_000, 8192, 4, ["the host has 4.0 GB"]),
    (26_000_000, 2048, 4, ["limits.zdb.memoryMb is 2048", "the host has 4.0 GB"]),
    (10**18, 4096, 8, ["limits.zdb.memoryMb is 4096", "the host has 8.0 GB"]),
]


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(("keys", "limit_mb", "host_gb", "words"), KEYS)
def test_the_masters_keys_are_compared_with_0_dbs_limit_and_the_hosts_memory(
    keys: int, limit_mb: int, host_gb: int, words: list[str], *, first: bool
) -> None:
    needs = changed(NEEDS, limits=Limits(memory_bytes=1, zdb_memory_bytes=limit_mb << 20))
    facts = replace(GOOD, keys={ZDB: keys}, memory_bytes=host_gb * 10**9, first=first)
    found = judge(facts, needs)
    assert [(finding.level, finding.check) for finding in found] == [("error", "zdb-memory")] * len(
        words
    )
    assert [
        text for text, finding in zip(words, found, strict=True) if text not in str(finding)
    ] == []


def test_a_master_that_does_not_tell_its_keys_is_named_and_not_refused() -> None:
    found = judge(replace(GOOD, keys={ZDB: None}), NEEDS)
    assert [(finding.level, finding.check) for finding in found] == [("warning", "zdb-memory")]
    assert "hub.grid.tf:9900 does not say" in found[0].message


def test_the_keys_of_a_master_of_several_names_are_counted_once_by_whichever_answers() -> None:
    other = "hub.threefold.me:9900"
    masters = [Master(name="zdb", host=h, port=9900) for h in ("hub.threefold.me", "hub.grid.tf")]
    limits = changed(NEEDS.limits, memory_bytes=1)
    needs = changed(NEEDS, limits=limits, upstream=masters)
    for keys in ({other: 30_000_000, ZDB: 30_000_000}, {other: None, ZDB: 30_000_000}):
        (finding,) = judge(replace(GOOD, keys=keys), needs)
        assert (finding.level, finding.check) == ("error", "zdb-memory")


def test_our_own_containers_may_hold_the_ports() -> None:
    published = (("203.0.113.10", 80), ("2001:db8::10", 443))
    edge = Container("edge", "caddy", "", running=True, published=published)
    again = replace(GOOD, containers=(edge,), listening=published, first=False)
    assert judge(again, NEEDS) == []


def test_another_address_of_the_same_port_is_free() -> None:
    facts = replace(GOOD, listening=(("127.0.0.1", 80), ("::1", 443)))
    assert judge(facts, NEEDS) == []


def test_space_that_the_mirror_itself_has_filled_only_warns() -> None:
    facts = replace(GOOD, free_bytes=1, first=False)
    found = judge(facts, NEEDS)
    assert [(finding.level, finding.check) for finding in found] == [("warning", "space")]


def test_names_that_the_stack_sets_itself_only_warn() -> None:
    facts = replace(GOOD, resolved={"hub.example.org": ("198.51.100.1",)})
    found = judge(facts, changed(NEEDS, dns_managed=True))
    assert [finding.level for finding in found] == ["warning"]


def test_boot_media_ask_over_ipv4_so_a_name_without_an_a_record_is_refused() -> None:
    name = "bootstrap.example.org"
    needs = changed(NEEDS, names=(changed(NAME, name=name),))
    facts = replace(GOOD, resolved={name: ("2001:db8::10",)})
    assert [finding.level for finding in judge(facts, needs)] == ["warning"]
    (found,) = judge(facts, changed(needs, names=(changed(NAME, name=name, boot_media=True),)))
    assert (found.level, found.check) == ("error", "dns")
    assert "has no A record" in found.message
    media = (changed(NAME, name=name, boot_media=True),)
    managed = changed(needs, names=media, dns_managed=True)
    assert [finding.level for finding in judge(facts, managed)] == ["warning"]


def test_what_etc_hosts_says_of_the_hosts_own_name_is_not_dns() -> None:
    resolved = {"hub.example.org": ("127.0.1.1",)}
    found = judge(replace(GOOD, resolved=resolved), NEEDS)
    assert [(finding.level, finding.message) for finding in found] == [
        ("warning", "hub.example.org does not resolve")
    ]


def test_a_record_of_one_family_that_is_missing_is_reported() -> None:
    facts = replace(GOOD, resolved={"hub.example.org": ("203.0.113.10",)})
    found = judge(facts, NEEDS)
    assert [(finding.level, finding.message) for finding in found] == [
        ("warning", "hub.example.org does not lead to 2001:db8::10")
    ]
    assert judge(facts, changed(NEEDS, dns_managed=True)) == []


def test_a_public_address_that_the_host_has_not_may_be_translated() -> None:
    facts = replace(GOOD, foreign_addresses=("203.0.113.10",))
    ports = (Binding(address="0.0.0.0", port=80),)
    behind = changed(NEEDS, ports=ports, public_addresses=("203.0.113.10",))
    found = judge(facts, behind)
    assert [(finding.level, finding.check) for finding in found] == [("warning", "addresses")]
    assert "NAT" in found[0].remedy


def test_a_host_without_ipv6_is_named_in_words() -> None:
    needs = changed(NEEDS, ports=(Binding(address="::", port=80),))
    found = judge(replace(GOOD, foreign_addresses=("::",)), needs)
    assert [(f.level, f.check, f.message) for f in found] == [
        ("error", "addresses", "the host has no IPv6")
    ]


def test_a_stack_whose_root_lies_beside_ours_is_no_neighbour_in_it() -> None:
    beside = replace(OTHER_STACK, mounts=("/srv/gridhub-sandbox/0-db_data", "/srv2/0-db_data"))
    assert judge(replace(GOOD, containers=(beside,)), NEEDS) == []


def test_a_leftover_container_is_reported() -> None:
    zdb = Container("zdb", "0-db", "", running=False)
    found = judge(replace(GOOD, containers=(zdb,)), NEEDS)
    assert found == [
        Finding(
            "warning",
            "containers",
            "container zdb exists already, and the stack does not know it",
            "if its creation fails: docker rm --force zdb (the data stay)",
        )
    ]


def test_a_container_of_our_name_with_another_data_root_is_another_stacks() -> None:
    """A renamed stack keeps its containers' names; a new one may get its former name."""
    mounts = ("/data/0-db_data", "/data/0-db_index")
    zdb = replace(OTHER_STACK, name="zdb", mounts=mounts)
    (finding,) = judge(replace(GOOD, containers=(zdb,)), NEEDS)
    assert (finding.level, finding.check) == ("error", "containers")
    assert "container zdb belongs to another stack" in finding.message
    assert judge(replace(GOOD, containers=(zdb,), first=False), NEEDS) == []


def test_a_listing_of_docker_is_read() -> None:
    entry = {
        "Names": "edge",
        "Image": "caddy",
        "Labels": "",
        "State": "running",
        "Mounts": "/srv/caddy/data,/srv/caddy/log,a-volume",
        "Ports": "127.0.0.1:80->80/tcp, :::443->443/tcp, [::1]:9000-9001->9000-9001/tcp, 53/tcp",
    }
    assert Container.from_listing(entry) == Container(
        "edge",
        "caddy",
        "",
        running=True,
        published=(("127.0.0.1", 80), ("::", 443), ("::1", 9000), ("::1", 9001)),
        mounts=("/srv/caddy/data", "/srv/caddy/log", "a-volume"),
    )


class HereHost:
    """A host that is this machine, without Docker: the probe runs in this process."""

    shell_prints = ""

    def dead_addresses(self) -> tuple[str, ...]:
        return ()

    def run_docker(self, *arguments: str) -> str:
        return "20.10.24" if arguments[0] == "version" else ""

    def run_script(
        self, _script: Path, _options: tuple[str, ...], request: Any
    ) -> dict[str, object]:
        return probe.facts(**request)


def test_a_master_larger_than_0_dbs_memory_is_refused_before_anything_is_changed(
    zdb: ZdbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provider, "connect", lambda _: HereHost())
    monkeypatch.setattr(probe, "HOST", Path("/"))
    props: dict[str, Any] = {
        "host": {"dockerHost": "unix:///var/run/docker.sock"},
        "root": str(tmp_path / "srv"),
        "limits": {
            "cores": 1.0,
            "memoryBytes": 1e6,
            "freeBytes": 1e3,
            "dockerVersion": "20.10",
            "zdbMemoryBytes": float(bytes_for(1000)),
        },
        "ports": [],
        "upstream": [zdb_asked(zdb)],
    }
    with pytest.raises(PreflightError, match="nothing was changed") as refused:
        PreflightProvider().create(props)
    assert "error: zdb-memory: the master's 0-db holds 1234 keys" in str(refused.value)
    with pytest.raises(PreflightError):
        PreflightProvider().update("", {}, props)
    assert list(tmp_path.iterdir()) == []
    enough = {**props, "limits": {**props["limits"], "zdbMemoryBytes": float(bytes_for(1234))}}
    created = PreflightProvider().create(enough)
    assert created.outs is not None
    assert created.outs["findings"] == []
    lower = PreflightProvider().diff("", enough, props)
    assert lower.changes is ENGINE_COMPARES, "a lower limit is checked again"


def test_containers_that_the_stack_made_under_a_former_name_are_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = str(tmp_path / "srv")
    listed = {
        "Names": "gridhub-old-zdb",
        "Image": "0-db",
        "Labels": "gridhub.stack=old",
        "State": "running",
        "Mounts": f"{root}/0-db_data",
        "Ports": "127.0.0.1:9900->9900/tcp",
    }

    class Listing(HereHost):
        def run_docker(self, *arguments: str) -> str:
            return json.dumps(listed) if arguments[0] == "ps" else super().run_docker(*arguments)

    monkeypatch.setattr(provider, "connect", lambda _: Listing())
    monkeypatch.setattr(probe, "HOST", Path("/"))
    limits = {"cores": 1.0, "memoryBytes": 1e6, "freeBytes": 1e3, "dockerVersion": "20.10"}
    props: dict[str, Any] = {
        "host": {"dockerHost": "unix:///var/run/docker.sock"},
        "root": root,
        "limits": limits,
        "ports": [{"address": "127.0.0.1", "port": 9900.0}],
        "ownContainers": ["gridhub-new-zdb"],
    }
    with pytest.raises(PreflightError, match="used by container gridhub-old-zdb of another stack"):
        PreflightProvider().update("", {"ownContainers": []}, props)
    updated = PreflightProvider().update("", {"ownContainers": ["gridhub-old-zdb"]}, props)
    assert updated.outs is not None
    assert updated.outs["findings"] == []
    assert updated.outs["ownContainers"] == ["gridhub-new-zdb"]


@pytest.fixture
def inputs(local_host: dict[str, str], data_root: str) -> dict[str, Any]:
    port = free_port()
    return {
        "host": local_host,
        "root": data_root,
        "limits": {"cores": 1.0, "memoryBytes": 1e6, "freeBytes": 1e6, "dockerVersion": "20.10"},
        "ports": [{"address": "127.0.0.1", "port": float(port)}],
        "addresses": ["127.0.0.1", "::1"],
        "names": [],
        "upstream": [],
        "publicAddresses": [],
    }


@pytest.mark.docker
def test_a_good_host_passes_for_real(inputs: dict[str, Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as master:
        reachable = {"name": "hub", "host": "127.0.0.1", "port": float(master.getsockname()[1])}
        created = PreflightProvider().create({**inputs, "upstream": [reachable]})
    assert created.outs is not None
    assert created.outs["findings"] == []
    assert PreflightProvider().diff(created.id, created.outs, created.outs).changes is False


@pytest.mark.docker
def test_a_broken_host_is_refused_for_real_and_nothing_is_changed(
    inputs: dict[str, Any], data_root: str, tmp_path: Path
) -> None:
    Path(data_root).symlink_to(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        broken = {
            **inputs,
            "limits": {
                "cores": 999.0,
                "memoryBytes": 1e18,
                "freeBytes": 1e18,
                "dockerVersion": "99",
            },
            "ports": [{"address": "127.0.0.1", "port": float(taken.getsockname()[1])}],
            "addresses": ["203.0.113.10"],
            "publicAddresses": ["203.0.113.10", "203.0.113.11"],
            "upstream": [{"name": "hub", "host": "127.0.0.1", "port": 1.0}],
            "rootIsMount": True,
        }
        with pytest.raises(PreflightError, match="nothing was changed") as refused:
            PreflightProvider().create(broken)
    message = str(refused.value)
    checks = ["cores", "memory", "space", "data-root", "mount", "docker", "ports", "addresses"]
    assert [check for check in [*checks, "master"] if f"error: {check}:" not in message] == []
    assert "warning: addresses: the host itself has no address 203.0.113.11" in message
    assert list(tmp_path.iterdir()) == []
