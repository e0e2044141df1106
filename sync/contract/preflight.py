"""The checks of a host before anything is changed there, by the names that settings know."""

from typing import Literal, TypeAlias

# The names that `preflight.ignore` takes.
Check: TypeAlias = Literal[
    "cores",
    "memory",
    "zdb-memory",
    "space",
    "data-root",
    "mount",
    "docker",
    "ssh",
    "ports",
    "addresses",
    "dns",
    # Judged before any resource is declared, by the zone's records (components/dns_adoption.py).
    "records",
    "compose",
    "containers",
    "master",
]
