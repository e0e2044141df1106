"""The host is looked at before the first change: all findings at once, each with its remedy."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Final

import pulumi
from pydantic import TypeAdapter

from sync.providers.base import Model, Provider
from sync.providers.host.connection import HostError
from sync.providers.host.host import Host, connect
from sync.providers.preflight.checks import Container, Facts, Needs, judge

_PROBE: Final = Path(__file__).with_name("probe.py")
_PROBE_OPTIONS: Final = ("--network=host", "--mount=type=bind,source=/,target=/host,readonly")
_FACTS: Final = TypeAdapter(Facts)


class PreflightError(HostError):
    """The host does not meet the requirements; `str()` has one finding a line."""


class PreflightOutputs(Model):
    """findings: a line each. own_containers: names that the stack's containers had then."""

    findings: tuple[str, ...] = ()
    own_containers: tuple[str, ...] = ()


def gather(host: Host, needs: Needs, *, first: bool) -> Facts:
    """See the host as it is; HostError where it cannot even be asked."""
    version = host.run_docker("version", "--format", "{{.Server.Version}}").strip()
    listing = host.run_docker("ps", "--all", "--no-trunc", "--format", "{{json .}}")
    masters = [
        {**master.model_dump(exclude_none=True), "name": master.endpoint}
        for master in needs.upstream
    ]
    request = {
        "root": needs.root,
        "addresses": list(dict.fromkeys([*needs.addresses, *needs.public_addresses])),
        "names": [name.name for name in needs.names],
        "upstream": masters,
    }
    seen = _FACTS.validate_python(host.run_script(_PROBE, _PROBE_OPTIONS, request))
    containers = tuple(Container.from_listing(json.loads(line)) for line in listing.splitlines())
    return replace(
        seen,
        docker_version=version,
        containers=containers,
        first=first,
        shell_prints=host.shell_prints,
        dead_addresses=host.dead_addresses(),
    )


class PreflightProvider(Provider[Needs, PreflightOutputs]):
    """Checks the host when the stack begins and when what it needs changes.

    A refresh leaves the findings: a preflight is about the moment before a change.
    """

    inputs_type = Needs
    outputs_type = PreflightOutputs
    id_form = "{0.root}#preflight"

    def apply(self, inputs: Needs, before: PreflightOutputs | None) -> PreflightOutputs:
        """Check; PreflightError with every finding if one of them is an error."""
        # Under the names that they had before, its containers still hold ports and data root.
        former = before.own_containers if before else ()
        needs = inputs.model_copy(update={"own_containers": (*inputs.own_containers, *former)})
        found = judge(gather(connect(inputs.host), needs, first=before is None), needs)
        lines = [str(finding) for finding in found]
        if any(finding.level == "error" for finding in found):
            raise PreflightError(
                "the host does not meet the requirements, nothing was changed:\n"
                + "\n".join(f"  {line}" for line in lines)
            )
        for finding in found:
            pulumi.log.warn(f"preflight: {finding.check}: {finding.message}; {finding.remedy}")
        return PreflightOutputs(findings=tuple(lines), own_containers=inputs.own_containers)
