"""The base of every section of the settings."""

from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

S = TypeVar("S", bound="Section")


class Section(BaseModel):
    """A group of settings: camelCase keys, no key that is not declared, no coercion of types."""

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid", frozen=True, strict=True)


def default_of(section: type[S], **values: Any) -> S:
    """Return the section as an absent key leaves it; values: keys (camelCase) that differ."""
    return section.model_validate(values)
