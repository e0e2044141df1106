"""The preflight's checks: pure judgement of the host's facts against the stack's needs."""

import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import PurePosixPath
from typing import Final, Literal

from rich.filesize import decimal

from sync.contract import layout, zdb_memory
from sync.contract.preflight import Check
from sync.providers.base import HostInputs, Model, Whole

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
    """What the probe saw on the host (probe.facts), and what Docker says.

    is_directory to read_only: of the data root and its file system. unreachable: by HOST:PORT of
    the master, the reason. keys: how many the master's 0-db holds, by HOST:PORT; None where it
    does not say. first: nothing of this stack is on the host yet. shell_prints: before each command
    over SSH. dead_addresses: of the SSH server's name, though it answers at another one.
    """

    cores: int
    memory_bytes: int
    is_directory: bool
    is_link: bool
    is_mount: bool
    free_bytes: int
    read_only: bool
    listening: tuple[tuple[str, int], ...]
    foreign_addresses: tuple[str, ...]
    resolved: Mapping[str, tuple[str, ...]]
    unreachable: Mapping[str, str]
    keys: Mapping[str, int | None] = field(default_factory=dict)
    docker_version: str = ""
    containers: tuple[Container, ...] = ()
    first: bool = True
    shell_prints: str = ""
    dead_addresses: tuple[str, ...] = ()


class Limits(Model):
    """What the host must at least have; zdb_memory_bytes: of 0-db, 0 where that is no matter."""

    cores: Whole = 2
    memory_bytes: Whole = 8 * 10**9
    free_bytes: Whole = 10**12
    docker_version: str = "20.10"
    zdb_memory_bytes: Whole = 0


class Binding(Model):
    """An address and port that the stack binds on the host."""

    address: str
    port: Whole


class DnsName(Model):
    """A name and the addresses it should resolve to; boot_media: asked over IPv4 only."""

    name: str
    addresses: tuple[str, ...]
    boot_media: bool = False


class Master(Model):
    """A service of the master under one of its names; namespace: of a 0-db that is copied whole."""

    name: str
    host: str
    port: Whole
    namespace: str | None = None

    @property
    def endpoint(self) -> str:
        """HOST:PORT."""
        return f"{self.host}:{self.port}"


class Needs(HostInputs):
    """What the stack needs: see resources.Preflight."""

    limits: Limits = Limits()
    ports: tuple[Binding, ...] = ()
    addresses: tuple[str, ...] = ()
    public_addresses: tuple[str, ...] = ()
    names: tuple[DnsName, ...] = ()
    upstream: tuple[Master, ...] = ()
    own_containers: tuple[str, ...] = ()
    root_is_mount: bool = False
    dns_managed: bool = False
    ignore: tuple[str, ...] = ()


_error: Final = partial(Finding, "error")
_warning: Final = partial(Finding, "warning")


def judge(facts: Facts, needs: Needs) -> list[Finding]:
    """Return every finding, errors first; an ignored check yields warnings only."""
    found = [finding for check in _CHECKS for finding in check(facts, needs)]
    weighed = [replace(f, level="warning") if f.check in needs.ignore else f for f in found]
    return sorted(weighed, key=lambda finding: finding.level)


def _limits(facts: Facts, needs: Needs) -> Iterator[Finding]:
    limits, free_bytes = needs.limits, facts.free_bytes
    if facts.cores < limits.cores:
        yield _error(
            "cores",
            f"the host has {facts.cores}, {limits.cores} are needed",
            "take a larger host, or lower preflight.cores",
        )
    if facts.memory_bytes < limits.memory_bytes * (1 - _KERNEL_SHARE):
        yield _error(
            "memory",
            f"the host has {decimal(facts.memory_bytes)}, "
            f"{decimal(limits.memory_bytes)} are needed",
            "add memory, or lower preflight.memoryMb",
        )
    if free_bytes < limits.free_bytes:
        yield Finding(
            # What is missing later on may be what this very mirror has filled.
            "error" if facts.first else "warning",
            "space",
            f"{needs.root} has {decimal(free_bytes)} free, {decimal(limits.free_bytes)} are needed",
            "mount larger storage at the data root, or lower preflight.freeSpaceGb",
        )
    if _version(facts.docker_version) < _version(limits.docker_version):
        yield _error(
            "docker",
            f"Docker Engine is {facts.docker_version}, {limits.docker_version} is needed",
            "upgrade it on the host (apt install docker.io, or Docker's own packages)",
        )


def _version(text: str) -> tuple[int, ...]:
    plain = re.split(r"[^\d.]", text, maxsplit=1)[0]
    return tuple(int(number) for number in re.findall(r"\d+", plain))


def _zdb_memory(facts: Facts, needs: Needs) -> Iterator[Finding]:
    """0-db is killed when its index passes the limit, and then again at each start."""
    counts = [keys for keys in facts.keys.values() if keys is not None]
    for endpoint in sorted(facts.keys) if not counts else ():
        yield _warning(
            "zdb-memory",
            f"{endpoint} does not say how many keys it holds",
            "see that limits.zdb.memoryMb has room for them (130 bytes a key)",
        )
    limit_bytes = needs.limits.zdb_memory_bytes
    if not counts or not limit_bytes:
        return
    keys = max(counts)  # however many names it has, it is one 0-db
    wanted = zdb_memory.mib_for(keys)
    if zdb_memory.keys_within(limit_bytes) < keys:
        yield _error(
            "zdb-memory",
            f"the master's 0-db holds {keys} keys, for which 0-db needs {wanted} MB of memory; "
            f"limits.zdb.memoryMb is {limit_bytes // zdb_memory.MIB}",
            f"set limits.zdb.memoryMb to {wanted} or more, with room for what comes",
        )
    whole = zdb_memory.bytes_for(keys) + zdb_memory.REST_OF_HOST_BYTES
    if facts.memory_bytes < whole:
        yield _error(
            "zdb-memory",
            f"the host has {decimal(facts.memory_bytes)}, {decimal(whole)} are "
            f"needed for the master's {keys} keys ({wanted} MB for 0-db, 1 GB for all else)",
            "add memory, or take a larger host",
        )


def _data_root(facts: Facts, needs: Needs) -> Iterator[Finding]:
    if facts.is_link or not facts.is_directory:
        yield _error(
            "data-root",
            f"{needs.root} is {'a symbolic link' if facts.is_link else 'no directory'}",
            "mount the storage there instead, or name another dataRoot",
        )
    if facts.read_only:
        yield _error(
            "data-root",
            f"{needs.root} is on a read-only file system",
            "mount it read-write (see dmesg for why it may have become read-only)",
        )
    if needs.root_is_mount and not facts.is_mount:
        yield _error(
            "mount",
            f"{needs.root} is not a mount point, yet the stack says that it is one",
            "mount the storage there (see /etc/fstab), or unset preflight.dataRootIsMount",
        )


def _ports(facts: Facts, needs: Needs) -> Iterator[Finding]:
    ours = [c for c in facts.containers if c.name in needs.own_containers]
    others = [c for c in facts.containers if c.name not in needs.own_containers and c.running]
    own = [pair for container in ours for pair in container.published]
    for wanted in ((binding.address, binding.port) for binding in needs.ports):
        users = [
            f"container {c.name}" for c in others if any(_overlap(wanted, p) for p in c.published)
        ]
        users += [
            f"a program on {_address(pair)}"
            for pair in facts.listening
            if _overlap(wanted, pair) and pair not in own
        ]
        if users:
            yield _error(
                "ports",
                f"{_address(wanted)} is taken by {users[0]}",
                "stop it (`ss -ltnp` on the host names programs), or bind another address or port",
            )


def _overlap(wanted: tuple[str, int], taken: tuple[str, int]) -> bool:
    if wanted[1] != taken[1]:
        return False
    one, two = ipaddress.ip_address(wanted[0]), ipaddress.ip_address(taken[0])
    if one == two or "::" in (str(one), str(two)):
        return True  # a socket on :: takes IPv4 as well, unless it says otherwise
    return one.version == two.version and (one.is_unspecified or two.is_unspecified)


def _address(pair: tuple[str, int]) -> str:
    return f"[{pair[0]}]:{pair[1]}" if ":" in pair[0] else f"{pair[0]}:{pair[1]}"


def _addresses(facts: Facts, needs: Needs) -> Iterator[Finding]:
    for address in facts.foreign_addresses:
        if ipaddress.ip_address(address).is_unspecified:
            yield _error(
                "addresses",
                f"the host has no IPv{ipaddress.ip_address(address).version}",
                "enable it on the host (kernel parameters, sysctl): the stack has both families",
            )
        elif address in needs.public_addresses and address not in needs.addresses:
            yield _warning(
                "addresses",
                f"the host itself has no address {address}",
                "correct publicAddresses, unless NAT in front of the host leads there",
            )
        else:
            yield _error(
                "addresses",
                f"the host has no address {address}",
                "correct bind, or configure the address on the host (`ip address`)",
            )


def _names(facts: Facts, needs: Needs) -> Iterator[Finding]:
    for name in sorted(needs.names, key=lambda name: name.name):
        for finding in _resolution(name, facts.resolved.get(name.name) or ()):
            if not needs.dns_managed:
                yield finding
            elif finding.level == "error":
                yield _warning("dns", finding.message, "this stack sets it")


def _resolution(wanted: DnsName, resolved: Iterable[str]) -> Iterator[Finding]:
    name, addresses = wanted.name, wanted.addresses
    # A loopback address comes from the host's own /etc/hosts, and says nothing about DNS.
    found = [a for a in resolved if a in addresses or not ipaddress.ip_address(a).is_loopback]
    remedy = "set the {} that the stack's output dnsRecords lists".format
    if elsewhere := sorted(set(found) - set(addresses)):
        yield _error(
            "dns",
            f"{name} points to {', '.join(elsewhere)}, not to {', '.join(addresses)}",
            "correct its A and AAAA records",
        )
    elif not found:
        yield _warning("dns", f"{name} does not resolve", remedy("records"))
    elif wanted.boot_media and all(":" in address for address in found):
        yield _error(
            "dns",
            f"{name} has no A record, and boot media load their kernel over IPv4 only",
            remedy("A records"),
        )
    elif missing := sorted(set(addresses) - set(found)):
        yield _warning("dns", f"{name} does not lead to {', '.join(missing)}", remedy("records"))


def _containers(facts: Facts, needs: Needs) -> Iterator[Finding]:
    for container in facts.containers:
        name, by_compose = container.name, _COMPOSE_LABEL in container.labels
        if name in needs.own_containers:
            if facts.first:
                yield _leftover(container, needs.root)
            continue
        mounts = container.mounts if _STACK_LABEL in container.labels else ()
        if any(_in_our_folders(mount, needs.root) for mount in mounts):
            yield _error(
                "data-root",
                f"{needs.root} is used by container {name} of another stack",
                "give each stack a dataRoot of its own, or remove that container",
            )
        if name in _UPSTREAM_NAMES and (by_compose or container.image.startswith(_UPSTREAM_IMAGES)):
            yield Finding(
                "error" if container.running else "warning",
                "compose",
                f"container {name} of an upstream deployment is in the way",
                "end that deployment with `docker compose down` in its folder (its data stay)",
            )


def _in_our_folders(mount: str, root: str) -> bool:
    path = PurePosixPath(mount)
    return path.is_relative_to(root) and not _OUR_FOLDERS.isdisjoint(
        path.relative_to(root).parts[:1]
    )


def _leftover(container: Container, root: str) -> Finding:
    paths = [PurePosixPath(mount) for mount in container.mounts if mount.startswith("/")]
    elsewhere = bool(paths) and not any(path.is_relative_to(root) for path in paths)
    if elsewhere and _STACK_LABEL in container.labels:
        return _error(
            "containers",
            f"container {container.name} belongs to another stack, whose data are not in "
            f"{root}: it is called as this one, or was before a `pulumi stack rename`",
            "give this stack another name; where it has brought up nothing yet: `pulumi destroy`, "
            "`pulumi stack rm --preserve-config`, move its stack file, `pulumi stack init`",
        )
    return _warning(
        "containers",
        f"container {container.name} exists already, and the stack does not know it",
        f"if its creation fails: docker rm --force {container.name} (the data stay)",
    )


def _upstream(facts: Facts, needs: Needs) -> Iterator[Finding]:
    for service in sorted({master.name for master in needs.upstream}):
        endpoints = [master.endpoint for master in needs.upstream if master.name == service]
        spare = [endpoint for endpoint in endpoints if endpoint not in facts.unreachable]
        for dead in (endpoint for endpoint in endpoints if endpoint in facts.unreachable):
            yield Finding(
                "warning" if spare else "error",
                "master",
                f"{service} ({dead}) cannot be reached from the host: {facts.unreachable[dead]}",
                f"{spare[0]} is used meanwhile; remove the dead one if it is gone for good"
                if spare
                else "correct the source, or open the host's way out to it",
            )


def _ssh(facts: Facts, needs: Needs) -> Iterator[Finding]:
    where = needs.host.docker_host
    if facts.shell_prints:
        yield _error(
            "ssh",
            f"the login shell of {where} prints before each command ({facts.shell_prints!r}), "
            "which Docker's client takes for Docker's answer",
            "let its start files print for people only: begin ~/.bashrc over there with "
            "`[[ $- == *i* ]] || return`, and see /etc/bash.bashrc, ~/.zshenv, ~/.cshrc, ~/.ssh/rc",
        )
    if facts.dead_addresses:
        yield _warning(
            "ssh",
            f"nobody answers at {', '.join(facts.dead_addresses)}, to which the name in {where} "
            "leads as well; ssh waits for that each time that Docker is talked to",
            "correct its A and AAAA records, or give the address that answers in host.docker",
        )


_CHECKS: Final = (
    *(_ssh, _limits, _zdb_memory, _data_root, _ports, _addresses, _names, _containers, _upstream),
)
