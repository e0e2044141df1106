"""What a reviewer sees: an unchanged stack previews empty; an edit previews as what it touches.

tests/program/test_edits.py has the same edits at the level of the program's graph; here an engine
and the docker plugin decide between update and replacement.
"""

import copy
from typing import Any, Final

import pytest

from tests.e2e.stack import MirrorStack, steps_of
from tests.sandbox.host.ports import free_port
from tests.sandbox.upstream import Upstream

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]

_SYNCS: Final = ("sync-users-sync", "sync-kernels-sync", "sync-flists-sync")
_CONTAINERS: Final = (
    *("zdb-container", "hub-container", "bootstrap-container", "edge-container", "gate-container"),
    *("sync-users-container", "sync-kernels-container", "sync-flists-container"),
)
Planned = dict[str, str]


def _all(names: tuple[str, ...], op: str) -> Planned:
    return dict.fromkeys(names, op)


_RESTARTED_HUB: Final = {"hub-config": "update", "hub-container": "replace"}
_RESTARTED_BOOTSTRAP: Final = {"bootstrap-config": "update", "bootstrap-container": "replace"}
_RESTARTED_EDGE: Final = {"edge-config": "update", "edge-container": "replace"}

# name: (what is merged into the settings, what each resource does then)
EDITS: dict[str, tuple[dict[str, Any], Planned]] = {
    "0-db gets more memory": (
        {"limits": {"zdb": {"memoryMb": 6144}}},
        {
            "preflight": "update",
            "zdb-container": "update",
            "sync-users-sync": "update",
            "sync-flists-sync": "update",
        },
    ),
    "hub gets more memory": (
        {"limits": {"hub": {"memoryMb": 2048}}},
        {"hub-container": "update"},
    ),
    "users job gets more memory": (
        {"limits": {"users": {"memoryMb": 600}}},
        {"sync-users-container": "update"},
    ),
    "edge gets more memory": (
        {"limits": {"caddy": {"memoryMb": 1200}}},
        {"edge-container": "update"},
    ),
    "0-db may have more processes": (
        {"limits": {"zdb": {"processes": 512}}},
        {"zdb-container": "replace"},
    ),
    "larger logs of the edge": (
        {"limits": {"caddy": {"logSizeMb": 50}}},
        {"edge-container": "replace"},
    ),
    "0-db's files are larger": ({"zdb": {"datasizeMb": 512}}, {"zdb-container": "replace"}),
    "flists name another 0-db": (
        {"zdb": {"publishHost": "zdb.example.org"}},
        {**_RESTARTED_HUB, "sync-users-sync": "update"},
    ),
    "certificates from an authority": (
        {"acme": {"ca": "letsencrypt-staging", "email": "operator@example.org"}},
        _RESTARTED_EDGE,
    ),
    "metrics are published": (
        {"ports": {"metrics": free_port()}},
        {"edge-container": "replace", "preflight": "update"},
    ),
    "HTTP on another port": (
        {"ports": {"http": free_port()}},
        {"gate-container": "replace", "preflight": "update"},
    ),
    "0-db on another port": (
        {"ports": {"zdb": free_port()}},
        {
            "zdb-container": "replace",
            "preflight": "update",
            "sync-users-sync": "update",
            **_RESTARTED_HUB,
        },
    ),
    "HTTPS on another port": (
        {"ports": {"https": free_port()}},
        {
            "preflight": "update",
            "gate-container": "replace",
            **_RESTARTED_EDGE,
            **_RESTARTED_HUB,
            **_RESTARTED_BOOTSTRAP,
        },
    ),
    "no IPv6": (
        {"bind": {"ipv6": []}, "publicAddresses": {"ipv6": []}},
        {"zdb-container": "replace", "gate-container": "replace", "preflight": "update"},
    ),
    "users job is slower": (
        {"users": {"bandwidthBytesPerSecond": 1_000_000}},
        {"sync-users-sync": "update"},
    ),
    "users job is paused": (
        {"users": {"paused": True}, "ready": "started"},
        _all(_SYNCS, "update"),
    ),
    "users takes less": (
        {"users": {"repositories": {"include": ["tf-*"]}}},
        {"sync-users-sync": "update"},
    ),
    "users keeps what was deleted": (
        {"users": {"retentionDays": 7}},
        {"sync-users-sync": "update"},
    ),
    "a removal is confirmed": (
        {"users": {"removalConfirmation": 1}},
        {"sync-users-sync": "update"},
    ),
    "kernels keeps three": ({"kernels": {"newest": 3}}, {"sync-kernels-sync": "update"}),
    "kernels is slower": (
        {"kernels": {"http": {"connections": 2}}},
        {"sync-kernels-sync": "update"},
    ),
    "a net link by hand": (
        {"kernels": {"netLinks": {"prod": "zos-1.efi"}}},
        {"sync-kernels-sync": "update"},
    ),
    "flists uses fewer connections": (
        {"flists": {"connections": 2}},
        {"sync-flists-sync": "update"},
    ),
    "flists polls more often": ({"flists": {"pollSeconds": 1}}, {"sync-flists-sync": "update"}),
    "flists is off": (
        {"flists": {"enabled": False}},
        _all(
            (
                "sync-flists",
                "sync-flists-container",
                "sync-flists-secrets",
                "sync-flists-sync",
            ),
            "delete",
        )
        | {"preflight": "update"},
    ),
    "waits less": ({"ready": "bootable"}, _all(_SYNCS, "update")),
    "health is checked more often": (
        {"healthIntervalSeconds": 2},
        _all(_CONTAINERS, "replace"),
    ),
    "official repositories": (
        {"hub": {"officialRepositories": ["tf-zos"]}},
        _RESTARTED_HUB,
    ),
    "run modes": (
        {"bootstrap": {"runModes": {"prod": "p", "test": "t", "dev": "d", "qa": "q", "x": "x"}}},
        {**_RESTARTED_BOOTSTRAP, "gate-container": "replace"},
    ),
    "0-db password is rotated": (
        {"rotation": {"zdbAdmin": 1}},
        {
            "secrets-zdbAdmin": "update",
            "zdb-secrets": "update",
            "zdb-container": "replace",
            "sync-users-secrets": "update",
            "sync-users-container": "replace",
            "sync-flists-secrets": "update",
            "sync-flists-container": "replace",
        },
    ),
    "hub key is rotated": (
        {"rotation": {"hubKey": 1}},
        {"secrets-hubKey": "update", **_RESTARTED_HUB},
    ),
    "bootstrap token is rotated": (
        {"rotation": {"bootstrapToken": 1}},
        {"secrets-bootstrapToken": "update", **_RESTARTED_BOOTSTRAP},
    ),
    "guest token is rotated": (
        {"rotation": {"guestToken": 1}},
        {"secrets-guestToken": "update"},
    ),
    "other requirements on the host": ({"preflight": {"memoryMb": 600}}, {"preflight": "update"}),
    "data goes with the stack": (
        {"purge": True},
        {"data-root-directories": "update", **_all(_SYNCS, "update")},
    ),
}


def merged(settings: dict[str, Any], edit: dict[str, Any]) -> dict[str, Any]:
    """Return the settings with an edit laid over them, key by key."""
    result = copy.deepcopy(settings)
    for key, value in edit.items():
        below = result.get(key)
        both = isinstance(value, dict) and isinstance(below, dict)
        result[key] = merged(below or {}, value) if both else value
    return result


def settings_of(edit: dict[str, Any], prefix: str = "") -> set[str]:
    """Return the keys that an edit sets, as paths."""
    paths: set[str] = set()
    for key, value in edit.items():
        path = f"{prefix}{key}"
        paths |= settings_of(value, f"{path}.") if isinstance(value, dict) else {path}
    return paths


def together(edits: dict[str, tuple[dict[str, Any], Planned]]) -> list[list[str]]:
    """Put edits together that neither touch a resource in common nor set a key in common.

    What a resource of a group does is then due to one edit alone. `make soak` has each by itself.
    """
    groups: list[tuple[list[str], set[str], set[str]]] = []
    for name, (edit, planned) in edits.items():
        touched, keys = set(planned), settings_of(edit)
        for names, resources, paths in groups:
            if not (touched & resources or keys & paths):
                names.append(name)
                resources.update(touched)
                paths.update(keys)
                break
        else:
            groups.append(([name], touched, keys))
    return [names for names, _, _ in groups]


def test_there_are_at_least_thirty_edits() -> None:
    assert len(EDITS) >= 30


@pytest.mark.parametrize("names", together(EDITS), ids=" + ".join)
def test_edits_preview_as_what_each_of_them_touches(
    running: tuple[MirrorStack, Upstream], names: list[str]
) -> None:
    planned_with(running[0], names)


@pytest.mark.soak
@pytest.mark.parametrize("name", EDITS)
def test_an_edit_by_itself_previews_as_what_it_touches(
    running: tuple[MirrorStack, Upstream], name: str
) -> None:
    planned_with(running[0], [name])


def planned_with(stack: MirrorStack, names: list[str]) -> None:
    """Preview these edits; each has to do what it says, and nothing else happens."""
    settings = stack.config
    try:
        for name in names:
            stack.config = merged(stack.config, EDITS[name][0])
        steps = steps_of(stack)
    finally:
        stack.config = settings
    found = {name: {r: steps.pop(r, "nothing") for r in EDITS[name][1]} for name in names}
    assert found == {name: EDITS[name][1] for name in names}
    assert steps == {}


@pytest.mark.parametrize("rounds", [5, pytest.param(20, marks=pytest.mark.soak)])
def test_previews_of_an_unchanged_stack_are_empty_whatever_goes_on(
    running: tuple[MirrorStack, Upstream], rounds: int
) -> None:
    stack, upstream = running
    for round_number in range(rounds):
        if round_number % 5 == 1:
            stack.containers()["users"].restart(timeout=10)
        if round_number % 5 == 2:
            stack.containers()["zdb"].restart(timeout=10)
        if round_number % 5 == 3:
            upstream.model.add_kernel(f"zos-round-{round_number}.efi", b"MZ kernel" * 1000)
        assert steps_of(stack) == {}, f"preview {round_number}"
