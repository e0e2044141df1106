"""What a program asks for: registrations, reads, outputs; and the steps that answer them."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.sandbox.engine.state import Resource
from tests.sandbox.engine.values import Properties

Op = Literal[
    "same",
    "create",
    "update",
    "delete",
    "replace",
    "create-replacement",
    "delete-replaced",
    "read",
    "read-replacement",
    "refresh",
    "discard",
    "discard-replaced",
    "remove-pending-replace",
]


@dataclass(frozen=True)
class AliasSpec:
    """An earlier identity of a resource; empty fields are the present ones."""

    urn: str = ""
    name: str = ""
    type: str = ""
    stack: str = ""
    project: str = ""
    parent: str = ""
    no_parent: bool = False


@dataclass
class Goal:
    """A resource as the program registered it."""

    type: str
    name: str
    custom: bool
    inputs: Properties = field(default_factory=dict)
    parent: str = ""
    protect: bool | None = None
    dependencies: list[str] = field(default_factory=list)
    provider: str = ""
    property_dependencies: dict[str, list[str]] = field(default_factory=dict)
    delete_before_replace: bool | None = None
    ignore_changes: list[str] = field(default_factory=list)
    additional_secret_outputs: list[str] = field(default_factory=list)
    aliases: list[AliasSpec] = field(default_factory=list)
    custom_timeouts: dict[str, float] = field(default_factory=dict)
    replace_on_changes: list[str] = field(default_factory=list)
    replacement_trigger: Any = None
    retain_on_delete: bool | None = None
    deleted_with: str = ""
    replace_with: list[str] = field(default_factory=list)
    source_position: str = ""
    stack_trace: list[dict[str, str]] = field(default_factory=list)


class Promise:
    """The answer that a call of the program waits for."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.state: Resource | None = None
        self.result: Literal["success", "fail"] = "success"
        self.unknown = False

    def fulfil(self, state: Resource | None, *, unknown: bool = False) -> None:
        """Give the answer; `unknown`: the resource was not made, its outputs are not known."""
        self.state, self.unknown = state, unknown
        self._event.set()

    def wait(self, seconds: float) -> bool:
        """Wait a while; whether the answer has come."""
        return self._event.wait(seconds)


@dataclass
class RegisterEvent:
    """A program's RegisterResource."""

    goal: Goal
    done: Promise = field(default_factory=Promise)


@dataclass
class ReadEvent:
    """A program's ReadResource."""

    goal: Goal
    id: str
    done: Promise = field(default_factory=Promise)


@dataclass
class OutputsEvent:
    """A program's RegisterResourceOutputs."""

    urn: str
    outputs: Properties
    done: Promise = field(default_factory=Promise)


@dataclass(frozen=True)
class ProgramEnded:
    """The program's end."""

    exit_code: int
    shown: bool


@dataclass(frozen=True)
class Refusal:
    """A registration that this engine refuses."""

    message: str


Event = RegisterEvent | ReadEvent | OutputsEvent | ProgramEnded | Refusal


@dataclass(eq=False)
class Step:
    """One thing to do with one resource."""

    op: Op
    old: Resource | None = None
    new: Resource | None = None
    done: Promise | None = None
    keys: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    detailed: dict[str, tuple[str, bool]] | None = None
    replacing: bool = False
    pending_delete: bool = False
    pending_replacement: bool = False
    skipped_create: bool = False
    untargeted: bool = False
    ignore_changes: list[str] = field(default_factory=list)
    # what a refresh found: "same", "update" or "delete"
    found: Op = "same"

    @property
    def res(self) -> Resource:
        """The resource that the step is about: what will be, else what is."""
        chosen = self.new or self.old
        assert chosen is not None
        return chosen

    @property
    def urn(self) -> str:
        """The resource's URN."""
        return self.res.urn

    @property
    def logical(self) -> bool:
        """Whether the step is one that a person counts."""
        if self.op in ("create-replacement", "delete-replaced", "read-replacement"):
            return False
        return self.op not in ("refresh", "remove-pending-replace", "discard-replaced")
