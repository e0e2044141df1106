"""0-db: the chunks. Its default namespace is readable by all and writable by the admin only."""

from typing import Final

import pulumi

from components.container import ContainerConfig, Mount, PublishedPort, declare
from components.host import Placement
from components.host_files import HostFile, write_files
from components.naming import Stack
from components.settings.model import ZdbSettings
from sync.contract.layout import SECRETS, UID_ZDB, ZDB_ADMIN_FILE, ZDB_DATA, ZDB_INDEX
from sync.contract.spec import ZdbEndpoint

# The mirror's own 0-db, as the containers of the stack's network know it.
LOCAL_ZDB: Final = ZdbEndpoint(host="zdb", port=9900, namespace="default")
PORT: Final = LOCAL_ZDB.port
SECRET_PATH: Final = f"{SECRETS}/zdb/{ZDB_ADMIN_FILE}"
_SECRETS_MOUNT: Final = "/secrets"
# RESP as redis sends it; `busybox` by name, as an image need not have its applets linked. The
# asterisk begins a second request: zdbd does not look further after a read that ends with a whole
# one, would miss the end of the connection, and the probe would wait for it for ever. A probe that
# does so all the same ends by itself: an engine gives up the shell, not what the shell started.
HEALTH: Final = (
    "CMD-SHELL",
    (
        r"printf '*1\r\n$4\r\nPING\r\n*'"
        f" | busybox timeout 5 busybox nc 127.0.0.1 {PORT} | grep -q PONG"
    ),
)


def published_zdb(stack: Stack) -> ZdbEndpoint:
    """Return where nodes reach this mirror's chunks."""
    zdb, ports = stack.settings.zdb, stack.settings.ports
    return ZdbEndpoint(host=zdb.publish_host or stack.hub, port=zdb.publish_port or ports.zdb)


def start_script(settings: ZdbSettings) -> str:
    """Return the shell line that becomes zdbd.

    zdbd takes its password only as an argument (0-db: zdbd/zdbd.c); read from a file at start, it
    stands in neither the environment nor the container's configuration. `exec` lets SIGTERM reach
    zdbd. Without a password zdbd would be open to all, so an empty file stops here.
    """
    secret = f"{_SECRETS_MOUNT}/{ZDB_ADMIN_FILE}"
    arguments = (
        f"--data /zdb/data --index /zdb/index --listen :: --port {PORT} "
        f"--datasize {settings.datasize_mb << 20} --protect"
    )
    return f'test -s {secret} && exec /bin/zdb {arguments} --admin "$(cat {secret})"'


class Zdb(pulumi.ComponentResource):
    """The 0-db container and the file with its admin password.

    The data outlives the container: it is in two folders of the data root.
    """

    def __init__(self, name: str, placement: Placement, opts: pulumi.ResourceOptions) -> None:
        super().__init__("gridhub:index:Zdb", name, None, opts)
        secret = HostFile(SECRET_PATH, UID_ZDB, placement.secrets.zdb_admin_password)
        secrets = write_files(f"{name}-secrets", placement, self, secret)
        self.container = declare(
            f"{name}-container", placement, _container(placement), self, secrets
        )
        self.register_outputs({"container": self.container.name})


def _container(placement: Placement) -> ContainerConfig:
    settings, path = placement.settings, placement.path
    addresses, port = settings.bind.addresses, settings.ports.zdb
    return ContainerConfig(
        service="zdb",
        uid=UID_ZDB,
        health=HEALTH,
        entrypoint=("/bin/sh", "-c", start_script(settings.zdb)),
        mounts=(
            Mount(path(ZDB_DATA), "/zdb/data", read_only=False),
            Mount(path(ZDB_INDEX), "/zdb/index", read_only=False),
            Mount(path(f"{SECRETS}/zdb"), _SECRETS_MOUNT),
        ),
        ports=[PublishedPort(PORT, port, address) for address in addresses],
        revision={"zdbAdmin": str(settings.rotation.zdb_admin)},
        # zdbd flushes its index when it is asked to end.
        stop_seconds=60,
    )
