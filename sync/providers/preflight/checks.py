"""What a preflight found: pure judgement of the host's facts against what the stack needs."""

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Final, Literal

from sync.contract import layout, zdb_memory
from sync.contract.preflight import Check
from sync.providers.jobs.outputs import bytes_in_words

# `0.0.0.0:80->80/tcp, :::80->80/tcp, 127.0.0.1:8000-8001->8000-8001/tcp`; later `[::]:80->…`.
_PUBLISHED: Final = re.compile(r"(\[?[0-9a-fA-F.:]+\]?):(\d+)(?:-(\d+))?->")
# A machine sold with 4 GB shows less: the kernel and the firmware keep some of it.
_KERNEL_SHARE: Final = 0.1
_UPSTREAM_NAMES: Final = frozenset({"0-db", "0-hub", "0-bootstrap", "caddy"})
_UPSTREAM_IMAGES: Final = ("ghcr.io/threefoldtech/0-", "ghcr.io/threefoldtech/zos_")
_COMPOSE_LABEL: Final = "com.docker.compose.project="
_STACK_LABEL: Final = "gridhub.stack="
_OUR_FOLDERS: Final = frozenset(
    directory.path.partition("/")[0] for directory in layout.directories(hub_writes=True)
)


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with the host. check: its name, to be ignored by."""

    level: Literal["error", "warning"]
    check: Check
    message: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.level}: {self.check}: {self.message}; {self.remedy}"


@dataclass(frozen=True)
class Container:
    """A container on the host. published: (address, port) bound on the host.

    mounts: paths of the host (and names of volumes) that it has mounted.
    """

    name: str
    image: str
    labels: str
    running: bool
    published: tuple[tuple[str, int], ...] = ()
    mounts: tuple[str, ...] = ()

    @classmethod
    def from_listing(cls, entry: Mapping[str, str]) -> "Container":
        """Read one line of `docker ps --no-trunc --format '{{json .}}'`."""
        return cls(
            name=entry["Names"],
            image=entry["Image"],
            labels=entry.get("Labels", ""),
            running=entry.get("State", "") == "running",
            published=tuple(
                (address.strip("[]"), port)
                for address, first, last in _PUBLISHED.findall(entry.get("Ports", ""))
                for port in range(int(first), int(last or first) + 1)
            ),
            mounts=tuple(mount for mount in entry.get("Mounts", "").split(",") if mount),
        )


@dataclass(frozen=True)
class Facts:
    """What the probe saw on the host (probe.facts) and what Docker told.

    unreachable: by HOST:PORT of the master, the reason. keys: how many the master's 0-db holds, by
    HOST:PORT; None where it did not tell.
    """

    cores: int
    memory_bytes: int
    root: Mapping[str, Any]
    listening: tuple[tuple[str, int], ...]
    foreign_addresses: tuple[str, ...]
    resolved: Mapping[str, list[str]]
    unreachable: Mapping[str, str]
    keys: Mapping[str, int | None] = field(default_factory=dict)
    docker_version: str = ""
    containers: tuple[Container, ...] = ()


@dataclass(frozen=True)
class Needs:
    """What the stack needs. first: nothing of this stack is on the host yet.

    upstream: by service of the master, its places (HOST:PORT), one of which has to answer.
    told_addresses: those that DNS records tell and nothing of the stack binds by name.
    ipv4_names: those of `names` that boot media ask, which know IPv4 only.
    zdb_memory_bytes: limit of the mirror's own 0-db, 0 where that does not matter.
    """

    root: str
    cores: int = 2
    memory_bytes: int = 8 * 10**9
    free_bytes: int = 10**12
    docker_version: str = "20.10"
    zdb_memory_bytes: int = 0
    ports: tuple[tuple[str, int], ...] = ()
    told_addresses: tuple[str, ...] = ()
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    ipv4_names: frozenset[str] = frozenset()
    upstream: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    own_containers: tuple[str, ...] = ()
    root_is_mount: bool = False
    dns_managed: bool = False
    first: bool = True


def judge(facts: Facts, needs: Needs, ignore: tuple[str, ...] = ()) -> list[Finding]:
    """Return every finding, errors first; a check in `ignore` yields warnings only."""
    found = [finding for check in _CHECKS for finding in check(facts, needs)]
    weighed = [
        Finding("warning", f.check, f.message, f.remedy) if f.check in ignore else f for f in found
    ]
    return sorted(weighed, key=lambda finding: finding.level)


def _size(facts: Facts, needs: Needs) -> Iterator[Finding]:
    if facts.cores < needs.cores:
        yield Finding(
            "error",
            "cores",
            f"the host has {facts.cores}, {needs.cores} are needed",
            "take a larger host, or lower preflight.cores",
        )
    if facts.memory_bytes < needs.memory_bytes * (1 - _KERNEL_SHARE):
        yield Finding(
            "error",
            "memory",
            f"the host has {bytes_in_words(facts.memory_bytes)}, "
            f"{bytes_in_words(needs.memory_bytes)} are needed",
            "add memory, or lower preflight.memoryMb",
        )


def _zdb_memory(facts: Facts, needs: Needs) -> Iterator[Finding]:
    told = [keys for keys in facts.keys.values() if keys is not None]
    if told and needs.zdb_memory_bytes:
        # However many names it has, it is one 0-db.
        yield from _room_for(max(told), facts, needs)
    for place in sorted(facts.keys) if not told else ():
        yield Finding(
            "warning",
            "zdb-memory",
            f"{place} does not tell how many keys it holds",
            "see that limits.zdb.memoryMb has room for them (130 bytes a key)",
        )


def _room_for(keys: int, facts: Facts, needs: Needs) -> Iterator[Finding]:
    """0-db is killed when its index passes the limit, and then again at each start."""
    wanted, limit = zdb_memory.mib_for(keys), needs.zdb_memory_bytes // zdb_memory.MIB
    if zdb_memory.keys_within(needs.zdb_memory_bytes) < keys:
        yield Finding(
            "error",
            "zdb-memory",
            f"the master's 0-db holds {keys} keys, for which 0-db needs {wanted} MB of memory; "
            f"limits.zdb.memoryMb is {limit}",
            f"set limits.zdb.memoryMb to {wanted} or more, with room for what comes",
        )
    whole = zdb_memory.bytes_for(keys) + zdb_memory.REST_OF_HOST_BYTES
    if facts.memory_bytes < whole:
        yield Finding(
            "error",
            "zdb-memory",
            f"the host has {bytes_in_words(facts.memory_bytes)}, {bytes_in_words(whole)} are "
            f"needed for the master's {keys} keys ({wanted} MB for 0-db, 1 GB for all else)",
            "add memory, or take a larger host",
        )


def _space(facts: Facts, needs: Needs) -> Iterator[Finding]:
    free = int(facts.root["free_bytes"])
    if free >= needs.free_bytes:
        return
    yield Finding(
        # What is missing later on may be what this very mirror has filled.
        "error" if needs.first else "warning",
        "space",
        f"{needs.root} has {bytes_in_words(free)} free, {bytes_in_words(needs.free_bytes)} "
        "are needed",
        "mount larger storage at the data root, or lower preflight.freeSpaceGb",
    )


def _data_root(facts: Facts, needs: Needs) -> Iterator[Finding]:
    root = facts.root
    if root["is_link"] or not root["is_directory"]:
        yield Finding(
            "error",
            "data-root",
            f"{needs.root} is {'a symbolic link' if root['is_link'] else 'no directory'}",
            "mount the storage there instead, or name another dataRoot",
        )
    if root["read_only"]:
        yield Finding(
            "error",
            "data-root",
            f"{needs.root} is on a read-only file system",
            "mount it read-write (see dmesg for why it may have become read-only)",
        )
    if needs.root_is_mount and not root["is_mount"]:
        yield Finding(
            "error",
            "mount",
            f"{needs.root} is not a mount point, yet the stack says that it is one",
            "mount the storage there (see /etc/fstab), or unset preflight.dataRootIsMount",
        )


def _neighbours(facts: Facts, needs: Needs) -> Iterator[Finding]:
    for container in facts.containers:
        if container.name in needs.own_containers or _STACK_LABEL not in container.labels:
            continue
        if any(_in_our_folders(mount, needs.root) for mount in container.mounts):
            yield Finding(
                "error",
                "data-root",
                f"{needs.root} is used by container {container.name} of another stack",
                "give each stack a dataRoot of its own, or remove that container",
            )


def _in_our_folders(mount: str, root: str) -> bool:
    path = PurePosixPath(mount)
    if not path.is_relative_to(root) or path == PurePosixPath(root):
        return False
    return path.relative_to(root).parts[0] in _OUR_FOLDERS


def _docker(facts: Facts, needs: Needs) -> Iterator[Finding]:
    if _version(facts.docker_version) < _version(needs.docker_version):
        yield Finding(
            "error",
            "docker",
            f"Docker Engine is {facts.docker_version}, {needs.docker_version} is needed",
            "upgrade it on the host (apt install docker.io, or Docker's own packages)",
        )


def _version(text: str) -> tuple[int, ...]:
    plain = re.match(r"[\d.]+", text)
    return tuple(int(number) for number in re.findall(r"\d+", plain[0] if plain else ""))


def _ports(facts: Facts, needs: Needs) -> Iterator[Finding]:
    ours = [c for c in facts.containers if c.name in needs.own_containers]
    others = [c for c in facts.containers if c.name not in needs.own_containers and c.running]
    held = [place for container in ours for place in container.published]
    for place in needs.ports:
        holder = next(
            (c.name for c in others if any(_overlap(place, other) for other in c.published)), None
        )
        taken = [other for other in facts.listening if _overlap(place, other) and other not in held]
        if holder is None and not taken:
            continue
        who = f"container {holder}" if holder else f"a program on {_place(taken[0])}"
        yield Finding(
            "error",
            "ports",
            f"{_place(place)} is taken by {who}",
            "stop it (`ss -ltnp` on the host names programs), or bind another address or port",
        )


def _overlap(wanted: tuple[str, int], held: tuple[str, int]) -> bool:
    if wanted[1] != held[1]:
        return False
    one, two = ipaddress.ip_address(wanted[0]), ipaddress.ip_address(held[0])
    if one == two or "::" in (str(one), str(two)):
        return True  # a socket on :: takes IPv4 as well, unless it says otherwise
    return one.version == two.version and (one.is_unspecified or two.is_unspecified)


def _place(place: tuple[str, int]) -> str:
    return f"[{place[0]}]:{place[1]}" if ":" in place[0] else f"{place[0]}:{place[1]}"


def _addresses(facts: Facts, needs: Needs) -> Iterator[Finding]:
    for address in facts.foreign_addresses:
        if ipaddress.ip_address(address).is_unspecified:
            family = ipaddress.ip_address(address).version
            yield Finding(
                "error",
                "addresses",
                f"the host has no IPv{family}",
                "enable it on the host (kernel parameters, sysctl): the stack has both families",
            )
        elif address in needs.told_addresses:
            yield Finding(
                "warning",
                "addresses",
                f"the host itself has no address {address}",
                "correct publicAddresses, unless NAT in front of the host leads there",
            )
        else:
            yield Finding(
                "error",
                "addresses",
                f"the host has no address {address}",
                "correct bind, or configure the address on the host (`ip address`)",
            )


def _names(facts: Facts, needs: Needs) -> Iterator[Finding]:
    for name, addresses in sorted(needs.names.items()):
        # A loopback address comes from the host's own /etc/hosts, and says nothing about DNS.
        told = facts.resolved.get(name) or []
        found = [a for a in told if a in addresses or not ipaddress.ip_address(a).is_loopback]
        missing = sorted(set(addresses) - set(found))
        elsewhere = sorted(set(found) - set(addresses))
        if elsewhere:
            yield Finding(
                "warning" if needs.dns_managed else "error",
                "dns",
                f"{name} points to {', '.join(elsewhere)}, not to {', '.join(addresses)}",
                "this stack sets it" if needs.dns_managed else "correct its A and AAAA records",
            )
        elif not found and not needs.dns_managed:
            yield Finding(
                "warning",
                "dns",
                f"{name} does not resolve",
                "set the records that the stack's output dnsRecords lists",
            )
        elif name in needs.ipv4_names and found and not _any_ipv4(found):
            yield Finding(
                "warning" if needs.dns_managed else "error",
                "dns",
                f"{name} has no A record, and boot media load their kernel over IPv4 only",
                "this stack sets it"
                if needs.dns_managed
                else "set the A records that the stack's output dnsRecords lists",
            )
        elif missing and not needs.dns_managed:
            yield Finding(
                "warning",
                "dns",
                f"{name} does not lead to {', '.join(missing)}",
                "set the records that the stack's output dnsRecords lists",
            )


def _any_ipv4(addresses: Iterable[str]) -> bool:
    return any(ipaddress.ip_address(address).version == 4 for address in addresses)  # noqa: PLR2004


def _compose(facts: Facts, needs: Needs) -> Iterator[Finding]:
    for container in facts.containers:
        if container.name in needs.own_containers or not _is_upstream(container):
            continue
        yield Finding(
            "error" if container.running else "warning",
            "compose",
            f"container {container.name} of an upstream deployment is in the way",
            "end that deployment with `docker compose down` in its folder (its data stay)",
        )


def _is_upstream(container: Container) -> bool:
    by_compose = _COMPOSE_LABEL in container.labels and container.name in _UPSTREAM_NAMES
    return by_compose or (
        container.image.startswith(_UPSTREAM_IMAGES) and container.name in _UPSTREAM_NAMES
    )


def _leftovers(facts: Facts, needs: Needs) -> Iterator[Finding]:
    for container in facts.containers:
        if not needs.first or container.name not in needs.own_containers:
            continue
        if _data_elsewhere(container, needs.root):
            yield Finding(
                "error",
                "containers",
                f"container {container.name} belongs to another stack, whose data are not in "
                f"{needs.root}: it is called as this one, or was before a `pulumi stack rename`",
                "give this stack another name; where it has brought up nothing yet: `pulumi "
                "destroy`, `pulumi stack rm --preserve-config`, move its stack file, `pulumi stack "
                "init`",
            )
        else:
            yield Finding(
                "warning",
                "containers",
                f"container {container.name} exists already, and the stack does not know it",
                f"if its creation fails: docker rm --force {container.name} (the data stay)",
            )


def _data_elsewhere(container: Container, root: str) -> bool:
    """Tell a stack's container that works on another data root."""
    places = [PurePosixPath(mount) for mount in container.mounts if mount.startswith("/")]
    return (
        _STACK_LABEL in container.labels
        and bool(places)
        and not any(place.is_relative_to(root) for place in places)
    )


def _upstream(facts: Facts, needs: Needs) -> Iterator[Finding]:
    for name, places in sorted(needs.upstream.items()):
        dead = [place for place in places if place in facts.unreachable]
        spare = [place for place in places if place not in dead]
        for place in dead:
            yield Finding(
                "warning" if spare else "error",
                "master",
                f"{name} ({place}) can not be reached from the host: {facts.unreachable[place]}",
                f"{spare[0]} is used meanwhile; remove the dead one if it is gone for good"
                if spare
                else "correct the source, or open the host's way out to it",
            )


_CHECKS: Final[tuple[Callable[[Facts, Needs], Iterator[Finding]], ...]] = (
    _size,
    _zdb_memory,
    _space,
    _data_root,
    _neighbours,
    _docker,
    _ports,
    _addresses,
    _names,
    _compose,
    _leftovers,
    _upstream,
)
