"""What an edit of a stack's settings touches: thirty and more, each exactly.

The table says which resources' inputs change (`~`), appear (`+`) or go (`-`). Whether an engine
then updates or replaces is the plugins' decision: REPLACING holds what of a container does so.
"""

import copy
import functools
from typing import Any, Final

import pytest

from tests.program.declared import CONTAINER, DIGEST, Declared, declare, pinned_images, production

ZDB = {"~zdb-container"}
ALL = ("zdb", "hub", "bootstrap", "edge", "gate", "sync-users", "sync-kernels", "sync-flists")
CONTAINERS = {f"~{name}-container" for name in ALL}
AGENTS = {"~sync-users-container", "~sync-kernels-container", "~sync-flists-container"}
SYNCS = {"~sync-users-sync", "~sync-kernels-sync", "~sync-flists-sync"}
FILES = {
    "~zdb-secrets",
    "~hub-config",
    "~hub-tools",
    "~bootstrap-config",
    "~edge-config",
    "~gate-files",
    "~sync-users-secrets",
    "~sync-flists-secrets",
}
HOST = {"~preflight", "~data-root-directories", "~sync-bundle", *FILES, *SYNCS}
JOBS_GO = {
    "-sync",
    "-sync-bundle",
    *(f"-sync-{job}" for job in ("users", "kernels", "flists")),
    *(f"-sync-{job}-container" for job in ("users", "kernels", "flists")),
    *(f"-sync-{job}-sync" for job in ("users", "kernels", "flists")),
    "-sync-users-secrets",
    "-sync-flists-secrets",
}

# Inputs of a container that the plugin applies in place; any other change replaces it.
IN_PLACE: Final = frozenset(
    {"cpuShares", "memory", "memorySwap", "restart", "destroyGraceSeconds", "waitTimeout"}
)

# name: (edit of the production stack, what it touches, whether containers among it are replaced)
EDITS: dict[str, tuple[dict[str, Any], set[str], bool]] = {
    "nothing": ({}, set(), False),
    "0-db gets more memory": (
        {"limits": {"zdb": {"memoryMb": 6144}}},
        {*ZDB, "~preflight", "~sync-users-sync", "~sync-flists-sync"},
        False,
    ),
    "hub gets more memory": ({"limits": {"hub": {"memoryMb": 2048}}}, {"~hub-container"}, False),
    "hub gets more of the processors": (
        {"limits": {"hub": {"cpuShares": 2048}}},
        {"~hub-container"},
        False,
    ),
    "fewer clients at once": ({"edge": {"connections": 500}}, {"~gate-container"}, True),
    "0-db may have more processes": ({"limits": {"zdb": {"processes": 512}}}, ZDB, True),
    "larger logs of the edge": (
        {"limits": {"caddy": {"logSizeMb": 50}}},
        {"~edge-container"},
        True,
    ),
    "HTTP on another port": (
        {"ports": {"http": 8080}},
        {"~gate-container", "~preflight"},
        True,
    ),
    "0-db's files are larger": ({"zdb": {"datasizeMb": 512}}, ZDB, True),
    "flists name another 0-db": (
        {"zdb": {"publishHost": "zdb.example.org"}},
        {"~hub-config", "~hub-container", "~sync-users-sync"},
        True,
    ),
    "another ACME contact": (
        {"acme": {"email": "other@example.org"}},
        {"~edge-config", "~edge-container"},
        True,
    ),
    "another CA": (
        {"acme": {"email": "operator@example.org", "ca": "https://ca.example.org/dir"}},
        {"~edge-config", "~edge-container"},
        True,
    ),
    "metrics are published": (
        {"ports": {"metrics": 9180}},
        {"~edge-container", "~preflight"},
        True,
    ),
    "0-db on another port": (
        {"ports": {"zdb": 19900}},
        {"~zdb-container", "~preflight", "~hub-config", "~hub-container", "~sync-users-sync"},
        True,
    ),
    "HTTPS on another port": (
        {"ports": {"https": 8443}},
        {
            *("~edge-config", "~edge-container", "~gate-container", "~preflight"),
            *("~hub-config", "~hub-container", "~bootstrap-config", "~bootstrap-container"),
        },
        True,
    ),
    "binds one address": (
        {"bind": {"ipv4": ["203.0.113.10"], "ipv6": ["::"]}},
        {"~zdb-container", "~gate-container", "~preflight"},
        True,
    ),
    "another public address": (
        {"publicAddresses": {"ipv4": ["203.0.113.99"], "ipv6": ["2001:db8::10"]}},
        {"~preflight"},
        False,
    ),
    "records set by Cloudflare": (
        {"dns": {"provider": "cloudflare", "zoneId": "z"}},
        {
            *("~preflight", "+dns-cloudflare", "+dns-hub-a", "+dns-hub-aaaa"),
            *("+dns-bootstrap-a", "+dns-bootstrap-aaaa"),
            *("+dns-unsecure.bootstrap-a", "+dns-unsecure.bootstrap-aaaa"),
        },
        False,
    ),
    "another 0-db image": (
        {"images": {**pinned_images(), "zdb": f"ghcr.io/example/zdb2@{DIGEST}"}},
        {"~images-zdb"},
        False,
    ),
    "users job is slower": (
        {"users": {"bandwidthBytesPerSecond": 1000000}},
        {"~sync-users-sync"},
        False,
    ),
    "users job is paused": ({"users": {"paused": True}}, {"~sync-users-sync"}, False),
    "users takes less": (
        {"users": {"repositories": {"include": ["tf-*"]}}},
        {"~sync-users-sync"},
        False,
    ),
    "a removal is confirmed": (
        {"users": {"removalConfirmation": 1}},
        {"~sync-users-sync"},
        False,
    ),
    "kernels keeps ten": ({"kernels": {"newest": 10}}, {"~sync-kernels-sync"}, False),
    "a net link by hand": (
        {"kernels": {"netLinks": {"prod": "zos-1.efi"}}},
        {"~sync-kernels-sync"},
        False,
    ),
    "kernel links at the top": ({"kernels": {"links": ["zos.efi"]}}, {"~sync-kernels-sync"}, False),
    "flists is off": (
        {"flists": {"enabled": False}},
        {
            *("-sync-flists", "-sync-flists-container"),
            *("-sync-flists-secrets", "-sync-flists-sync"),
            # The master need not be asked any more how many keys it holds.
            "~preflight",
        },
        False,
    ),
    "flists uses fewer connections": ({"flists": {"connections": 2}}, {"~sync-flists-sync"}, False),
    "another hub as master": (
        {"source": {"hub": "https://hub.other.example"}},
        {"~sync-users-sync", "~preflight"},
        False,
    ),
    "another 0-db as master": (
        {"source": {"zdb": {"host": "hub.other.example"}}},
        {"~sync-users-sync", "~sync-flists-sync", "~preflight"},
        False,
    ),
    "another name of the master": (
        {"source": {"zdb": [{"host": "hub.grid.tf"}, {"host": "zdb.example"}]}},
        {"~sync-users-sync", "~sync-flists-sync", "~preflight"},
        False,
    ),
    "waits until in sync": ({"ready": "in-sync"}, SYNCS, False),
    "health is checked more often": ({"healthIntervalSeconds": 5}, CONTAINERS, True),
    "official repositories": (
        {"hub": {"officialRepositories": ["tf-zos"]}},
        {"~hub-config", "~hub-container"},
        True,
    ),
    "run modes": (
        {"bootstrap": {"runModes": {"prod": "p", "test": "t", "dev": "d", "qa": "q", "x": "x"}}},
        {"~bootstrap-config", "~bootstrap-container", "~gate-container"},
        True,
    ),
    "0-db password is rotated": (
        {"rotation": {"zdbAdmin": 1}},
        {
            *("~secrets-zdbAdmin", "~zdb-container"),
            *("~sync-users-container", "~sync-flists-container"),
        },
        True,
    ),
    "hub key is rotated": (
        {"rotation": {"hubKey": 1}},
        {"~secrets-hubKey", "~hub-container"},
        True,
    ),
    "bootstrap token is rotated": (
        {"rotation": {"bootstrapToken": 1}},
        {"~secrets-bootstrapToken", "~bootstrap-container"},
        True,
    ),
    "guest token is rotated": ({"rotation": {"guestToken": 1}}, {"~secrets-guestToken"}, False),
    "other requirements on the host": ({"preflight": {"cores": 4}}, {"~preflight"}, False),
    "another way to the same host": (
        {
            "host": {
                "docker": "ssh://root@203.0.113.10",
                "sshKeyPath": "/keys/id",
                "knownHostsPath": "/keys/known_hosts",
            }
        },
        {"~docker", *HOST},
        False,
    ),
    "another subnet": (
        {"network": {"ipv4Subnet": "10.9.9.0/24", "ipv6Subnet": "fd09::/64"}},
        {"~network-bridge"},
        False,
    ),
    "no bootstrap server": (
        {"bootstrap": {"enabled": False}, "kernels": {"enabled": False}},
        {
            *("-bootstrap", "-bootstrap-config", "-bootstrap-container", "-images-bootstrap"),
            *("-sync-kernels", "-sync-kernels-container", "-sync-kernels-sync"),
            *("~edge-config", "~edge-container", "~gate-container", "~preflight"),
        },
        True,
    ),
    "detached": (
        {"mode": "detached"},
        {
            *("~mode", "~data-root-directories", "~preflight"),
            *("~hub-config", "~hub-container", "~edge-config", "~edge-container"),
            *("+packer-secrets", "+packer-container"),
            *JOBS_GO,
        },
        True,
    ),
}


def edited(edit: dict[str, Any]) -> dict[str, Any]:
    return {**copy.deepcopy(production()), **{f"gridhub:{k}": v for k, v in edit.items()}}


@pytest.fixture(scope="module")
def before() -> Declared:
    return declare(production(), "prod")


@functools.cache
def after_edit(name: str) -> Declared:
    return declare(edited(EDITS[name][0]), "prod", {"CLOUDFLARE_API_TOKEN": "t" * 40})


def touched(before: Declared, after: Declared) -> set[str]:
    old, new = before.resources, after.resources
    changed = {f"~{n}" for n in set(old) & set(new) if old[n].raw != new[n].raw}
    return changed | {f"+{n}" for n in set(new) - set(old)} | {f"-{n}" for n in set(old) - set(new)}


def changed_inputs(before: Declared, after: Declared, name: str) -> set[str]:
    old, new = before.resources[name].raw, after.resources[name].raw
    return {key for key in {*old, *new} if old.get(key) != new.get(key)}


def test_there_are_at_least_thirty() -> None:
    assert len(EDITS) >= 30


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_touches_exactly_what_it_is_about(name: str, before: Declared) -> None:
    assert touched(before, after_edit(name)) == EDITS[name][1]


@pytest.mark.parametrize("name", EDITS)
def test_a_container_is_replaced_only_where_an_update_will_not_do(
    name: str, before: Declared
) -> None:
    _, expected, replaces = EDITS[name]
    after = after_edit(name)
    containers = {n[1:] for n in expected if n.startswith("~") and n.endswith("-container")}
    for container in containers:
        assert after.resources[container].type == CONTAINER
        in_place = changed_inputs(before, after, container) <= IN_PLACE
        assert in_place is not replaces, (container, changed_inputs(before, after, container))


def test_only_what_0db_itself_is_about_replaces_0db(before: Declared) -> None:
    """The chunks are on the data root, yet every replacement of 0-db is a moment without it."""
    replacing = {
        name
        for name, (_, expected, replaces) in EDITS.items()
        if replaces and "~zdb-container" in expected
    }
    assert replacing == {
        "0-db may have more processes",
        "0-db's files are larger",
        "0-db on another port",
        "binds one address",
        "health is checked more often",
        "0-db password is rotated",
    }
