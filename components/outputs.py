"""The outputs of a stack, for people and for other stacks."""

import shlex
from dataclasses import asdict
from typing import Any

import pulumi

from components.host import ssh_command
from components.mirror import Mirror
from components.naming import DockerNames, Stack
from components.sync_jobs import Sync
from components.zdb import published_zdb


def stack_outputs(mirror: Mirror) -> dict[str, Any]:
    """Return the outputs by name; all but `hubSeed` are readable by anyone who sees the stack.

    `asSource` is what another stack takes as its `source`, `addresses` what a fleet's
    StackReference wants to know. `zosConfig` are the keys of a zos-config that lead nodes here,
    `workloadFlistUrl` is what a workload names (docs/nodes.md).
    """
    stack, settings, syncs = mirror.stack, mirror.stack.settings, mirror.syncs
    hub, bootstrap, zdb = stack.url(stack.hub), stack.url(stack.bootstrap), published_zdb(stack)
    urls = {"hub": hub, "zdb": f"zdb://{zdb.address}"}
    source: dict[str, Any] = {"hub": [hub], "zdb": [zdb.model_dump()]}
    if settings.bootstrap.enabled:
        urls["bootstrap"] = bootstrap
        source["bootstrap"] = [bootstrap]
    outputs: dict[str, Any] = {
        "urls": urls,
        "dnsRecords": [asdict(record) for record in mirror.dns.records],
        "mode": mirror.guard.mode,
        "mirror": _known_after_up({job: _of_job(syncs[job]) for job in sorted(syncs)}),
        "commands": mirror.names.apply(lambda names: _commands(stack, names)),
        "addresses": {
            "ipv4": settings.public_addresses.ipv4,
            "ipv6": settings.public_addresses.ipv6,
            "subnets": {"ipv4": mirror.network.ipv4_subnet, "ipv6": mirror.network.ipv6_subnet},
        },
        "asSource": source,
        "workloadFlistUrl": f"{hub}/REPOSITORY/NAME.flist",
        # As zos-config's production.json names a hub and its chunks.
        "zosConfig": {
            "flist_url": f"redis://{zdb.address}",
            "hub_storage": f"zdb://{zdb.address}",
            "hub_urls": [hub],
        },
    }
    if settings.writable:
        outputs["hubSeed"] = mirror.secrets.hub_seed
    return outputs


def _of_job(sync: Sync) -> dict[str, Any]:
    """Return what a stack's output shows of one job."""
    fields = ("phase", "firstPassAt", "done", "total", "lag")
    return {
        "healthy": sync.healthy,
        "reason": sync.reason,
        "summary": sync.summary,
        "broken": sync.broken,
        **{key: _of_record(sync, key) for key in fields},
    }


def _of_record(sync: Sync, key: str) -> pulumi.Output[Any]:
    return sync.record.apply(lambda record: (record or {}).get(key))


def _known_after_up(output: Any) -> Any:
    """Leave an output that moves while nothing changes open in a preview, which then shows none.

    What the jobs will have done by the end of an `up` is not known before it.
    """
    return pulumi.Output.from_input(pulumi.UNKNOWN) if pulumi.runtime.is_dry_run() else output


def _commands(stack: Stack, names: DockerNames) -> dict[str, Any]:
    """Return shell lines: how to get onto the host, and to each container's log."""
    host = stack.settings.host
    remote = host.docker.startswith("ssh://")
    # ssh's own options, as the docker command line takes none for an ssh:// host.
    ssh = shlex.join(ssh_command(host)) if remote else ""
    prefix = f"{ssh} docker" if remote else f"docker --host {host.docker}"
    logs = {
        service: f"{prefix} logs --tail 100 --follow {names.container(service)}"
        for service in stack.services
    }
    return {"ssh": ssh or "the host is this machine", "logs": logs}
