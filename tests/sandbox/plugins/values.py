"""Property values as a plugin sees them: plain JSON, plus `Secret` and `UNKNOWN`.

Assets, archives and resource references stay dictionaries that carry Pulumi's signature key.
Formats: sdk/go/common/resource/plugin/rpc.go of pulumi/pulumi.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf import json_format, struct_pb2

_SIGNATURE_KEY: Final = "4dabf18193072939515e22adb298388d"
_SECRET: Final = "1b47061264138c4ac30d75fd1eb44270"
_OUTPUT: Final = "d0e6a833031e9bbcd3f4e8bde6ca49a4"
_UNKNOWN_STRING: Final = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"
_UNKNOWN_WIRE: Final = {
    _UNKNOWN_STRING,
    "1c4a061d-8072-4f0a-a4cb-0ff528b18fe7",
    "3eeb2bf0-c639-47a8-9e75-3b44932eb421",
    "6a19a0b0-7e62-4c92-b797-7f8e31da9cc2",
    "030794c1-ac77-496b-92df-f27374a8bd58",
    "e48ece36-62e2-4504-bad9-02848725956a",
    "dd056dcd-154b-4c76-9bd3-c8f88648b5ff",
}


class Unknown:
    """A value that only an update will tell; there is one instance, `UNKNOWN`."""

    def __repr__(self) -> str:
        return "UNKNOWN"


UNKNOWN: Final = Unknown()


@dataclass(frozen=True, repr=False)
class Secret:
    """A secret value."""

    value: Any

    def __repr__(self) -> str:
        return "[secret]"


def make_secret(value: Any) -> Secret:
    """Wrap a value as secret, once."""
    return value if isinstance(value, Secret) else Secret(value)


def unwrap(value: Any) -> Any:
    """Rebuild a value without any secret wrapper."""
    if isinstance(value, dict):
        return {key: unwrap(element) for key, element in value.items()}
    if isinstance(value, list):
        return [unwrap(element) for element in value]
    return unwrap(value.value) if isinstance(value, Secret) else value


def _contains(value: Any, is_wanted: Callable[[Any], bool]) -> bool:
    if is_wanted(value):
        return True
    if isinstance(value, Secret):
        return _contains(value.value, is_wanted)
    elements = value.values() if isinstance(value, dict) else value
    return isinstance(value, dict | list) and any(_contains(e, is_wanted) for e in elements)


def contains_unknown(value: Any) -> bool:
    """Whether an unknown stands anywhere in the value."""
    return _contains(value, lambda found: found is UNKNOWN)


def contains_secret(value: Any) -> bool:
    """Whether a secret stands anywhere in the value."""
    return _contains(value, lambda found: isinstance(found, Secret))


def _number(value: float) -> int | float:
    return int(value) if value.is_integer() and abs(value) < 1e21 else value


def _decode_object(fields: dict[str, Any]) -> Any:
    signature = fields.get(_SIGNATURE_KEY)
    if signature == _SECRET:
        return make_secret(fields.get("value"))
    if signature == _OUTPUT:
        element = fields.get("value", UNKNOWN)
        return make_secret(element) if fields.get("secret") else element
    return fields


def _decode(value: struct_pb2.Value) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return _decode_object(from_struct(value.struct_value))
    if kind == "list_value":
        return [_decode(element) for element in value.list_value.values]
    if kind == "string_value":
        return UNKNOWN if value.string_value in _UNKNOWN_WIRE else value.string_value
    if kind == "number_value":
        return _number(value.number_value)
    return value.bool_value if kind == "bool_value" else None


def from_struct(struct: struct_pb2.Struct) -> dict[str, Any]:
    """Read a property bag off the wire."""
    return {key: _decode(struct.fields[key]) for key in struct.fields}


def _encode(value: Any) -> Any:
    if isinstance(value, Secret):
        return {_SIGNATURE_KEY: _SECRET, "value": _encode(value.value)}
    if isinstance(value, dict):
        return {key: _encode(element) for key, element in value.items()}
    if isinstance(value, list):
        return [_encode(element) for element in value]
    return _UNKNOWN_STRING if value is UNKNOWN else value


def to_struct(properties: Mapping[str, Any]) -> struct_pb2.Struct:
    """Put a property bag on the wire."""
    return json_format.ParseDict(_encode(dict(properties)), struct_pb2.Struct())
