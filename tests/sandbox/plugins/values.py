"""Property values: what resources carry, on the wire and in memory.

A value is plain JSON (None, bool, int, float, str, list, dict) plus `Secret` and `UNKNOWN`.
Assets, archives and resource references stay dictionaries that carry Pulumi's signature key.
Formats: sdk/go/common/resource/plugin/rpc.go and sdk/python runtime/rpc.py of pulumi/pulumi.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from google.protobuf import json_format, struct_pb2

SIGNATURE_KEY: Final = "4dabf18193072939515e22adb298388d"
SECRET_SIGNATURE: Final = "1b47061264138c4ac30d75fd1eb44270"
OUTPUT_SIGNATURE: Final = "d0e6a833031e9bbcd3f4e8bde6ca49a4"
RESOURCE_SIGNATURE: Final = "5cf8f73096256a8f31e491e813e4eb8e"
UNKNOWN_WIRE: Final = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"
_UNKNOWN_KINDS: Final = {
    UNKNOWN_WIRE,
    "1c4a061d-8072-4f0a-a4cb-0ff528b18fe7",
    "3eeb2bf0-c639-47a8-9e75-3b44932eb421",
    "6a19a0b0-7e62-4c92-b797-7f8e31da9cc2",
    "030794c1-ac77-496b-92df-f27374a8bd58",
    "e48ece36-62e2-4504-bad9-02848725956a",
    "dd056dcd-154b-4c76-9bd3-c8f88648b5ff",
}

Properties = dict[str, Any]


class Unknown:
    """A value that only an update will tell; there is one instance, `UNKNOWN`."""

    def __repr__(self) -> str:
        return "UNKNOWN"


UNKNOWN: Final = Unknown()


class Secret:
    """A secret value; `ciphertext` caches its encrypted form in this stack's state."""

    __slots__ = ("ciphertext", "value")

    def __init__(self, value: Any, ciphertext: str | None = None) -> None:
        self.value = value
        self.ciphertext = ciphertext

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and deep_equal(self.value, other.value)

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        return "[secret]"


def make_secret(value: Any) -> Secret:
    """Wrap a value as secret, once."""
    return value if isinstance(value, Secret) else Secret(value)


def deep_equal(left: Any, right: Any) -> bool:
    """Equality that keeps booleans apart from numbers and looks into lists and objects."""
    if isinstance(left, Secret) or isinstance(right, Secret):
        both = isinstance(left, Secret) and isinstance(right, Secret)
        return both and deep_equal(left.value, right.value)
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(deep_equal(left[k], right[k]) for k in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(deep_equal, left, right))
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    return bool(left == right)


def transform(value: Any, leaf: Callable[[Any], Any]) -> Any:
    """Rebuild a value, giving every value that is no list or object to `leaf`."""
    if isinstance(value, dict):
        return {key: transform(element, leaf) for key, element in value.items()}
    if isinstance(value, list):
        return [transform(element, leaf) for element in value]
    return leaf(value)


def unwrap(value: Any) -> Any:
    """Rebuild a value without any secret wrapper."""
    return transform(value, lambda v: unwrap(v.value) if isinstance(v, Secret) else v)


def mask(value: Any) -> Any:
    """Rebuild a value with `[secret]` in the place of secrets."""
    return transform(value, lambda v: "[secret]" if isinstance(v, Secret) else v)


def contains_unknown(value: Any) -> bool:
    """Whether an unknown stands anywhere in the value."""
    if isinstance(value, dict):
        return any(contains_unknown(v) for v in value.values())
    if isinstance(value, list):
        return any(contains_unknown(v) for v in value)
    if isinstance(value, Secret):
        return contains_unknown(value.value)
    return value is UNKNOWN


def contains_secret(value: Any) -> bool:
    """Whether a secret stands anywhere in the value."""
    if isinstance(value, dict):
        return any(contains_secret(v) for v in value.values())
    if isinstance(value, list):
        return any(contains_secret(v) for v in value)
    return isinstance(value, Secret)


def annotate_secrets(outs: Properties, ins: Mapping[str, Any]) -> None:
    """Mark as secret every output whose input of the same key holds a secret (plugin.go)."""
    for key, value in ins.items():
        if key not in outs:
            continue
        out = outs[key]
        if isinstance(value, dict) and isinstance(out, dict):
            annotate_secrets(out, value)
        elif not isinstance(out, Secret) and contains_secret(value):
            outs[key] = Secret(out)


def _number(value: float) -> int | float:
    return int(value) if value.is_integer() and abs(value) < 1e21 else value


def _decode_object(fields: dict[str, Any]) -> Any:
    signature = fields.get(SIGNATURE_KEY)
    if signature == SECRET_SIGNATURE:
        return make_secret(fields.get("value"))
    if signature == OUTPUT_SIGNATURE:
        element = fields.get("value", UNKNOWN)
        return make_secret(element) if fields.get("secret") else element
    return fields


def _decode(value: struct_pb2.Value) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        fields = value.struct_value.fields
        return _decode_object({key: _decode(fields[key]) for key in fields})
    if kind == "list_value":
        return [_decode(element) for element in value.list_value.values]
    if kind == "string_value":
        return UNKNOWN if value.string_value in _UNKNOWN_KINDS else value.string_value
    if kind == "number_value":
        return _number(value.number_value)
    return value.bool_value if kind == "bool_value" else None


def from_struct(struct: struct_pb2.Struct) -> Properties:
    """Read a property bag off the wire."""
    return {key: _decode(struct.fields[key]) for key in struct.fields}


def _is_reference(value: Any) -> bool:
    return isinstance(value, dict) and value.get(SIGNATURE_KEY) == RESOURCE_SIGNATURE


def _encode(value: Any, secrets: bool, references: bool) -> Any:
    if isinstance(value, Secret):
        element = _encode(value.value, secrets, references)
        return {SIGNATURE_KEY: SECRET_SIGNATURE, "value": element} if secrets else element
    if value is UNKNOWN:
        return UNKNOWN_WIRE
    if _is_reference(value) and not references:
        return _encode(value["id"] if "id" in value else value["urn"], secrets, references)
    if isinstance(value, dict):
        return {key: _encode(element, secrets, references) for key, element in value.items()}
    if isinstance(value, list):
        return [_encode(element, secrets, references) for element in value]
    return value


def to_struct(
    properties: Mapping[str, Any],
    *,
    secrets: bool = True,
    references: bool = True,
    unknowns: bool = True,
) -> struct_pb2.Struct:
    """Put a property bag on the wire; what the other side does not accept is unwrapped.

    Without `unknowns` a value that is not known is left out, as for an update's calls.
    """
    plain = {
        key: _encode(value, secrets, references)
        for key, value in properties.items()
        if unknowns or value is not UNKNOWN
    }
    return json_format.ParseDict(plain, struct_pb2.Struct())
