"""The program of the golden records: a network, a volume, an image, two containers.

EDIT holds changes of its arguments as JSON, as `docker-5.2-edits.json` names them; PLACE holds
what a machine decides: the Docker host, names, addresses, a free port, an image.
"""

import json
import os
from typing import Any

import pulumi
import pulumi_docker as docker

EDIT: dict[str, Any] = json.loads(os.environ.get("EDIT", "{}"))
PLACE: dict[str, Any] = json.loads(os.environ["PLACE"])


def edited(key: str, value: Any) -> Any:
    """Return the value of an argument, or what the edit says of it."""
    return EDIT.get(key, value)


host = docker.Provider("host", host=PLACE["host"])
opts = pulumi.ResourceOptions(provider=host)
network = docker.Network(
    "backend",
    name=f"{PLACE['prefix']}backend",
    driver="bridge",
    ipv6=edited("net.ipv6", True),
    internal=False,
    ipam_configs=[docker.NetworkIpamConfigArgs(subnet=subnet) for subnet in PLACE["subnets"]],
    labels=[
        docker.NetworkLabelArgs(label=label, value=value)
        for label, value in edited("net.labels", [["stack", "golden"]])
    ],
    opts=opts,
)
volume = docker.Volume(
    "named",
    name=f"{PLACE['prefix']}named",
    labels=[docker.VolumeLabelArgs(label="stack", value="golden")],
    opts=opts,
)
image = docker.RemoteImage("py", name=PLACE["image"], keep_locally=True, opts=opts)
uploads = [docker.ContainerUploadArgs(file="/etc/hub.conf", content="x=1\n")]
hub = docker.Container(
    "hub",
    name=edited("name", f"{PLACE['prefix']}hub"),
    image=image.image_id,
    command=edited("command", ["sleep", "600", "5555"]),
    hostname=edited("hostname", "hub"),
    restart=edited("restart", "unless-stopped"),
    read_only=edited("read_only", True),
    user=edited("user", "10001:10001"),
    envs=edited("envs", ["DOMAIN=example.org", "MODE=mirror"]),
    network_mode=edited("network_mode", None),
    networks_advanced=[
        docker.ContainerNetworksAdvancedArgs(name=network.name, aliases=edited("aliases", ["hub"]))
    ],
    ports=[
        docker.ContainerPortArgs(
            internal=5555,
            external=edited("port", PLACE["port"]),
            ip="127.0.0.1",
            protocol="tcp",
        )
    ],
    volumes=[
        docker.ContainerVolumeArgs(
            host_path=edited("host_path", "/usr"),
            container_path="/public",
            read_only=edited("vol_ro", False),
        ),
        docker.ContainerVolumeArgs(volume_name=volume.name, container_path="/named"),
    ],
    tmpfs=edited("tmpfs", {"/tmp": "size=16m"}),
    capabilities=docker.ContainerCapabilitiesArgs(drops=edited("cap_drop", ["ALL"])),
    security_opts=edited("security_opts", ["no-new-privileges:true"]),
    memory=edited("memory", 256),
    memory_swap=edited("memory_swap", 256),
    cpu_shares=edited("cpu_shares", 512),
    log_driver=edited("log_driver", "json-file"),
    log_opts=edited("log_opts", {"max-size": "10m", "max-file": "3"}),
    labels=[
        docker.ContainerLabelArgs(label=label, value=value)
        for label, value in edited("labels", [["stack", "golden"]])
    ],
    healthcheck=docker.ContainerHealthcheckArgs(
        tests=["CMD", "true"],
        interval=edited("hc_interval", "1s"),
        timeout="3s",
        retries=3,
        start_period="1s",
    ),
    uploads=None if edited("read_only", True) else uploads,
    wait=True,
    wait_timeout=edited("wait_timeout", 30),
    stop_timeout=edited("stop_timeout", 20),
    destroy_grace_seconds=edited("grace", 5),
    init=edited("init", True),
    must_run=True,
    opts=opts,
)
plain = docker.Container(
    "plain",
    name=f"{PLACE['prefix']}plain",
    image=image.image_id,
    command=["sleep", "600"],
    network_mode=PLACE["plain_network"],
    opts=opts,
)
pulumi.export("id", hub.id)
