"""What a resource's handler is: the part of a plugin that talks to the world."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from tests.sandbox.plugins.conversion import State
from tests.sandbox.plugins.refresh import seen_set
from tests.sandbox.plugins.schema import Attribute, Fields, Kind, ResourceSchema
from tests.sandbox.plugins.values import UNKNOWN


class ResourceError(Exception):
    """An operation that failed, in the words of the real plugin."""


class PlainError(Exception):
    """A refusal whose message is passed on as it is."""


class PartialError(ResourceError):
    """A create that failed after the resource came to exist: it must be kept in the state."""

    def __init__(self, identity: str, message: str) -> None:
        super().__init__(message)
        self.identity = identity


class Handler(ABC):
    """One resource type's operations; states are in Terraform's shape (see conversion)."""

    schema: ClassVar[ResourceSchema]

    @abstractmethod
    def create(self, planned: State) -> str:
        """Create the resource and return its id; raises ResourceError or PartialError."""

    @abstractmethod
    def read(self, identity: str, state: State) -> tuple[str, State] | None:
        """Return the id and what is seen of the live resource, or None when it is gone."""

    def imported(self, identity: str) -> tuple[str, State]:
        """Return the id and what is seen of a resource of which nothing but an id is known."""
        raise ResourceError(
            f"{identity}: the sandbox's stand-in plugin can not import {self.schema.token}; "
            "install the real plugin"
        )

    def update(self, identity: str, prior: State, planned: State) -> tuple[str, State] | None:
        """Apply a change in place; what it returns is seen of the resource afterwards.

        A type of which nothing changes in place needs none of its own.
        """
        changed = sorted(name for name in planned if prior[name] != planned[name])
        if changed:
            raise ResourceError(f"{self.schema.token} {identity}: can not change {changed}")
        return None

    @abstractmethod
    def delete(self, identity: str, state: State) -> None:
        """Delete the resource; it is no error if it is gone."""


def applied(planned: Mapping[str, Any], seen: Mapping[str, Any], fields: Fields) -> State:
    """Return the state after an operation: what was planned, and what was seen where nothing was.

    Terraform keeps a planned set as planned, and does not tell null from empty where the plan
    has said which.
    """
    return {name: _applied(planned.get(name), seen.get(name), a) for name, a in fields.items()}


def _applied(planned: Any, seen: Any, attribute: Attribute) -> Any:
    if planned is UNKNOWN:
        return _computed(seen, attribute)
    if seen is None:
        return planned
    if attribute.kind is Kind.SET and planned is not None:
        return planned
    collection = attribute.is_array or attribute.kind is Kind.MAP
    if collection and not seen and not planned:
        return planned
    return seen


def _computed(seen: Any, attribute: Attribute) -> Any:
    if seen is None:
        return _unseen(attribute)
    return seen_set(seen, attribute) if attribute.kind is Kind.SET else seen


def _unseen(attribute: Attribute) -> Any:
    """Return a value that was to be computed and was not: a set is empty then."""
    return [] if attribute.kind is Kind.SET else None
