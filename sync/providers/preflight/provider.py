"""What the host must be before the first change: all findings at once, each with its remedy."""

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Final

import pulumi
from pulumi.dynamic import CreateResult, DiffResult, ReadResult, UpdateResult

from sync.providers.base import HostProvider, decided
from sync.providers.host.connection import HostError
from sync.providers.host.host import Host, connect
from sync.providers.preflight.checks import Container, Facts, Finding, Needs, judge
from sync.providers.props import changed_inputs, integer

_INPUTS: Final[tuple[str, ...]] = (
    *("host", "root", "limits", "ports", "addresses", "publicAddresses", "names", "upstream"),
    *("ownContainers", "rootIsMount", "dnsManaged", "ignore"),
)
_PROBE_OPTIONS: Final = (
    "--network=host",
    "--mount=type=bind,source=/,target=/host,readonly",
)


class PreflightError(HostError):
    """The host will not do; `str()` has one finding a line. Nothing was changed."""


def needs_of(props: Mapping[str, Any], *, first: bool) -> Needs:
    """Read what the stack needs from a resource's inputs; absent limits keep their defaults."""
    limits = props.get("limits") or {}
    defaults = Needs(root=props["root"])
    return Needs(
        root=props["root"],
        cores=integer(limits.get("cores", defaults.cores)),
        memory_bytes=integer(limits.get("memoryBytes", defaults.memory_bytes)),
        free_bytes=integer(limits.get("freeBytes", defaults.free_bytes)),
        docker_version=str(limits.get("dockerVersion", defaults.docker_version)),
        zdb_memory_bytes=integer(limits.get("zdbMemoryBytes", defaults.zdb_memory_bytes)),
        ports=tuple((port["address"], integer(port["port"])) for port in props.get("ports") or ()),
        told_addresses=tuple(
            address
            for address in props.get("publicAddresses") or ()
            if address not in (props.get("addresses") or ())
        ),
        names={entry["name"]: tuple(entry["addresses"]) for entry in props.get("names") or ()},
        ipv4_names=frozenset(
            entry["name"] for entry in props.get("names") or () if entry.get("bootMedia")
        ),
        upstream=_upstream_places(props),
        own_containers=tuple(props.get("ownContainers") or ()),
        root_is_mount=bool(props.get("rootIsMount")),
        dns_managed=bool(props.get("dnsManaged")),
        first=first,
    )


def gather(host: Host, props: Mapping[str, Any]) -> Facts:
    """See the host as it is; HostError where it can not even be asked."""
    version = host.run_docker("version", "--format", "{{.Server.Version}}").strip()
    listing = host.run_docker("ps", "--all", "--no-trunc", "--format", "{{json .}}")
    request = {
        "root": props["root"],
        "addresses": _looked_for(props),
        "names": [entry["name"] for entry in props.get("names") or ()],
        "upstream": [
            {**entry, "name": _place(entry), "port": integer(entry["port"])}
            for entry in props.get("upstream") or ()
        ],
    }
    seen = host.run_script(probe_source(), _PROBE_OPTIONS, request)
    return Facts(
        cores=seen["cores"],
        memory_bytes=seen["memory_bytes"],
        root=seen["root"],
        listening=tuple((address, port) for address, port in seen["listening"]),
        foreign_addresses=tuple(seen["foreign_addresses"]),
        resolved=seen["resolved"],
        unreachable=seen["unreachable"],
        keys=seen["keys"],
        docker_version=version,
        containers=tuple(
            Container.from_listing(json.loads(line)) for line in listing.splitlines() if line
        ),
    )


def _upstream_places(props: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Return the places of each service of the master, the preferred one first."""
    places: dict[str, tuple[str, ...]] = {}
    for entry in props.get("upstream") or ():
        places[entry["name"]] = (*places.get(entry["name"], ()), _place(entry))
    return places


def _place(entry: Mapping[str, Any]) -> str:
    return f"{entry['host']}:{integer(entry['port'])}"


def _looked_for(props: Mapping[str, Any]) -> list[str]:
    """Return the addresses that the host is asked for, each once."""
    wanted = [*(props.get("addresses") or ()), *(props.get("publicAddresses") or ())]
    return list(dict.fromkeys(wanted))


@cache
def probe_source() -> bytes:
    """Source of preflight_probe.py, as it is sent to the host."""
    return Path(__file__).with_name("probe.py").read_bytes()


class PreflightProvider(HostProvider):
    """Checks the host when the stack begins and when what it needs changes."""

    def create(self, props: dict[str, Any]) -> CreateResult:
        """Check; PreflightError with every finding if one of them is an error."""
        return CreateResult(f"{props['root']}#preflight", _checked(props, first=True))

    def update(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> UpdateResult:
        """Check again: the stack needs something else now, and has what it made before."""
        before = tuple(_olds.get("ownContainers") or ())
        return UpdateResult(_checked(_news, first=False, before=before))

    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:
        """Return what was found then: a preflight is about the moment before a change."""
        return ReadResult(id_, {key: props.get(key) for key in (*_INPUTS, "findings")})

    def diff(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> DiffResult:
        """Tell changed needs."""
        return decided(_olds, changed=bool(changed_inputs(_INPUTS, _olds, _news)))


def _checked(
    props: Mapping[str, Any], *, first: bool, before: tuple[str, ...] = ()
) -> dict[str, Any]:
    """before: names that the stack's containers had; those still hold ports and data root."""
    facts = gather(connect(props["host"]), props)
    needs = needs_of(props, first=first)
    needs = replace(needs, own_containers=(*needs.own_containers, *before))
    found = judge(facts, needs, tuple(props.get("ignore") or ()))
    _refuse(found)
    for finding in found:
        pulumi.log.warn(f"preflight: {finding.check}: {finding.message}; {finding.remedy}")
    inputs = {key: props.get(key) for key in _INPUTS}
    return {**inputs, "findings": [str(finding) for finding in found]}


def _refuse(found: list[Finding]) -> None:
    if any(finding.level == "error" for finding in found):
        lines = "\n".join(f"  {finding}" for finding in found)
        raise PreflightError(f"the host will not do, nothing was changed:\n{lines}")
