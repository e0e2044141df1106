"""The base of all sections of settings and specs, and the kinds of value that both have."""

from typing import Annotated, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from sync.contract.names import RefusedNameError, checked_plain


class Section(BaseModel):
    """A group of values: no key that is not declared, no number that JSON does not have.

    A spec.json has the python names. A stack file has them in camelCase, and is read strictly and
    by these aliases only (components.settings.loading). A default that differs between two uses of
    a section is a subclass, not a default value of the section: a stack file that sets one key of
    it must leave the others as they are.
    """

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_alias=False,
        validate_by_name=True,
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
    )


def _plain_name(value: str) -> str:
    try:
        return checked_plain(value, "setting")
    except RefusedNameError:
        raise ValueError("is not a plain name (letters, digits, ._+@:~=,-)") from None


PlainName: TypeAlias = Annotated[str, AfterValidator(_plain_name)]
Count: TypeAlias = Annotated[int, Field(ge=0)]
Positive: TypeAlias = Annotated[int, Field(ge=1)]
Seconds: TypeAlias = Annotated[float, Field(gt=0)]
Days: TypeAlias = Annotated[float, Field(ge=0)]
Fraction: TypeAlias = Annotated[float, Field(ge=0, le=1)]
