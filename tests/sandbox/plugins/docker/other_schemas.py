"""The attributes of the network, the volume and the image, as pulumi-docker 5.2 has them.

Facts of kreuzwerker/terraform-provider-docker 4.5 (resource_docker_network.go, _volume.go,
_image.go). What this project does not use is known by name, so that it can be refused by name.
"""

from __future__ import annotations

from tests.sandbox.plugins.docker.container_schema import LABEL
from tests.sandbox.plugins.schema import Attribute, Fields, Kind, ResourceSchema

_TWENTY_MINUTES = 20 * 60

_IPAM: Fields = {
    "subnet": Attribute(Kind.STRING, forced=True),
    "ip_range": Attribute(Kind.STRING, forced=True),
    "gateway": Attribute(Kind.STRING, forced=True),
    "aux_address": Attribute(Kind.MAP, forced=True),
}

NETWORK = ResourceSchema(
    token="docker:index/network:Network",
    terraform="docker_network",
    fields={
        "name": Attribute(Kind.STRING, required=True, forced=True, autonamed=True),
        "labels": Attribute(Kind.SET, fields=LABEL, forced=True),
        "driver": Attribute(Kind.STRING, computed=True, forced=True),
        "options": Attribute(Kind.MAP, computed=True, forced=True),
        "internal": Attribute(Kind.BOOL, computed=True, forced=True),
        "attachable": Attribute(Kind.BOOL, forced=True),
        "ingress": Attribute(Kind.BOOL, forced=True),
        "ipv6": Attribute(Kind.BOOL, forced=True),
        "ipam_driver": Attribute(Kind.STRING, default="default", forced=True),
        "ipam_options": Attribute(Kind.MAP, forced=True),
        "ipam_config": Attribute(
            Kind.SET, fields=_IPAM, pulumi="ipamConfigs", computed=True, forced=True
        ),
        "scope": Attribute(Kind.STRING, output_only=True),
    },
    version=1,
)

VOLUME = ResourceSchema(
    token="docker:index/volume:Volume",
    terraform="docker_volume",
    fields={
        "name": Attribute(Kind.STRING, computed=True, forced=True, autonamed=True),
        "labels": Attribute(Kind.SET, fields=LABEL, forced=True),
        "driver": Attribute(Kind.STRING, computed=True, forced=True),
        "driver_opts": Attribute(Kind.MAP, forced=True),
        "mountpoint": Attribute(Kind.STRING, output_only=True),
        "cluster": Attribute(Kind.LIST, fields={}, single=True, supported=False),
    },
    version=1,
)

IMAGE = ResourceSchema(
    token="docker:index/remoteImage:RemoteImage",
    terraform="docker_image",
    fields={
        "name": Attribute(Kind.STRING, required=True, forced=True),
        "image_id": Attribute(Kind.STRING, output_only=True),
        "repo_digest": Attribute(Kind.STRING, output_only=True),
        "keep_locally": Attribute(Kind.BOOL),
        "pull_triggers": Attribute(Kind.SET, forced=True),
        "force_remove": Attribute(Kind.BOOL),
        "build": Attribute(Kind.SET, fields={}, single=True, supported=False),
        "triggers": Attribute(Kind.MAP, forced=True),
        "platform": Attribute(Kind.STRING, default="", forced=True),
    },
    timeouts_seconds={
        "create": _TWENTY_MINUTES,
        "delete": _TWENTY_MINUTES,
        "update": _TWENTY_MINUTES,
    },
)
