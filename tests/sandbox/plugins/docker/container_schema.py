"""The attributes of `docker:index/container:Container`, as pulumi-docker 5.2 has them.

Facts of kreuzwerker/terraform-provider-docker 4.5 (resource_docker_container.go), which that
plugin wraps: which attributes exist, their types and defaults, and which changes replace.
"""

from __future__ import annotations

from typing import Any

from tests.sandbox.plugins.schema import (
    Attribute,
    Fields,
    Kind,
    ResourceSchema,
    absolute_path,
    at_least,
    duration,
    matching,
)

_TWENTY_MINUTES = 20 * 60


def _string(**facts: Any) -> Attribute:
    return Attribute(Kind.STRING, **facts)


def _integer(**facts: Any) -> Attribute:
    return Attribute(Kind.INT, **facts)


def _boolean(**facts: Any) -> Attribute:
    return Attribute(Kind.BOOL, **facts)


def _strings(kind: Kind, **facts: Any) -> Attribute:
    return Attribute(kind, **facts)


def _objects(kind: Kind, fields: Fields, **facts: Any) -> Attribute:
    return Attribute(kind, fields=fields, **facts)


def _map(**facts: Any) -> Attribute:
    return Attribute(Kind.MAP, **facts)


_EVERY_ADDRESS = "0.0.0.0"


def _port_address(given: str) -> str:
    return given or _EVERY_ADDRESS


def _nothing_given(_recorded: Any, given: Any) -> bool:
    """Keep the image's own user and directory where the program names none."""
    return not given


LABEL: Fields = {
    "label": _string(required=True, forced=True),
    "value": _string(required=True, forced=True),
}

_CAPABILITIES: Fields = {
    "add": _strings(Kind.SET, pulumi="adds", forced=True),
    "drop": _strings(Kind.SET, pulumi="drops", forced=True),
}

_PROPAGATION = "^(private|rprivate|shared|rshared|slave|rslave)$"
_MOUNT: Fields = {
    "target": _string(required=True),
    "source": _string(),
    "type": _string(required=True, validate=matching("^(bind|volume|tmpfs)$")),
    "read_only": _boolean(),
    "bind_options": _objects(
        Kind.LIST, {"propagation": _string(validate=matching(_PROPAGATION))}, single=True
    ),
    "volume_options": _objects(
        Kind.LIST,
        {
            "no_copy": _boolean(),
            "labels": _objects(Kind.SET, LABEL),
            "driver_name": _string(),
            "driver_options": _map(),
            "subpath": _string(forced=True),
        },
        single=True,
        supported=False,
    ),
    "tmpfs_options": _objects(
        Kind.LIST, {"size_bytes": _integer(), "mode": _integer()}, single=True, forced=True
    ),
}

_VOLUME: Fields = {
    "from_container": _string(forced=True),
    "container_path": _string(forced=True),
    "host_path": _string(forced=True, validate=absolute_path),
    "volume_name": _string(forced=True),
    "read_only": _boolean(forced=True),
    "selinux_relabel": _string(forced=True, validate=matching("^(z|Z)$")),
}

_PORT: Fields = {
    "internal": _integer(required=True, forced=True),
    "external": _integer(computed=True, forced=True),
    "ip": _string(default=_EVERY_ADDRESS, forced=True, recorded_as=_port_address),
    "protocol": _string(default="tcp", forced=True),
}

_HOST: Fields = {
    "ip": _string(required=True, forced=True),
    "host": _string(required=True, forced=True),
}

_ULIMIT: Fields = {
    "name": _string(required=True, forced=True),
    "soft": _integer(required=True, forced=True),
    "hard": _integer(required=True, forced=True),
}

_NETWORK_DATA: Fields = {
    "network_name": _string(output_only=True),
    "ip_address": _string(output_only=True),
    "ip_prefix_length": _integer(output_only=True),
    "gateway": _string(output_only=True),
    "global_ipv6_address": _string(output_only=True),
    "global_ipv6_prefix_length": _integer(output_only=True),
    "ipv6_gateway": _string(output_only=True),
    "mac_address": _string(output_only=True),
}

_DEVICE: Fields = {
    "host_path": _string(required=True, forced=True),
    "container_path": _string(forced=True),
    "permissions": _string(default="rwm", forced=True),
}

_THROTTLE: Fields = {
    "path": _string(required=True),
    "rate": _integer(required=True, validate=at_least(0)),
}

_DEVICE_REQUEST: Fields = {
    "driver": _string(default="cdi", forced=True),
    "count": _integer(default=0, forced=True),
    "device_ids": _strings(Kind.SET, forced=True),
    "capabilities": _strings(Kind.SET, forced=True),
    "options": _map(forced=True),
}

_NETWORK: Fields = {
    "name": _string(required=True, forced=True),
    "aliases": _strings(Kind.SET, forced=True),
    "ipv4_address": _string(forced=True),
    "ipv6_address": _string(forced=True),
    "link_local_ips": _strings(Kind.SET, forced=True),
    "mac_address": _string(forced=True),
    "driver_opts": _strings(Kind.SET, forced=True),
    "gw_priority": _integer(forced=True, validate=at_least(0)),
}

_UPLOAD: Fields = {
    "content": _string(forced=True),
    "content_base64": _string(forced=True),
    "file": _string(required=True, forced=True),
    "executable": _boolean(default=False, forced=True),
    "permissions": _string(forced=True, validate=matching("^0[0-7]{3}$")),
    "source": _string(forced=True),
    "source_hash": _string(forced=True),
}

_HEALTHCHECK: Fields = {
    "test": _strings(Kind.LIST, pulumi="tests"),
    "interval": _string(default="0s", validate=duration),
    "timeout": _string(default="0s", validate=duration),
    "start_period": _string(default="0s", validate=duration),
    "start_interval": _string(default="0s", validate=duration),
    "retries": _integer(default=0, validate=at_least(0)),
}

_RESTART = "^(no|on-failure|always|unless-stopped)$"
FIELDS: Fields = {
    "name": _string(required=True, forced=True, autonamed=True),
    "rm": _boolean(default=False),
    "read_only": _boolean(default=False, forced=True),
    "start": _boolean(default=True),
    "wait": _boolean(default=False),
    "wait_timeout": _integer(default=60),
    "attach": _boolean(default=False, supported=False),
    "logs": _boolean(default=False, supported=False),
    "must_run": _boolean(default=True),
    "exit_code": _integer(output_only=True),
    "container_logs": _string(output_only=True),
    "image": _string(required=True, forced=True),
    "hostname": _string(computed=True, forced=True),
    "domainname": _string(forced=True),
    "command": _strings(Kind.LIST, computed=True, forced=True),
    "entrypoint": _strings(Kind.LIST, pulumi="entrypoints", computed=True, forced=True),
    "user": _string(forced=True, equivalent=_nothing_given),
    "dns": _strings(Kind.SET, forced=True),
    "dns_opts": _strings(Kind.SET, forced=True),
    "dns_search": _strings(Kind.SET, pulumi="dnsSearches", forced=True),
    "publish_all_ports": _boolean(forced=True),
    "restart": _string(default="no", validate=matching(_RESTART)),
    "max_retry_count": _integer(),
    "working_dir": _string(forced=True, equivalent=_nothing_given),
    "remove_volumes": _boolean(default=True),
    "capabilities": _objects(Kind.SET, _CAPABILITIES, single=True, forced=True),
    "security_opts": _strings(Kind.SET, computed=True, forced=True),
    "runtime": _string(computed=True, forced=True),
    "platform": _string(computed=True, forced=True),
    "stop_signal": _string(computed=True, forced=True),
    "stop_timeout": _integer(computed=True, forced=True),
    "mounts": _objects(Kind.SET, _MOUNT, forced=True),
    "volumes": _objects(Kind.SET, _VOLUME, forced=True),
    "tmpfs": _map(),
    "ports": _objects(Kind.LIST, _PORT, forced=True),
    "host": _objects(Kind.SET, _HOST, pulumi="hosts", forced=True),
    "ulimit": _objects(Kind.SET, _ULIMIT, pulumi="ulimits", forced=True),
    "env": _strings(Kind.SET, pulumi="envs", computed=True, forced=True),
    "bridge": _string(output_only=True),
    "network_data": _objects(Kind.LIST, _NETWORK_DATA, pulumi="networkDatas", output_only=True),
    "privileged": _boolean(forced=True),
    "devices": _objects(Kind.SET, _DEVICE, forced=True),
    "device_read_bps": _objects(Kind.SET, _THROTTLE, supported=False),
    "device_read_iops": _objects(Kind.SET, _THROTTLE, supported=False),
    "device_write_bps": _objects(Kind.SET, _THROTTLE, supported=False),
    "device_write_iops": _objects(Kind.SET, _THROTTLE, supported=False),
    "device_requests": _objects(Kind.SET, _DEVICE_REQUEST, forced=True, supported=False),
    "destroy_grace_seconds": _integer(),
    "labels": _objects(Kind.SET, LABEL, computed=True, forced=True),
    "memory": _integer(validate=at_least(0)),
    "memory_reservation": _integer(default=0, validate=at_least(0)),
    "memory_swap": _integer(validate=at_least(-1)),
    "shm_size": _integer(computed=True, forced=True, validate=at_least(0)),
    "cpu_shares": _integer(validate=at_least(0)),
    "cpu_set": _string(validate=matching(r"^\d+([,-]\d+)*$")),
    "log_driver": _string(computed=True, forced=True),
    "log_opts": _map(forced=True),
    "network_mode": _string(default="bridge", forced=True),
    "networks_advanced": _objects(Kind.SET, _NETWORK, forced=True),
    "pid_mode": _string(forced=True),
    "userns_mode": _string(forced=True),
    "upload": _objects(Kind.SET, _UPLOAD, pulumi="uploads", forced=True),
    "healthcheck": _objects(Kind.LIST, _HEALTHCHECK, single=True, computed=True),
    "container_read_refresh_timeout_milliseconds": _integer(default=15000),
    "sysctls": _map(forced=True),
    "ipc_mode": _string(computed=True, forced=True),
    "group_add": _strings(Kind.SET, pulumi="groupAdds", forced=True),
    "init": _boolean(computed=True),
    "tty": _boolean(default=False, forced=True),
    "stdin_open": _boolean(default=False, forced=True),
    "storage_opts": _map(forced=True, supported=False),
    "gpus": _string(forced=True, supported=False),
    "cpus": _string(forced=True),
    "cpu_period": _integer(validate=at_least(0)),
    "cpu_quota": _integer(validate=at_least(0)),
    "cgroupns_mode": _string(forced=True),
    "cgroup_parent": _string(forced=True),
}

CONTAINER = ResourceSchema(
    token="docker:index/container:Container",
    terraform="docker_container",
    fields=FIELDS,
    version=2,
    timeouts_seconds={
        "create": _TWENTY_MINUTES,
        "delete": _TWENTY_MINUTES,
        "update": _TWENTY_MINUTES,
    },
    delete_before_replace=True,
)
