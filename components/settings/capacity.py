"""What the containers' limits have room for: clients of the edge, and boot media being built.

The costs were measured with the images that operators use (docs/containers.md).
"""

from typing import Final

from components.settings.limits import LimitSettings
from components.settings.model import BootstrapSettings, EdgeSettings, Settings

# What each takes of memory without a client, in MB, and in KB for each whose request is under way
# and who takes nothing: measured as 12, 135 and 57 (Flask, for both), and what the kernel holds.
_IDLE_MB: Final = {"gate": 108, "caddy": 64, "hub": 64, "bootstrap": 64}
_CLIENT_KB: Final = {"gate": 100, "caddy": 200, "hub": 130, "bootstrap": 130}
# A copy of iPXE's sources, what is compiled of it, the compilers.
BUILD_MB: Final = 150
# Threads of hub and bootstrap that are no client's, compilers among them.
_OWN_PROCESSES: Final = 64
# The packer itself, and four flists that are opened at a time: 16 and 15 MB each, and what zflist
# and an upload take beside them.
LEAST_PACKER_MB: Final = 128
# Below this, a farm that boots behind one address has too few.
LEAST_CONNECTIONS: Final = 100
_MOST_CONNECTIONS: Final = 4000
_MOST_OF_ONE_ADDRESS: Final = 1000
_MOST_BUILDS: Final = 2


def clients_that_fit(limits: LimitSettings, bootstrap: BootstrapSettings) -> dict[str, int]:
    """Return how many clients each limit has room for, by the limit's key."""
    room: dict[str, int] = {}
    for service in ("gate", "caddy", "hub", *(["bootstrap"] if bootstrap.enabled else [])):
        own = getattr(limits, service)
        taken_mb = _IDLE_MB[service]
        if service == "bootstrap":
            taken_mb += BUILD_MB * _builds(limits, bootstrap)
        free_mb = max(0, own.memory_mb - taken_mb)
        room[f"limits.{service}.memoryMb"] = free_mb * 1024 // _CLIENT_KB[service]
        # Hub and bootstrap have a thread for each request.
        if service in ("hub", "bootstrap"):
            room[f"limits.{service}.processes"] = max(0, own.processes - _OWN_PROCESSES)
    return room


def connections(settings: Settings) -> int:
    """Return how many connections the gate has for all clients."""
    fitting = min(clients_that_fit(settings.limits, settings.bootstrap).values())
    return settings.edge.connections or min(_MOST_CONNECTIONS, fitting)


def connections_per_address(settings: Settings) -> int:
    """Return how many of them one address may have."""
    given = settings.edge.connections_per_address
    return given or min(_MOST_OF_ONE_ADDRESS, connections(settings))


def builds_at_once(settings: Settings) -> int:
    """Return how many boot media are built at the same time."""
    return _builds(settings.limits, settings.bootstrap)


def _builds(limits: LimitSettings, bootstrap: BootstrapSettings) -> int:
    # As much again is left for those who ask for kernels meanwhile.
    fitting = (limits.bootstrap.memory_mb - _IDLE_MB["bootstrap"]) // (2 * BUILD_MB)
    return bootstrap.builds or max(1, min(_MOST_BUILDS, fitting))


def asked_for(edge: EdgeSettings) -> int:
    """Return how many connections the settings ask for; 0: as many as fit."""
    return max(edge.connections or 0, edge.connections_per_address or 0)
