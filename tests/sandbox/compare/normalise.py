"""Taking out of results what two runs of the same engine differ in too."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from tests.sandbox.engine.passphrase import Crypter

_SIGNATURE = "4dabf18193072939515e22adb298388d"
_SECRET = "1b47061264138c4ac30d75fd1eb44270"
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_TIMES = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")
_PIDS = re.compile(r"pid \d+")
# Times, places in source files: theirs differ in every run, or by where the SDK is installed.
_DROPPED = {"created", "modified", "sourcePosition", "stackTrace"}
_TRACEBACK = re.compile(r"Traceback \(most recent call last\):.*", re.DOTALL)
_NOISE = re.compile(r"using pulumi-resource-\w+ from \$PATH")


def text(given: str, root: str) -> str:
    """Make a text neutral: paths, ids, times, tracebacks."""
    given = _UUID.sub("<uuid>", given.replace(root, "<root>"))
    given = _PIDS.sub("pid <pid>", _TIMES.sub("<time>", given))
    return _TRACEBACK.sub("<traceback>", given)


class Values:
    """Makes property values neutral and decrypts secrets."""

    def __init__(self, root: str, crypter: Crypter | None) -> None:
        self._root = root
        self._crypter = crypter

    def value(self, value: Any) -> Any:
        """Make one value neutral."""
        if isinstance(value, list):
            return [self.value(element) for element in value]
        if isinstance(value, str):
            return text(value, self._root)
        if not isinstance(value, dict):
            return value
        if value.get(_SIGNATURE) == _SECRET and value.get("ciphertext") == "[secret]":
            return "[secret]"
        if value.get(_SIGNATURE) == _SECRET and self._crypter is not None:
            plain = value.get("plaintext") or self._crypter.decrypt(value["ciphertext"])
            return {"<secret>": self.value(json.loads(plain))}
        return {key: self._field(key, element) for key, element in sorted(value.items())}

    def _field(self, key: str, value: Any) -> Any:
        # A provider pickled by value differs with the interpreter's hash seed.
        return "<provider>" if key == "__provider" else self.value(value)

    def resource(self, resource: Mapping[str, Any]) -> dict[str, Any]:
        """Make a resource of the state neutral."""
        kept = {key: value for key, value in resource.items() if key not in _DROPPED}
        if "dependencies" in kept:
            kept["dependencies"] = sorted(kept["dependencies"])
        if "propertyDependencies" in kept:
            by_property = kept["propertyDependencies"]
            kept["propertyDependencies"] = {k: sorted(v) for k, v in by_property.items()}
        neutral: dict[str, Any] = self.value(kept)
        return neutral


def _identity(resource: Mapping[str, Any]) -> tuple[str, bool, str]:
    return resource["urn"], bool(resource.get("delete")), resource.get("id", "")


def state(deployment: Mapping[str, Any] | None, values: Values) -> dict[str, Any]:
    """Make a checkpoint's deployment neutral; the order is checked, then sorted away."""
    deployment = deployment or {}
    resources = deployment.get("resources") or []
    operations = deployment.get("pending_operations") or []
    return {
        "resources": [values.resource(r) for r in sorted(resources, key=_identity)],
        "operations": [
            {"type": o["type"], "resource": values.resource(o["resource"])} for o in operations
        ],
        "ordered": _topological(resources),
    }


def _topological(resources: list[dict[str, Any]]) -> bool:
    """Whether every resource stands after what it needs."""
    seen: set[str] = set()
    for resource in resources:
        needs = [resource.get("parent"), *resource.get("dependencies", ())]
        if provider := resource.get("provider"):
            needs.append(provider.rsplit("::", 1)[0])
        if any(urn and urn not in seen for urn in needs):
            return False
        seen.add(resource["urn"])
    return True


def _step(step: Mapping[str, Any], values: Values) -> dict[str, Any]:
    kept = {key: value for key, value in step.items() if not key.endswith("State")}
    for key in ("diffReasons", "replaceReasons"):
        if key in kept:
            kept[key] = sorted(kept[key])
    for key in ("oldState", "newState"):
        if key in step:
            kept[key] = values.resource(step[key])
    neutral: dict[str, Any] = values.value(kept)
    return neutral


def _diagnostic(message: Mapping[str, Any], values: Values) -> dict[str, Any]:
    words = str(message.get("prefix", "")) + message["message"]
    kept = {"message": values.value(words).rstrip("\n"), "severity": message["severity"]}
    return kept | ({"urn": message["urn"]} if message.get("urn") else {})


def events(lines: str, values: Values, *, ordered: bool) -> dict[str, Any]:
    """Make an event stream neutral: what began, what came of it, the messages, the summary."""
    steps: list[dict[str, Any]] = []
    messages: list[dict[str, Any]] = []
    result: dict[str, Any] = {}
    for line in lines.splitlines():
        event = json.loads(line)
        for kind in ("resourcePreEvent", "resOutputsEvent", "resOpFailedEvent"):
            if kind in event:
                metadata = values.value(event[kind]["metadata"])
                for key in ("keys", "diffs"):
                    if key in metadata:
                        metadata[key].sort()
                steps.append({"event": kind, **metadata})
        if "diagnosticEvent" in event and event["diagnosticEvent"]["severity"] != "debug":
            messages.append(_diagnostic(event["diagnosticEvent"], values))
        if "preludeEvent" in event:
            result["config"] = event["preludeEvent"]["config"]
        if "summaryEvent" in event:
            summary = event["summaryEvent"]
            result["changeSummary"] = summary["resourceChanges"]
            result["result"] = summary["result"]
    if not ordered:
        steps.sort(key=lambda s: (s["urn"], s["op"], s["event"] != "resourcePreEvent"))
    result["steps"] = steps
    result["diagnostics"] = _sorted_messages(messages)
    return result


def _sorted_messages(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    # What Python prints when the real engine interrupts a failed program is noise, with paths.
    errors = any(m["severity"] == "error" for m in messages)
    kept = [
        m
        for m in messages
        if not _NOISE.search(m["message"]) and not (errors and m["severity"] == "info#err")
    ]
    return sorted(kept, key=lambda m: json.dumps(m, sort_keys=True))


def digest(document: Mapping[str, Any], values: Values) -> dict[str, Any]:
    """Make a `--json` document neutral."""
    steps = [_step(step, values) for step in document.get("steps") or []]
    messages = [_diagnostic(m, values) for m in document.get("diagnostics") or []]
    return {
        "config": document.get("config") or {},
        "steps": sorted(steps, key=lambda s: (s["urn"], s["op"])),
        "diagnostics": _sorted_messages(messages),
        "changeSummary": document.get("changeSummary"),
    }
