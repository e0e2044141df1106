"""Record what a docker plugin decides, for the stand-in to be held to.

    python -m tests.sandbox.plugins.record PLUGIN DOCKER_HOST IMAGE > decisions.json

PLUGIN is the command of the real plugin. It creates two containers from IMAGE (which must be on
that host), one with nothing but a command and one with about everything that this project sets;
then asks for the difference that each of some 450 edits would make to the state after the create
and after a refresh, and removes them again. The result belongs in golden/docker-5.2-decisions.json.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Final

from tests.sandbox.plugins.client import Created, PluginCalls, PluginProcess

CONTAINER: Final = "docker:index/container:Container"
IMAGE: Final = "docker:index/remoteImage:RemoteImage"
UNKNOWN_TEXT: Final = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"

Program = dict[str, Any]
Edit = dict[str, Any]


def plain_program(image: str) -> Program:
    """Return a container of which almost nothing is said."""
    return {
        "name": "recorded_plain",
        "image": image,
        "command": ["sleep", "600"],
        "destroyGraceSeconds": 1,
    }


def full_program(image: str) -> Program:
    """Return a container of which about everything is said."""
    return {
        "name": "recorded_full",
        "image": image,
        "command": ["sleep", "600"],
        "envs": ["A=1", "B=2"],
        "labels": [{"label": "a", "value": "1"}, {"label": "b", "value": "2"}],
        "capabilities": {"adds": ["CAP_NET_RAW"], "drops": ["ALL"]},
        "volumes": [
            {"containerPath": "/v", "hostPath": "/srv"},
            {"containerPath": "/w", "hostPath": "/usr", "readOnly": True},
        ],
        "ports": [
            {"internal": 80, "external": 17080, "ip": "127.0.0.1"},
            {"internal": 81, "external": 17081},
        ],
        "mounts": [
            {"target": "/m", "type": "tmpfs"},
            {"target": "/b", "type": "bind", "source": "/srv", "readOnly": True},
            {"target": "/t", "type": "tmpfs", "tmpfsOptions": {"sizeBytes": 1048576}},
        ],
        "sysctls": {"net.ipv4.ip_unprivileged_port_start": "0"},
        "tmpfs": {"/x": "size=1m", "/y": "size=2m"},
        "hosts": [{"host": "a", "ip": "10.0.0.1"}],
        "ulimits": [{"name": "nofile", "soft": 1024, "hard": 2048}],
        "dns": ["127.0.0.1", "127.0.0.2"],
        "groupAdds": ["1"],
        "memory": 64,
        "memorySwap": 64,
        "cpuShares": 100,
        "cpus": "0.5",
        "user": "1:1",
        "workingDir": "/v",
        "hostname": "h",
        "domainname": "d",
        "stopTimeout": 3,
        "stopSignal": "SIGINT",
        "logDriver": "json-file",
        "logOpts": {"max-size": "1m"},
        "securityOpts": ["no-new-privileges"],
        "healthcheck": {"tests": ["CMD", "true"], "interval": "1s"},
        "init": True,
        "restart": "always",
        "maxRetryCount": 0,
        "devices": [{"hostPath": "/dev/null", "containerPath": "/dev/n"}],
        "uploads": [{"file": "/etc/a", "content": "x"}],
        "readOnly": False,
        "privileged": False,
        "shmSize": 32,
        "ipcMode": "private",
        "destroyGraceSeconds": 1,
        "networksAdvanced": [{"name": "bridge"}],
    }


_PLAIN_EDITS: Final[Mapping[str, Any]] = {
    "memory": 64,
    "memorySwap": -1,
    "init": True,
    "healthcheck": {"tests": ["NONE"]},
    "tmpfs": {"/a": "size=1m"},
    "maxRetryCount": 2,
    "rm": True,
    "start": False,
    "wait": True,
    "waitTimeout": 9,
    "mustRun": False,
    "user": "1:1",
    "workingDir": "/x",
    "privileged": True,
    "publishAllPorts": True,
    "dns": ["1.1.1.1"],
    "envs": ["A=1"],
    "labels": [{"label": "a", "value": "b"}],
    "sysctls": {"net.x": "1"},
    "ports": [{"internal": 80}],
    "entrypoints": ["/x"],
    "capabilities": {"adds": ["CAP_X"]},
    "networksAdvanced": [{"name": "n"}],
    "networkMode": "host",
    "cpus": "1.5",
    "groupAdds": ["1"],
    "hosts": [{"host": "a", "ip": "::1"}],
    "ulimits": [{"name": "nofile", "soft": 1, "hard": 2}],
    "devices": [{"hostPath": "/dev/null"}],
    "mounts": [{"target": "/m", "type": "tmpfs"}],
    "volumes": [{"containerPath": "/v"}],
    "shmSize": 128,
    "stopTimeout": 5,
    "stopSignal": "SIGINT",
    "domainname": "x",
    "logOpts": {"a": "b"},
    "logDriver": "none",
    "uploads": [{"file": "/a", "content": "b"}],
    "pidMode": "host",
    "ipcMode": "host",
    "securityOpts": ["x"],
    "readOnly": True,
    "tty": True,
    "restart": "always",
}

_UNKNOWN_EDITS: Final[Mapping[str, Any]] = {
    "image": UNKNOWN_TEXT,
    "envs": ["A=1", UNKNOWN_TEXT],
    "volumes": [{"containerPath": "/v", "hostPath": UNKNOWN_TEXT}],
    "networksAdvanced": [{"name": UNKNOWN_TEXT}],
    "memory": UNKNOWN_TEXT,
    "healthcheck": {"tests": ["CMD", UNKNOWN_TEXT]},
    "ports": [{"internal": UNKNOWN_TEXT}],
    "command": ["sleep", UNKNOWN_TEXT],
    "logOpts": {"a": UNKNOWN_TEXT},
}

_IGNORED: Final = (
    *("ports", "ports[0].external", "envs", "healthcheck", "healthcheck.interval"),
    *("labels", "memory", "tmpfs"),
)
_IGNORED_EDIT: Final[Edit] = {
    "ports": [
        {"internal": 80, "external": 1, "ip": "127.0.0.1"},
        {"internal": 81, "external": 17081},
    ],
    "envs": ["A=9"],
    "healthcheck": {"tests": ["CMD", "true"], "interval": "9s"},
    "labels": [],
    "memory": 99,
    "tmpfs": {"/z": "size=1m"},
}
# Identity is not edited here, and these two may not be empty.
_FIXED: Final = ("name", "image")
_NEVER_EMPTY: Final = ("healthcheck", "restart")


def _other(value: Any) -> Any:
    """Return another value of the same type."""
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, int) else f"{value}1"


def _empty(value: Any) -> Any:
    if isinstance(value, bool):
        return False
    return type(value)()


def _list_edits(value: list[Any]) -> Iterator[tuple[str, list[Any]]]:
    yield "doubled", [*value, value[0]]
    if len(value) > 1:
        yield "reversed", value[::-1]
        yield "first only", value[:1]
        yield "without first", value[1:]
    for index, element in enumerate(value):
        if not isinstance(element, dict):
            yield f"[{index}]", [*value[:index], _other(element), *value[index + 1 :]]
            continue
        for key, inner in element.items():
            if key != "type" and not isinstance(inner, dict):
                changed = {**element, key: _other(inner)}
                yield f"[{index}].{key}", [*value[:index], changed, *value[index + 1 :]]


def edits(program: Program) -> Iterator[tuple[str, Edit]]:
    """Give every edit of one property that the record holds, with a name of its own."""
    for key, value in program.items():
        if key in _FIXED:
            continue
        yield f"{key} removed", {key: None}
        if key not in _NEVER_EMPTY:
            yield f"{key} emptied", {key: _empty(value)}
        if isinstance(value, list):
            for name, changed in _list_edits(value):
                yield f"{key} {name}", {key: changed}
        elif isinstance(value, dict):
            for inner, old in value.items():
                new = [*old, "CAP_SYS_TIME"] if isinstance(old, list) else f"1{old}"
                yield f"{key}.{inner}", {key: {**value, inner: new}}
        elif key != "restart":
            yield f"{key} changed", {key: _other(value)}


def edited(program: Program, edit: Edit) -> Program:
    """Return the program's properties after an edit; null removes one."""
    return {key: v for key, v in {**program, **edit}.items() if v is not None}


class _Recorder:
    def __init__(self, plugin: PluginCalls) -> None:
        self._plugin = plugin
        self._cases: list[dict[str, Any]] = []
        self._subjects: dict[str, Any] = {}

    def subject(self, name: str, program: Program) -> Created:
        """Create a container and record its states."""
        inputs = self._plugin.check(CONTAINER, program)
        made = self._plugin.create(CONTAINER, inputs)
        seen = self._plugin.read(CONTAINER, made.id, made.properties, inputs)
        self._subjects[name] = {
            "id": made.id,
            "program": program,
            "inputs": inputs,
            "states": {"created": made.properties, "refreshed": seen.properties},
            "refreshedInputs": seen.inputs,
        }
        return made

    def case(
        self, subject: str, state: str, name: str, edit: Edit, ignore: tuple[str, ...] = ()
    ) -> None:
        """Ask for a difference and keep the answer."""
        facts = self._subjects[subject]
        news = self._plugin.check(CONTAINER, edited(facts["program"], edit), facts["inputs"])
        answer = self._plugin.diff(
            CONTAINER, facts["id"], facts["states"][state], news, facts["inputs"], ignore
        )
        self._cases.append(
            {
                "subject": subject,
                "state": state,
                "name": name,
                "edit": edit,
                "ignore": list(ignore),
                "changes": answer.changes,
                "detailed": answer.detailed,
                "replaces": sorted(set(answer.replaces)),
                "deleteBeforeReplace": answer.delete_before_replace,
            }
        )

    def result(self) -> dict[str, Any]:
        """Return everything recorded."""
        return {
            "plugin": self._plugin.version(),
            "subjects": self._subjects,
            "cases": self._cases,
        }


def record(plugin: PluginCalls, image: str) -> dict[str, Any]:
    """Make the record on the configured host; `image` is an image's id."""
    recorder = _Recorder(plugin)
    plain = recorder.subject("plain", plain_program(image))
    full = recorder.subject("full", full_program(image))
    for key, value in _PLAIN_EDITS.items():
        for state in ("created", "refreshed"):
            recorder.case("plain", state, f"{key} set", {key: value})
    for state in ("created", "refreshed"):
        recorder.case("full", state, "nothing", {})
        for name, edit in edits(full_program(image)):
            recorder.case("full", state, name, edit)
        for key, value in _UNKNOWN_EDITS.items():
            recorder.case("full", state, f"{key} unknown", {key: value})
        for path in _IGNORED:
            recorder.case("full", state, f"all but {path}", _IGNORED_EDIT, (path,))
    for made in (plain, full):
        plugin.delete(CONTAINER, made.id, made.properties)
    return recorder.result()


def main(arguments: list[str]) -> int:
    """Record with the plugin, host and image named."""
    command, host, name = arguments
    with PluginProcess([command], "docker") as plugin:
        plugin.configure({"host": host})
        image = plugin.create(IMAGE, plugin.check(IMAGE, {"name": name, "keepLocally": True}))
        result = record(plugin, str(image.properties["imageId"]))
    json.dump(result, sys.stdout, indent=1, sort_keys=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
