"""What a running update tells whoever shows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from tests.sandbox.engine.goals import Step
from tests.sandbox.engine.state import Resource

Severity = Literal["debug", "info", "info#err", "warning", "error"]


@dataclass(frozen=True)
class Diagnostic:
    """A message, of a resource or (no URN) of the whole."""

    urn: str
    message: str
    severity: Severity


@dataclass(frozen=True)
class Context:
    """What a listener should know from the start."""

    stack: str
    project: str
    config: dict[str, str]
    preview: bool


class Listener(Protocol):
    """Hears of steps and messages, from several threads."""

    def step_begins(self, step: Step) -> None:
        """Hear that a step begins."""

    def step_ends(self, step: Step, error: str | None) -> None:
        """Hear that a step ended, by an error or well."""

    def outputs(self, resource: Resource, old: Resource | None) -> None:
        """Hear of outputs that a component or the stack registered."""

    def diagnostic(self, diagnostic: Diagnostic) -> None:
        """Hear a message."""
