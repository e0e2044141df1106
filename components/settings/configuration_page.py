"""Write docs/configuration.md from the settings' descriptions.

`gridhub config docs` rewrites it; a test compares the two.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

from pydantic.alias_generators import to_camel

from components.settings.model import Settings

_Schema: TypeAlias = Mapping[str, Any]
PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "configuration.md"

_HEAD: Final = """# Configuration

Every key of a stack file (`stacks/Pulumi.<stack>.yaml`), as the program checks it. Sizes are in the
unit that a key ends with (Mb, Gb: powers of 1024). Set one with
`pulumi config set --path 'ports.http' 8080`, or edit the file. Anything wrong is refused before
anything changes: all of it at once, each by its key, with what to do. A key that is not listed
here is refused too.

This page is written from the settings' own descriptions by `gridhub config docs`.
"""


@dataclass(frozen=True)
class Option:
    """One key: its dotted path, type in words, default in JSON (None: required), description."""

    path: str
    type: str
    default: str | None
    description: str
    section: bool
    secret: bool


def options() -> Iterator[Option]:
    """Yield every option of the settings' JSON Schema, a section before its keys."""
    schema = Settings.model_json_schema()
    yield from _options(schema, schema["$defs"])


def _options(section: _Schema, known: _Schema, prefix: str = "") -> Iterator[Option]:
    for name, field in section["properties"].items():
        path = f"{prefix}{to_camel(name)}"
        shape = _resolved(field, known)
        element = _resolved(shape.get("items", shape), known)
        yield Option(
            path=path,
            type=_words(shape, known),
            default=json.dumps(field["default"]) if "default" in field else None,
            description=field.get("description", shape.get("description")),
            section="properties" in shape,
            secret=field.get("secret", False),
        )
        if "properties" in element:
            marker = "" if element is shape else "[]"
            yield from _options(element, known, f"{path}{marker}.")


def _resolved(schema: _Schema, known: _Schema) -> _Schema:
    """Return what a schema refers to, without the null of what may be unset."""
    [plain] = [one for one in schema.get("anyOf", [schema]) if one.get("type") != "null"]
    shape: _Schema = known[plain["$ref"].rpartition("/")[2]] if "$ref" in plain else plain
    return shape


def _words(shape: _Schema, known: _Schema) -> str:
    if "enum" in shape:
        return "one of " + ", ".join(f"`{value}`" for value in shape["enum"])
    if "items" in shape:
        return f"array of {_words(_resolved(shape['items'], known), known)}"
    if shape.get("additionalProperties"):
        return f"object of {_words(_resolved(shape['additionalProperties'], known), known)}"
    return str(shape["type"])


def page() -> str:
    """Return docs/configuration.md."""
    parts = [_HEAD]
    for option in options():
        level = "##" if "." not in option.path else "###"
        lines = [f"{level} `{option.path}`", "", f"- type: {option.type}"]
        if not option.section or option.default is None:
            shown = "required" if option.default is None else f"`{option.default}`"
            lines.append(f"- default: {shown}" if shown != "`null`" else "- default: unset")
        if option.secret:
            lines.append("- secret: `pulumi config set --secret`, refused in plain text")
        lines.append(f"- effect: {option.description}")
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)
