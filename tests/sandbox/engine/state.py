"""Resources as the state keeps them, and the deployment format version 3.

Field names and order follow sdk/go/common/apitype/core.go (ResourceV3, DeploymentV3).
"""

from __future__ import annotations

import copy
import datetime as dt
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, Final

from tests.sandbox.engine import VERSION
from tests.sandbox.engine.passphrase import Crypter
from tests.sandbox.engine.values import (
    SECRET_SIGNATURE,
    SIGNATURE_KEY,
    UNKNOWN,
    UNKNOWN_WIRE,
    Properties,
    Secret,
)

ROOT_TYPE: Final = "pulumi:pulumi:Stack"


def now() -> str:
    """Tell the time as Go prints it."""
    return dt.datetime.now(tz=dt.UTC).isoformat().replace("+00:00", "Z")


def make_urn(stack: str, project: str, parent: str, kind: str, name: str) -> str:
    """Compose a URN; the types of the parents but the stack stand before the type."""
    parent_types = parent.split("::")[2] if parent else ""
    if parent_types and parent_types != ROOT_TYPE:
        kind = f"{parent_types}${kind}"
    return f"urn:pulumi:{stack}::{project}::{kind}::{name}"


def urn_type(urn: str) -> str:
    """Tell a URN's own type."""
    return urn.split("::")[2].rsplit("$", 1)[-1]


def urn_name(urn: str) -> str:
    """Tell a URN's name."""
    return urn.split("::", 3)[3]


def is_provider_type(kind: str) -> bool:
    """Whether a type is a provider's."""
    return kind.startswith("pulumi:providers:")


def provider_urn(reference: str) -> str:
    """Tell the URN in a provider reference `urn::id`."""
    return reference.rsplit("::", 1)[0]


def provider_id(reference: str) -> str:
    """Tell the id in a provider reference `urn::id`."""
    return reference.rsplit("::", 1)[1]


@dataclass(eq=False)
class Resource:
    """One resource of a stack; compared by identity, as old and new share a URN."""

    urn: str
    type: str
    custom: bool
    delete: bool = False
    id: str = ""
    inputs: Properties = field(default_factory=dict)
    outputs: Properties = field(default_factory=dict)
    parent: str = ""
    protect: bool = False
    taint: bool = False
    external: bool = False
    dependencies: list[str] = field(default_factory=list)
    init_errors: list[str] = field(default_factory=list)
    provider: str = ""
    property_dependencies: dict[str, list[str]] = field(default_factory=dict)
    pending_replacement: bool = False
    additional_secret_outputs: list[str] = field(default_factory=list)
    aliases: list[str] = field(default_factory=list)
    custom_timeouts: dict[str, float] = field(default_factory=dict)
    import_id: str = ""
    retain_on_delete: bool = False
    deleted_with: str = ""
    replace_with: list[str] = field(default_factory=list)
    created: str = ""
    modified: str = ""
    source_position: str = ""
    stack_trace: list[dict[str, str]] = field(default_factory=list)
    ignore_changes: list[str] = field(default_factory=list)
    hide_diff: list[Any] = field(default_factory=list)
    replace_on_changes: list[str] = field(default_factory=list)
    replacement_trigger: Any = None
    refresh_before_update: bool = False
    rest: dict[str, Any] = field(default_factory=dict)

    def copy(self) -> Resource:
        """Copy the resource; property values are never changed in place, so they are shared."""
        twin = copy.copy(self)
        twin.inputs = dict(self.inputs)
        twin.outputs = dict(self.outputs)
        return twin

    def all_dependencies(self) -> list[str]:
        """List parent, dependencies, property dependencies and deleted-with."""
        found = [self.parent, *self.dependencies, self.deleted_with, *self.replace_with]
        for urns in self.property_dependencies.values():
            found.extend(urns)
        return [urn for urn in dict.fromkeys(found) if urn]

    @property
    def is_provider(self) -> bool:
        """Whether the resource is a provider."""
        return is_provider_type(self.type)


# attribute -> key of ResourceV3, in the order in which the real CLI writes them
_FIELDS: Final = {
    "urn": "urn",
    "custom": "custom",
    "delete": "delete",
    "id": "id",
    "type": "type",
    "inputs": "inputs",
    "outputs": "outputs",
    "parent": "parent",
    "protect": "protect",
    "taint": "taint",
    "external": "external",
    "dependencies": "dependencies",
    "init_errors": "initErrors",
    "provider": "provider",
    "property_dependencies": "propertyDependencies",
    "pending_replacement": "pendingReplacement",
    "additional_secret_outputs": "additionalSecretOutputs",
    "aliases": "aliases",
    "custom_timeouts": "customTimeouts",
    "import_id": "importID",
    "retain_on_delete": "retainOnDelete",
    "deleted_with": "deletedWith",
    "replace_with": "replaceWith",
    "created": "created",
    "modified": "modified",
    "source_position": "sourcePosition",
    "stack_trace": "stackTrace",
    "ignore_changes": "ignoreChanges",
    "hide_diff": "hideDiff",
    "replace_on_changes": "replaceOnChanges",
    "replacement_trigger": "replacementTrigger",
    "refresh_before_update": "refreshBeforeUpdate",
}
_ATTRIBUTES: Final = {key: attribute for attribute, key in _FIELDS.items()}


@dataclass(frozen=True)
class Operation:
    """A provider call that had begun when the state was written."""

    resource: Resource
    type: str


@dataclass
class Snapshot:
    """The resources of a stack in dependency order, and what was under way."""

    resources: list[Resource] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=dict)


class Writer:
    """Turns values into the JSON of the state; secrets as ciphertext, or in clear on request."""

    def __init__(self, crypter: Crypter | None, *, show_secrets: bool = False) -> None:
        self._crypter = crypter
        self._show = show_secrets

    def value(self, value: Any) -> Any:
        """Write one property value."""
        if isinstance(value, Secret):
            return self._secret(value)
        if value is UNKNOWN:
            return UNKNOWN_WIRE
        if isinstance(value, dict):
            return {key: self.value(value[key]) for key in sorted(value)}
        if isinstance(value, list):
            return [self.value(element) for element in value]
        return value

    def _secret(self, secret: Secret) -> dict[str, str]:
        if self._show or secret.ciphertext is None or self._crypter is None:
            plain = json.dumps(self.value(secret.value), separators=(",", ":"), ensure_ascii=False)
            if self._show or self._crypter is None:
                return {SIGNATURE_KEY: SECRET_SIGNATURE, "plaintext": plain}
            secret.ciphertext = self._crypter.encrypt(plain)
        return {SIGNATURE_KEY: SECRET_SIGNATURE, "ciphertext": secret.ciphertext}

    def resource(self, resource: Resource) -> dict[str, Any]:
        """Write one resource; empty fields are left out, as `omitempty` does."""
        written: dict[str, Any] = {}
        for attribute, key in _FIELDS.items():
            value = getattr(resource, attribute)
            if attribute == "custom" or (value not in ("", None, False) and value not in ([], {})):
                written[key] = self.value(value) if attribute in _VALUED else value
        if resource.property_dependencies:
            written["propertyDependencies"] = {
                name: resource.property_dependencies[name]
                for name in sorted(resource.property_dependencies)
            }
        return {**written, **resource.rest}


_VALUED: Final = {"inputs", "outputs", "replacement_trigger"}


class Reader:
    """Turns the JSON of the state into resources, decrypting its secrets."""

    def __init__(self, crypter: Crypter | None) -> None:
        self._crypter = crypter

    def value(self, value: Any) -> Any:
        """Read one property value."""
        if isinstance(value, list):
            return [self.value(element) for element in value]
        if not isinstance(value, dict):
            return UNKNOWN if value == UNKNOWN_WIRE else value
        if value.get(SIGNATURE_KEY) != SECRET_SIGNATURE:
            return {key: self.value(element) for key, element in value.items()}
        ciphertext = value.get("ciphertext") or None
        if ciphertext is None:
            return Secret(self.value(json.loads(value["plaintext"])))
        if self._crypter is None:
            return Secret(None, ciphertext)
        return Secret(self.value(json.loads(self._crypter.decrypt(ciphertext))), ciphertext)

    def resource(self, written: dict[str, Any]) -> Resource:
        """Read one resource; fields this engine does not know are kept in `rest`."""
        known: dict[str, Any] = {}
        rest: dict[str, Any] = {}
        for key, value in written.items():
            attribute = _ATTRIBUTES.get(key)
            if attribute is None:
                rest[key] = value
            else:
                known[attribute] = self.value(value) if attribute in _VALUED else value
        return Resource(**known, rest=rest)


def write_deployment(
    snapshot: Snapshot, crypter: Crypter | None, *, show_secrets: bool = False
) -> dict[str, Any]:
    """Write a DeploymentV3."""
    writer = Writer(crypter, show_secrets=show_secrets)
    deployment: dict[str, Any] = {
        "manifest": {
            "time": now(),
            "magic": hashlib.sha256(VERSION.encode()).hexdigest(),
            "version": VERSION,
        }
    }
    if crypter is not None:
        state = {"salt": crypter.state}
        deployment["secrets_providers"] = {"type": "passphrase", "state": state}
    if snapshot.resources:
        deployment["resources"] = [writer.resource(r) for r in snapshot.resources]
    if snapshot.operations:
        deployment["pending_operations"] = [
            {"resource": writer.resource(o.resource), "type": o.type} for o in snapshot.operations
        ]
    deployment["metadata"] = snapshot.metadata
    return deployment


def read_deployment(deployment: dict[str, Any] | None, crypter: Crypter | None) -> Snapshot:
    """Read a DeploymentV3."""
    deployment = deployment or {}
    reader = Reader(crypter)
    return Snapshot(
        resources=[reader.resource(r) for r in deployment.get("resources") or []],
        operations=[
            Operation(reader.resource(o["resource"]), o["type"])
            for o in deployment.get("pending_operations") or []
        ],
        metadata=deployment.get("metadata") or {},
    )
