"""What a stack tells people and other stacks."""

import shlex
from typing import Any
from urllib.parse import urlsplit

import pulumi

from components.agents import sync_outputs
from components.dns import as_output
from components.host import ssh_options
from components.mirror import Mirror, MirrorConfig
from components.naming import DockerNames
from components.specs import published_zdb, services


def stack_outputs(mirror: Mirror) -> dict[str, Any]:
    """Return the outputs by name; all but `hubSeed` are readable by anyone who sees the stack.

    `asSource` is what another stack takes as its `source`, `addresses` what a fleet's
    StackReference wants to know. `zosConfig` are the keys of a zos-config that lead nodes here,
    `workloadFlistUrl` is what a workload names (docs/nodes.md).
    """
    config = mirror.config
    settings = config.settings
    outputs: dict[str, Any] = {
        "urls": _urls(config),
        "dnsRecords": as_output(mirror.dns.records),
        "mode": mirror.guard.mode,
        "mirror": _told_by_up(
            {
                job: sync_outputs(sync)
                for job, sync in sorted((mirror.agents.syncs if mirror.agents else {}).items())
            }
        ),
        "commands": mirror.names.apply(lambda names: commands(config, names)),
        "addresses": {
            "ipv4": settings.public_addresses.ipv4,
            "ipv6": settings.public_addresses.ipv6,
            "subnets": {"ipv4": mirror.network.ipv4_subnet, "ipv6": mirror.network.ipv6_subnet},
        },
        "asSource": _as_source(config),
        "workloadFlistUrl": f"{config.url(config.naming.hub)}/REPOSITORY/NAME.flist",
        "zosConfig": _zos_config(config),
    }
    if settings.mode != "mirror":
        outputs["hubSeed"] = mirror.secrets.hub_seed
    return outputs


def _told_by_up(output: Any) -> Any:
    """Leave an output that moves while nothing changes open in a preview, which then shows none.

    What the jobs will have done by the end of an `up` is not known before it.
    """
    return pulumi.Output.from_input(pulumi.UNKNOWN) if pulumi.runtime.is_dry_run() else output


def _urls(config: MirrorConfig) -> dict[str, str]:
    naming, settings = config.naming, config.settings
    urls = {"hub": config.url(naming.hub), "zdb": f"zdb://{_zdb_address(config)}"}
    if settings.bootstrap.enabled:
        urls["bootstrap"] = config.url(naming.bootstrap)
    return urls


def _zdb_address(config: MirrorConfig) -> str:
    """Return HOST:PORT of 0-db, as it stands in a URL."""
    zdb = published_zdb(config.naming, config.settings)
    host = f"[{zdb.host}]" if ":" in zdb.host else zdb.host
    return f"{host}:{zdb.port}"


def _zos_config(config: MirrorConfig) -> dict[str, Any]:
    """Return the keys of zos-config (its production.json) that name a hub and its chunks."""
    address = _zdb_address(config)
    return {
        "flist_url": f"redis://{address}",
        "hub_storage": f"zdb://{address}",
        "hub_urls": [config.url(config.naming.hub)],
    }


def _as_source(config: MirrorConfig) -> dict[str, Any]:
    naming, settings = config.naming, config.settings
    zdb = published_zdb(naming, settings)
    source: dict[str, Any] = {
        "hub": [config.url(naming.hub)],
        "zdb": [{"host": zdb.host, "port": zdb.port, "namespace": zdb.namespace}],
    }
    if settings.bootstrap.enabled:
        source["bootstrap"] = [config.url(naming.bootstrap)]
    return source


def commands(config: MirrorConfig, names: DockerNames) -> dict[str, Any]:
    """Return shell lines: how to get onto the host, and to each container's log."""
    host = config.settings.host
    remote = host.docker.startswith("ssh://")
    # ssh's own options, as the docker command line takes none for an ssh:// host.
    words = ["ssh", *(ssh_options(host) or []), *_target(host.docker)]
    ssh = shlex.join(words) if remote else ""
    prefix = f"{ssh} docker" if remote else f"docker --host {host.docker}"
    logs = {
        service: f"{prefix} logs --tail 100 --follow {names.container(service)}"
        for service in services(config.naming, config.settings)
    }
    return {"ssh": ssh or "the host is this machine", "logs": logs}


def _target(docker_host: str) -> list[str]:
    """Return what ssh takes for an ssh:// host; it wants IPv6 addresses without brackets."""
    parts = urlsplit(docker_host)
    port = [] if parts.port is None else ["-p", str(parts.port)]
    return [*port, f"{parts.username}@{parts.hostname}"]
