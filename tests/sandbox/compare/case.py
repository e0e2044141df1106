"""What a case is: a program as data, and the commands that are run on it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Entry = dict[str, Any]


@dataclass(frozen=True)
class Spec:
    """The program: its resources in order, and its stack outputs."""

    resources: tuple[Entry, ...] = ()
    outputs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """One command, and what is changed before it.

    `store` edits the live resources: id -> properties, or None to remove; a name that ends in
    `.lock` puts or removes a foreign lock. `ordered`: the calls' order matters too.
    """

    command: str
    spec: Spec | None = None
    store: dict[str, dict[str, Any] | None] = field(default_factory=dict)
    config: dict[str, Any] | None = None
    project: dict[str, Any] = field(default_factory=dict)
    ordered: bool = False
    stdout: bool = False


@dataclass(frozen=True)
class Case:
    """A named sequence of commands on one fresh stack."""

    name: str
    runs: tuple[Run, ...]


def thing(name: str, opts: dict[str, Any] | None = None, /, **props: Any) -> Entry:
    """Declare a resource of the comparison's plugin."""
    return {"kind": "thing", "name": name, "props": props, "opts": opts or {}}


def dynamic(name: str, opts: dict[str, Any] | None = None, /, **props: Any) -> Entry:
    """Declare a resource of the program's dynamic provider."""
    return {"kind": "dynamic", "name": name, "props": {"label": name, **props}, "opts": opts or {}}


def component(name: str, opts: dict[str, Any] | None = None, /, **extra: Any) -> Entry:
    """Declare a component."""
    return {"kind": "component", "name": name, "opts": opts or {}, **extra}


def provider(name: str, /, **props: Any) -> Entry:
    """Declare an explicit provider."""
    return {"kind": "provider", "name": name, "props": props}


def ref(name: str, attribute: str = "computed") -> dict[str, Any]:
    """Use another resource's output."""
    return {"$ref": [name, attribute]}


def secret(value: Any) -> dict[str, Any]:
    """Wrap a value as secret."""
    return {"$secret": value}


def spec(*resources: Entry, **outputs: Any) -> Spec:
    """Write a program."""
    return Spec(resources, outputs)
