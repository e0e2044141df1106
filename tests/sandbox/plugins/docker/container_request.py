"""The Engine API's request for a container, from its planned state.

The shapes are those of POST /containers/create of the Engine API 1.41.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tests.sandbox.plugins.conversion import State
from tests.sandbox.plugins.resource import ResourceError
from tests.sandbox.plugins.values import UNKNOWN

_MEBIBYTE = 1024 * 1024
_NANOSECONDS = 1_000_000_000
_UNITS = {"ns": 1, "us": 1_000, "µs": 1_000, "ms": 1_000_000, "s": _NANOSECONDS}
_UNITS |= {"m": 60 * _NANOSECONDS, "h": 3600 * _NANOSECONDS}


def value_of(state: Mapping[str, Any], name: str, default: Any = None) -> Any:
    """Return a planned value, or the default where it is unset or not known."""
    value = state.get(name)
    return default if value is None or value is UNKNOWN else value


def create_request(planned: State) -> dict[str, Any]:
    """Return the body of the create call."""
    if "" in value_of(planned, "command", []):
        raise ResourceError("values for command may not be empty")
    body: dict[str, Any] = {
        "Image": planned["image"],
        "Hostname": value_of(planned, "hostname", ""),
        "Domainname": value_of(planned, "domainname", ""),
        "Tty": value_of(planned, "tty", False),
        "OpenStdin": value_of(planned, "stdin_open", False),
        "StopSignal": value_of(planned, "stop_signal", ""),
        "Env": value_of(planned, "env"),
        "Cmd": value_of(planned, "command") or None,
        "Entrypoint": value_of(planned, "entrypoint") or None,
        "User": value_of(planned, "user", ""),
        "WorkingDir": value_of(planned, "working_dir", ""),
        "Labels": {e["label"]: e["value"] for e in value_of(planned, "labels", [])},
        "ExposedPorts": {_port_key(port): {} for port in planned["ports"]},
        "Volumes": {e["container_path"]: {} for e in planned["volumes"] if e["container_path"]},
        "Healthcheck": _healthcheck(planned),
        "HostConfig": _host_config(planned),
    }
    if value_of(planned, "stop_timeout"):
        body["StopTimeout"] = planned["stop_timeout"]
    return {key: value for key, value in body.items() if value is not None}


def _port_key(port: Mapping[str, Any]) -> str:
    return f"{port['internal']}/{port['protocol']}"


def _healthcheck(planned: State) -> dict[str, Any] | None:
    checks = value_of(planned, "healthcheck", [])
    if not checks:
        return None
    check = checks[0]
    return {
        "Test": check.get("test") or [],
        "Interval": nanoseconds(check.get("interval")),
        "Timeout": nanoseconds(check.get("timeout")),
        "StartPeriod": nanoseconds(check.get("start_period")),
        "Retries": check.get("retries") or 0,
    }


def nanoseconds(text: str | None) -> int:
    """Return the length of a duration of Go (`1m30s`)."""
    parts = re.findall(r"([0-9]*\.?[0-9]+)(ns|us|µs|ms|s|m|h)", text or "")
    return sum(int(float(number) * _UNITS[unit]) for number, unit in parts)


def _host_config(planned: State) -> dict[str, Any]:
    config: dict[str, Any] = {
        "Privileged": value_of(planned, "privileged", False),
        "PublishAllPorts": value_of(planned, "publish_all_ports", False),
        "RestartPolicy": {
            "Name": planned["restart"],
            "MaximumRetryCount": value_of(planned, "max_retry_count", 0),
        },
        "Runtime": value_of(planned, "runtime", ""),
        "Mounts": [_mount(mount) for mount in planned["mounts"]],
        "AutoRemove": planned["rm"],
        "ReadonlyRootfs": planned["read_only"],
        "LogConfig": {
            "Type": value_of(planned, "log_driver", ""),
            "Config": value_of(planned, "log_opts", {}),
        },
        "Tmpfs": value_of(planned, "tmpfs"),
        "PortBindings": _port_bindings(planned["ports"]),
        "ExtraHosts": [f"{e['host']}:{e['ip']}" for e in planned["host"]],
        "Binds": _binds(planned["volumes"]),
        "VolumesFrom": [e["from_container"] for e in planned["volumes"] if e["from_container"]],
        "Ulimits": [
            {"Name": e["name"], "Soft": e["soft"], "Hard": e["hard"]} for e in planned["ulimit"]
        ],
        "Devices": [_device(device) for device in planned["devices"]],
        "NetworkMode": value_of(planned, "network_mode", ""),
        "Init": value_of(planned, "init", False),
        "Sysctls": value_of(planned, "sysctls"),
        "ShmSize": value_of(planned, "shm_size", 0) * _MEBIBYTE,
    }
    config |= {key: value_of(planned, name) for key, name in _PLAIN.items()}
    config |= _capabilities(planned) | _security(planned) | resources(planned) | _cpus(planned)
    return {key: value for key, value in config.items() if value is not None}


_PLAIN = {
    "Dns": "dns",
    "DnsOptions": "dns_opts",
    "DnsSearch": "dns_search",
    "GroupAdd": "group_add",
    "PidMode": "pid_mode",
    "IpcMode": "ipc_mode",
    "UsernsMode": "userns_mode",
    "CgroupnsMode": "cgroupns_mode",
    "CgroupParent": "cgroup_parent",
}


def resources(planned: State) -> dict[str, Any]:
    """Return the limits that can be changed in place; nothing of what is unset."""
    limits = {
        "Memory": value_of(planned, "memory", 0) * _MEBIBYTE,
        "MemoryReservation": value_of(planned, "memory_reservation", 0) * _MEBIBYTE,
        "CpuShares": value_of(planned, "cpu_shares", 0),
        "CpusetCpus": value_of(planned, "cpu_set", ""),
    }
    swap = value_of(planned, "memory_swap", 0)
    if swap:
        limits["MemorySwap"] = swap * _MEBIBYTE if swap > 0 else swap
    return limits


def _cpus(planned: State) -> dict[str, Any]:
    cpus = value_of(planned, "cpus")
    if cpus:
        try:
            return {"NanoCpus": int(float(cpus) * _NANOSECONDS)}
        except ValueError:
            raise ResourceError(
                f"Error setting cpus: failed to parse {cpus} as a rational number"
            ) from None
    return {
        "CpuPeriod": value_of(planned, "cpu_period"),
        "CpuQuota": value_of(planned, "cpu_quota"),
    }


def _capabilities(planned: State) -> dict[str, Any]:
    if not planned["capabilities"]:
        return {}
    capabilities = planned["capabilities"][0]
    return {
        "CapAdd": _full_names(capabilities["add"]),
        "CapDrop": _full_names(capabilities["drop"]),
    }


def _full_names(capabilities: list[str]) -> list[str]:
    """Capabilities as the real plugin's client sends them: `net_raw` is `CAP_NET_RAW`.

    What is read back differs then from a short name in the inputs, and the next preview after a
    refresh shows a replacement: programs should write the full names.
    """
    upper = (name.strip().upper() for name in capabilities)
    return sorted({n if n == "ALL" or n.startswith("CAP_") else f"CAP_{n}" for n in upper})


def _security(planned: State) -> dict[str, Any]:
    options = value_of(planned, "security_opts")
    if options is None:
        return {}
    kept = [option for option in options if option != "systempaths=unconfined"]
    security: dict[str, list[str]] = {"SecurityOpt": kept}
    if len(kept) < len(options):
        security |= {"MaskedPaths": [], "ReadonlyPaths": []}
    return security


def _port_bindings(ports: list[Any]) -> dict[str, list[dict[str, str]]]:
    bindings: dict[str, list[dict[str, str]]] = {}
    for port in ports:
        binding = {"HostIp": port["ip"] or "", "HostPort": str(value_of(port, "external", 0))}
        bindings.setdefault(_port_key(port), []).append(binding)
    return bindings


def _binds(volumes: list[Any]) -> list[str]:
    binds = []
    for volume in volumes:
        path, source = volume["container_path"], volume["host_path"] or volume["volume_name"]
        if not volume["from_container"] and not path:
            raise ResourceError(
                "Unable to parse volumes: volume entry without container path or source container"
            )
        if volume["from_container"] and path:
            raise ResourceError(
                "Unable to parse volumes: both a container and a path specified in a volume entry"
            )
        if source and path:
            mode = "ro" if volume["read_only"] else "rw"
            relabel = f",{volume['selinux_relabel']}" if volume["selinux_relabel"] else ""
            binds.append(f"{source}:{path}:{mode}{relabel}")
    return binds


def _device(device: Mapping[str, Any]) -> dict[str, str]:
    return {
        "PathOnHost": device["host_path"],
        "PathInContainer": device["container_path"] or device["host_path"],
        "CgroupPermissions": device["permissions"],
    }


def _mount(mount: Mapping[str, Any]) -> dict[str, Any]:
    body: dict[str, Any] = {
        "Type": mount["type"],
        "Target": mount["target"],
        "Source": mount["source"],
        "ReadOnly": bool(mount["read_only"]),
    }
    if mount["type"] == "bind" and mount["bind_options"]:
        propagation = mount["bind_options"][0]["propagation"]
        body["BindOptions"] = {"Propagation": propagation or ""}
    if mount["type"] == "tmpfs" and mount["tmpfs_options"]:
        options = mount["tmpfs_options"][0]
        body["TmpfsOptions"] = {
            "SizeBytes": options["size_bytes"] or 0,
            "Mode": options["mode"] or 0,
        }
    return body
