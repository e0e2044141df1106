"""The base of every section of the settings."""

from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

S = TypeVar("S", bound="Section")


class Section(BaseModel):
    """A group of settings: camelCase keys, no key that is not declared, no coercion of types.

    A default that differs between two uses of a section is a subclass, not a default value of the
    section: a stack file that sets one key of it must leave the others as they are.
    """

    model_config = ConfigDict(
        alias_generator=to_camel, extra="forbid", frozen=True, strict=True, allow_inf_nan=False
    )


def default_of(section: type[S], **values: Any) -> S:
    """Return the section as an absent key leaves it; values: keys (camelCase) that differ."""
    return section.model_validate(values)
