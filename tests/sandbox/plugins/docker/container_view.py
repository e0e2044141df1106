"""What is seen of a live container: the Engine API's answer in the attributes' terms.

Which attributes a read tells, and in what form, is what the real plugin reads (labels and the
environment are not among them: the image adds to both).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.sandbox.plugins.conversion import State
from tests.sandbox.plugins.docker.container_request import value_of

_MEBIBYTE = 1024 * 1024
_NANOSECONDS = 1_000_000_000


def container_view(inspected: Mapping[str, Any], state: State) -> State:
    """Return what a read sees of a container, given what is recorded or planned of it."""
    config, host = inspected["Config"], inspected["HostConfig"]
    pinned = str(value_of(state, "image", "")).startswith("sha256:")
    seen: State = {
        "name": inspected["Name"].lstrip("/"),
        "image": inspected["Image"] if pinned else config["Image"],
        "platform": inspected.get("Platform", ""),
        "bridge": inspected["NetworkSettings"].get("Bridge", ""),
        "network_data": _network_data(inspected["NetworkSettings"]),
        **_of_config(config),
        **_of_host(host),
        **_of_resources(host),
        **_where_configured(inspected, state),
    }
    if not inspected["State"]["Running"]:
        seen["exit_code"] = inspected["State"]["ExitCode"]
        if value_of(state, "must_run", False):
            seen["must_run"] = False
    return seen


def _of_config(config: Mapping[str, Any]) -> State:
    seen: State = {
        "hostname": config["Hostname"],
        "domainname": config["Domainname"],
        "command": config["Cmd"] or [],
        "entrypoint": config["Entrypoint"] or [],
        "user": config["User"],
        "working_dir": config["WorkingDir"],
        "tty": config["Tty"],
        "stdin_open": config["OpenStdin"],
        "stop_signal": config.get("StopSignal", ""),
        "stop_timeout": config.get("StopTimeout") or 0,
    }
    check = config.get("Healthcheck")
    if check:
        seen["healthcheck"] = [
            {
                "test": check.get("Test") or [],
                "interval": go_duration(check.get("Interval", 0)),
                "timeout": go_duration(check.get("Timeout", 0)),
                "start_period": go_duration(check.get("StartPeriod", 0)),
                "start_interval": go_duration(check.get("StartInterval", 0)),
                "retries": check.get("Retries", 0),
            }
        ]
    return seen


def _of_host(host: Mapping[str, Any]) -> State:
    seen: State = {
        "rm": host["AutoRemove"],
        "read_only": host["ReadonlyRootfs"],
        "dns": (host["Dns"] or []),
        "dns_opts": (host["DnsOptions"] or []),
        "dns_search": (host["DnsSearch"] or []),
        "security_opts": (host["SecurityOpt"] or []),
        "publish_all_ports": host["PublishAllPorts"],
        "restart": host["RestartPolicy"]["Name"],
        "max_retry_count": host["RestartPolicy"]["MaximumRetryCount"],
        "init": bool(host.get("Init")),
        "runtime": host["Runtime"],
        "mounts": [_mount(mount) for mount in host.get("Mounts") or []],
        "tmpfs": host.get("Tmpfs") or {},
        "host": [_extra_host(entry) for entry in host["ExtraHosts"] or []],
        "privileged": host["Privileged"],
        "log_driver": host["LogConfig"]["Type"],
        "log_opts": {},
        "storage_opts": host.get("StorageOpt") or {},
        "network_mode": host["NetworkMode"],
        "userns_mode": host["UsernsMode"],
        "sysctls": host.get("Sysctls") or {},
        "ipc_mode": host["IpcMode"],
        "group_add": (host["GroupAdd"] or []),
    }
    if host["CapAdd"] or host["CapDrop"]:
        seen["capabilities"] = [{"add": (host["CapAdd"] or []), "drop": (host["CapDrop"] or [])}]
    return seen


def _of_resources(host: Mapping[str, Any]) -> State:
    swap = host["MemorySwap"]
    seen: State = {
        "memory": host["Memory"] // _MEBIBYTE,
        "memory_reservation": host["MemoryReservation"] // _MEBIBYTE,
        "memory_swap": swap // _MEBIBYTE if swap > 0 else swap,
        "shm_size": host["ShmSize"] // _MEBIBYTE,
        "cpu_shares": host["CpuShares"],
        "cpu_set": host["CpusetCpus"],
        "device_read_bps": [],
        "device_read_iops": [],
        "device_write_bps": [],
        "device_write_iops": [],
    }
    if host["NanoCpus"] > 0:
        seen["cpus"] = _decimal(host["NanoCpus"])
    return seen


def _where_configured(inspected: Mapping[str, Any], state: State) -> State:
    """Attributes that a read tells only if they were asked for."""
    host = inspected["HostConfig"]
    running = inspected["State"]["Running"]
    seen: State = {}
    if value_of(state, "ports") and (running or value_of(state, "must_run", False)):
        seen["ports"] = published_ports(inspected["NetworkSettings"]["Ports"] or {})
    if value_of(state, "ulimit"):
        seen["ulimit"] = [
            {"name": e["Name"], "soft": e["Soft"], "hard": e["Hard"]} for e in host["Ulimits"]
        ]
    if value_of(state, "pid_mode"):
        seen["pid_mode"] = host["PidMode"]
    if value_of(state, "log_opts"):
        seen["log_opts"] = host["LogConfig"]["Config"] or {}
    return seen


def published_ports(ports: Mapping[str, Any]) -> list[State]:
    """Return the published ports, by container port, in the daemon's order of their addresses."""
    return [
        {
            "internal": int(key.split("/")[0]),
            "external": int(binding["HostPort"]),
            "ip": binding["HostIp"],
            "protocol": key.split("/")[1],
        }
        for key in sorted(ports, key=lambda key: int(key.split("/")[0]))
        for binding in ports[key] or []
    ]


def _network_data(settings: Mapping[str, Any]) -> list[State]:
    return [
        {
            "network_name": name,
            "ip_address": data["IPAddress"],
            "ip_prefix_length": data["IPPrefixLen"],
            "gateway": data["Gateway"],
            "global_ipv6_address": data["GlobalIPv6Address"],
            "global_ipv6_prefix_length": data["GlobalIPv6PrefixLen"],
            "ipv6_gateway": data["IPv6Gateway"],
            "mac_address": data["MacAddress"],
        }
        for name, data in sorted((settings.get("Networks") or {}).items())
    ]


def _mount(mount: Mapping[str, Any]) -> State:
    seen: State = {
        "target": mount["Target"],
        "source": mount.get("Source", ""),
        "type": mount["Type"],
        "read_only": mount.get("ReadOnly", False),
        "bind_options": [],
        "volume_options": [],
        "tmpfs_options": [],
    }
    if "BindOptions" in mount:
        seen["bind_options"] = [{"propagation": mount["BindOptions"].get("Propagation", "")}]
    if "TmpfsOptions" in mount:
        options = mount["TmpfsOptions"]
        seen["tmpfs_options"] = [
            {"size_bytes": options.get("SizeBytes", 0), "mode": options.get("Mode", 0)}
        ]
    return seen


def _extra_host(entry: str) -> State:
    # The real plugin keeps only the part before the second colon of an IPv6 address.
    host, address = entry.split(":")[:2]
    return {"host": host, "ip": address}


def _decimal(nanocpus: int) -> str:
    return f"{nanocpus / _NANOSECONDS:.9f}".rstrip("0").rstrip(".")


def go_duration(nanoseconds: int) -> str:
    """Return a length of time as Go writes it: `1m30s`, `500ms`, `0s`."""
    if nanoseconds < _NANOSECONDS:
        for unit, size in (("ms", 1_000_000), ("µs", 1_000), ("ns", 1)):
            if nanoseconds >= size:
                return f"{nanoseconds / size:g}{unit}"
        return "0s"
    minutes, seconds = divmod(nanoseconds / _NANOSECONDS, 60)
    hours, minutes = divmod(int(minutes), 60)
    text = f"{hours}h" if hours else ""
    if hours or minutes:
        text += f"{minutes}m"
    return f"{text}{seconds:g}s"
