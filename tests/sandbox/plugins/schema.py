"""What a plugin knows of a resource's attributes, in the terms of a Terraform schema."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any


class Kind(Enum):
    """The type of an attribute's value."""

    STRING = auto()
    INT = auto()
    BOOL = auto()
    LIST = auto()
    SET = auto()
    MAP = auto()


ZERO: Mapping[Kind, Any] = {
    Kind.STRING: "",
    Kind.INT: 0,
    Kind.BOOL: False,
    Kind.LIST: [],
    Kind.SET: [],
    Kind.MAP: {},
}
_ARRAYS = (Kind.LIST, Kind.SET)

# Says what is wrong with a value, or nothing.
Validator = Callable[[Any], str | None]


@dataclass(frozen=True)
class Attribute:
    """One attribute of a resource, or of an object inside one.

    `single` is a list or set of at most one object, which Pulumi shows as that object; `pulumi`
    is its name there where it is not simply the camel case of its Terraform name. `forced` lets
    a change of it replace. `equivalent` tells of a recorded and a given value whether they mean
    the same. An `autonamed` name is made of the resource's own where none is given, and a given
    one is freed before a replacement takes it again. `renewed_by` names the attributes (`*`: any)
    whose change gives it a new value. `recorded_as` is the form in which a given string comes to
    stand in the state; a refresh leaves such an input as it was given.
    """

    kind: Kind
    required: bool = False
    computed: bool = False
    output_only: bool = False
    forced: bool = False
    default: Any = None
    fields: Fields | None = None
    single: bool = False
    pulumi: str = ""
    equivalent: Callable[[Any, Any], bool] | None = None
    renewed_by: tuple[str, ...] = ()
    recorded_as: Callable[[str], str] | None = None
    secret: bool = False
    autonamed: bool = False
    supported: bool = True
    validate: Validator | None = None

    @property
    def is_array(self) -> bool:
        """Whether Terraform holds it as a list or a set."""
        return self.kind in _ARRAYS

    @property
    def is_block(self) -> bool:
        """Whether it is a nested block, which is never null: absent is empty."""
        return self.is_array and self.fields is not None and not self.is_computed

    @property
    def is_computed(self) -> bool:
        """Whether the provider may fill it in."""
        return self.computed or self.output_only


Fields = Mapping[str, Attribute]


@dataclass(frozen=True)
class ResourceSchema:
    """A resource type: its token, attributes by Terraform name, and what `__meta` records."""

    token: str
    terraform: str
    fields: Fields
    version: int = 0
    timeouts_seconds: Mapping[str, int] = field(default_factory=dict)
    delete_before_replace: bool = False


def camel(name: str) -> str:
    """Return the camel case of a Terraform name: `read_only` is `readOnly`."""
    head, *tail = name.split("_")
    return head + "".join(part[:1].upper() + part[1:] for part in tail)


def snake(name: str) -> str:
    """Return the Terraform name that a Pulumi name has when nothing special is known of it."""
    return re.sub(r"[A-Z]", lambda letter: "_" + letter.group().lower(), name)


def pulumi_name(name: str, attribute: Attribute) -> str:
    """Return the attribute's name in Pulumi."""
    return attribute.pulumi or camel(name)


def by_pulumi_name(fields: Fields) -> dict[str, tuple[str, Attribute]]:
    """Return the attributes by their Pulumi name."""
    return {pulumi_name(name, a): (name, a) for name, a in fields.items()}


def matching(pattern: str) -> Validator:
    """Return a validator that wants a string of this form."""
    compiled = re.compile(pattern)

    def validate(value: Any) -> str | None:
        if compiled.search(str(value)):
            return None
        return f"'{value}' doesn't match the pattern '{pattern}'"

    return validate


def at_least(minimum: int) -> Validator:
    """Return a validator that wants a whole number not below a minimum."""

    def validate(value: Any) -> str | None:
        return f"'{value}' cannot be lower than {minimum}" if int(value) < minimum else None

    return validate


def absolute_path(value: Any) -> str | None:
    """Want an absolute path (of Unix or Windows)."""
    if re.search(r"^(/|[a-zA-Z]:\\|//)", str(value)):
        return None
    return f"'{value}' must be an absolute path"


_DURATION = re.compile(r"^([0-9]*\.?[0-9]+(ns|us|µs|μs|ms|s|m|h))+$|^0$")


def duration(value: Any) -> str | None:
    """Want a duration of Go, not negative: `1m30s`."""
    if _DURATION.match(str(value)):
        return None
    return f"'{value}' is not a valid duration"
