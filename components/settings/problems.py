"""What can be wrong with a stack's settings, said by key, with the remedy."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

_LONGEST_SHOWN: Final = 60
_REMEDIES: Final = {
    "domain": "pulumi config set domain grid.example.org",
    "publicAddresses": "pulumi config set --path 'publicAddresses.ipv4[0]' 203.0.113.10",
    "images": "gridhub pin-images --stack <stack>",
}
_EXPECTED: Final = {
    "bool_type": "must be true or false",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "string_type": "must be text",
    "list_type": "must be a list",
    "dict_type": "must be a mapping",
    "model_type": "must be a mapping",
    "model_attributes_type": "must be a mapping",
}


@dataclass(frozen=True, order=True)
class Problem:
    """One wrong setting. key: dotted, without the project's name; remedy: what to do."""

    key: str
    message: str
    remedy: str = ""

    def __str__(self) -> str:
        remedy = f"; {self.remedy}" if self.remedy else ""
        return f"gridhub:{self.key}: {self.message}{remedy}"


class SettingsError(ValueError):
    """The stack's settings cannot be used; `problems` holds every reason, sorted by key."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(problems))
        count = len(self.problems)
        lines = "".join(f"\n  - {problem}" for problem in self.problems)
        noun = "setting is" if count == 1 else "settings are"
        super().__init__(f"{count} {noun} wrong; nothing was changed:{lines}")


def missing(key: str, path: str) -> Problem:
    """Return what is said of a required key, `path`, in the top-level setting `key`."""
    remedy = f"`{_REMEDIES[key]}`" if key in _REMEDIES else "add it to the stack file"
    return Problem(path, "is required and not set", remedy)


def invalid(key: str, detail: Mapping[str, Any]) -> Problem:
    """Return what is said of an error that pydantic found in the top-level setting `key`."""
    path = ".".join([key, *(str(part) for part in detail["loc"] if part != "[key]")])
    kind, shown = detail["type"], _shown(detail["input"])
    if kind == "extra_forbidden":
        return Problem(path, "is not a setting", "docs/configuration.md lists them all")
    if kind == "missing":
        return missing(key, path)
    if kind == "value_error":
        message, _, remedy = str(detail["ctx"]["error"]).partition("; ")
        return Problem(path, f"{shown} {message}", remedy)
    if kind in _EXPECTED:
        return Problem(path, f"{_EXPECTED[kind]}, not {shown}")
    message = detail["msg"].replace("Input should be", "must be")
    return Problem(path, f"{message}, not {shown}")


def _shown(value: Any) -> str:
    # What an operator pastes may hold a password where none belongs.
    text = re.sub(r"//[^/@\s]*@", "//***@", json.dumps(value, default=str))
    return text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 3]}..."
