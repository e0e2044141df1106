"""Write what the settings say of themselves: docs/configuration.md.

`python -m components.settings.describe` prints nothing and rewrites it; a test holds it to that.
"""

import json
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from components.settings.loading import is_secret
from components.settings.model import Settings

ROOT: Final = Path(__file__).resolve().parents[2]
PAGE: Final = ROOT / "docs" / "configuration.md"

_HEAD: Final = """# Configuration

Every key of a stack file (`stacks/Pulumi.<stack>.yaml`), as the program checks it. Sizes are in the
unit that a key ends with (Mb, Gb: powers of 1024). Set one with
`pulumi config set --path 'ports.http' 8080`, or edit the file. Anything wrong is refused before
anything changes: all of it at once, each by its key, with what to do. A key that is not listed
here is refused too.

This page is written from the settings' own descriptions by
`python -m components.settings.describe`.
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


def options(model: type[BaseModel] = Settings, prefix: str = "") -> Iterator[Option]:
    """Yield every option, a section before its keys."""
    for info in model.model_fields.values():
        path = f"{prefix}{info.alias}"
        inner = _section(info.annotation)
        yield Option(
            path=path,
            type=_words(info.annotation),
            default=None if info.is_required() else _json(info),
            description=str(info.description),
            section=inner is not None and _origin_of(info) is None,
            secret=is_secret(info),
        )
        if inner is not None:
            marker = "[]" if _origin_of(info) is list else ""
            yield from options(inner, f"{path}{marker}.")


def _origin_of(info: FieldInfo) -> type | None:
    origin = get_origin(_plain(info.annotation))
    return origin if origin in (list, dict) else None


def _json(info: FieldInfo) -> str:
    value = info.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return "{}"
    return json.dumps(value, default=lambda inner: inner.model_dump(mode="json", by_alias=True))


def _plain(annotation: Any) -> Any:
    """Strip Annotated and `| None`."""
    if get_origin(annotation) is typing.Annotated:
        return _plain(get_args(annotation)[0])
    if get_origin(annotation) in (typing.Union, types.UnionType):
        inner = [part for part in get_args(annotation) if part is not type(None)]
        return _plain(inner[0])
    return annotation


def _section(annotation: Any) -> type[BaseModel] | None:
    plain = _plain(annotation)
    if get_origin(plain) in (list, dict):
        plain = _plain(get_args(plain)[-1])
    return plain if isinstance(plain, type) and issubclass(plain, BaseModel) else None


def _words(annotation: Any) -> str:
    plain = _plain(annotation)
    origin = get_origin(plain)
    if origin is typing.Literal:
        return "one of " + ", ".join(f"`{value}`" for value in get_args(plain))
    if origin is list:
        return f"array of {_words(get_args(plain)[0])}"
    if origin is dict:
        return f"object of {_words(get_args(plain)[1])}"
    if isinstance(plain, type) and issubclass(plain, BaseModel):
        return "object"
    return {bool: "boolean", int: "integer", float: "number", str: "string"}[plain]


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


def main() -> None:
    """Rewrite the page."""
    PAGE.write_text(page())


if __name__ == "__main__":
    main()
