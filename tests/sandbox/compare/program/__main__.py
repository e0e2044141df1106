"""Registers what spec.json says; the cases are data for this program."""

import json
import os
import pathlib
from typing import Any

import pulumi
from pulumi.dynamic import (
    CreateResult,
    DiffResult,
    ReadResult,
    Resource,
    ResourceProvider,
    UpdateResult,
)

SPEC = json.loads(pathlib.Path("spec.json").read_text(encoding="utf-8"))
CONFIG = pulumi.Config()
MADE: dict[str, Any] = {}


class FileProvider(ResourceProvider):
    """A dynamic provider whose resources are files beside the program."""

    def _path(self, identity: str) -> pathlib.Path:
        return pathlib.Path(os.environ["COMPARE_STORE"]) / f"{identity}.json"

    def check(self, _olds: dict[str, Any], news: dict[str, Any]) -> Any:
        """Refuse what asks to be refused."""
        from pulumi.dynamic import CheckFailure, CheckResult

        failures = []
        if news.get("failCheck"):
            failures.append(CheckFailure("failCheck", news["failCheck"]))
        return CheckResult(news, failures)

    def create(self, props: dict[str, Any]) -> CreateResult:
        """Write the file."""
        if props.get("failCreate"):
            raise RuntimeError(props["failCreate"])
        plain = {k: v for k, v in props.items() if k != "__provider"}
        self._path(props["label"]).write_text(json.dumps(plain), encoding="utf-8")
        return CreateResult(props["label"], {**plain, "computed": len(plain)})

    def diff(self, _id: str, olds: dict[str, Any], news: dict[str, Any]) -> DiffResult:
        """Compare what the program gives with what is recorded."""
        if news.get("diffStyle") == "unknown":
            return DiffResult()
        changed = [k for k in news if k != "computed" and olds.get(k) != news[k]]
        replaces = [k for k in changed if k == "label"]
        return DiffResult(
            changes=bool(changed), replaces=replaces, delete_before_replace=bool(news.get("dbr"))
        )

    def update(self, _id: str, _olds: dict[str, Any], news: dict[str, Any]) -> UpdateResult:
        """Write the file again."""
        if news.get("failUpdate"):
            raise RuntimeError(news["failUpdate"])
        plain = {k: v for k, v in news.items() if k != "__provider"}
        self._path(_id).write_text(json.dumps(plain), encoding="utf-8")
        return UpdateResult({**plain, "computed": len(plain)})

    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:
        """Read the file; a missing one is gone."""
        try:
            live = json.loads(self._path(id_).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return ReadResult(None, {})
        return ReadResult(id_, {**props, **live})

    def delete(self, id_: str, _props: dict[str, Any]) -> None:
        """Remove the file."""
        self._path(id_).unlink(missing_ok=True)


class Dynamic(Resource):
    """A resource of the dynamic provider."""

    def __init__(self, name: str, props: dict[str, Any], opts: pulumi.ResourceOptions) -> None:
        super().__init__(FileProvider(), name, {"computed": None, **props}, opts)


READERS = {
    "$ref": lambda given: getattr(MADE[given[0]], given[1]),
    "$secret": lambda given: pulumi.Output.secret(value(given)),
    "$config": CONFIG.get,
    "$configObject": CONFIG.get_object,
    "$configSecret": CONFIG.require_secret,
    "$concat": lambda given: pulumi.Output.concat(*[value(element) for element in given]),
}


def value(given: Any) -> Any:
    """Turn a value of the spec into one of the program."""
    if isinstance(given, list):
        return [value(element) for element in given]
    if not isinstance(given, dict):
        return given
    for key, read in READERS.items():
        if key in given:
            return read(given[key])
    return {key: value(element) for key, element in given.items()}


def alias(given: Any) -> Any:
    """Turn an alias of the spec into one of the program."""
    if isinstance(given, str):
        return pulumi.Alias(name=given) if "::" not in given else given
    fields = dict(given)
    if "parent" in fields:
        fields["parent"] = (
            MADE[fields["parent"]] if fields["parent"] else pulumi.ROOT_STACK_RESOURCE
        )
    return pulumi.Alias(**fields)


def options(given: dict[str, Any]) -> pulumi.ResourceOptions:
    """Turn the options of the spec into those of the program."""
    fields = dict(given)
    for key in ("parent", "deleted_with", "provider"):
        if key in fields:
            fields[key] = MADE[fields[key]]
    if "depends_on" in fields:
        fields["depends_on"] = [MADE[name] for name in fields["depends_on"]]
    if "replace_with" in fields:
        fields["replace_with"] = [MADE[name] for name in fields["replace_with"]]
    if "providers" in fields:
        fields["providers"] = [MADE[name] for name in fields["providers"]]
    if "aliases" in fields:
        fields["aliases"] = [alias(one) for one in fields["aliases"]]
    if "custom_timeouts" in fields:
        fields["custom_timeouts"] = pulumi.CustomTimeouts(**fields["custom_timeouts"])
    return pulumi.ResourceOptions(**fields)


def make(entry: dict[str, Any]) -> None:
    """Register one resource, or do what else the entry says."""
    kind, name = entry.get("kind", "thing"), entry.get("name", "")
    props = {key: value(element) for key, element in entry.get("props", {}).items()}
    opts = options(entry.get("opts", {}))
    if kind == "thing":
        token = entry.get("type", "compare:index:Thing")
        MADE[name] = pulumi.CustomResource(token, name, {"computed": None, **props}, opts)
    elif kind == "dynamic":
        MADE[name] = Dynamic(name, props, opts)
    elif kind == "component":
        MADE[name] = pulumi.ComponentResource(entry.get("type", "my:mod:Comp"), name, props, opts)
    elif kind == "outputs":
        MADE[name].register_outputs(props)
    elif kind == "provider":
        MADE[name] = pulumi.ProviderResource("compare", name, props, opts)
    elif kind == "stackref":
        MADE[name] = pulumi.StackReference(name)
    elif kind == "invoke":
        MADE[name] = pulumi.runtime.invoke("compare:index:echo", props)
    elif kind == "log":
        resource = MADE.get(name)
        getattr(pulumi.log, entry.get("level", "info"))(entry["message"], resource)
    elif kind == "print":
        print(entry["message"])
    else:
        raise RuntimeError(entry.get("message", f"unknown kind {kind!r}"))


for item in SPEC.get("resources", []):
    make(item)
for output, content in SPEC.get("outputs", {}).items():
    pulumi.export(output, value(content))
