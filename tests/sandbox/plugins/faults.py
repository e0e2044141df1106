"""Failures on demand, so that a test can let a deployment fail at every resource in turn.

GRIDHUB_SANDBOX_FAIL holds rules, one per line or separated by `;`:

    TOKEN OPERATION NAME-PATTERN [before|after|partial]

for example `docker:index/container:Container create *-hub after`. TOKEN and NAME-PATTERN are
shell patterns; the name is the resource's in the program (the last part of its URN). OPERATION
is check, diff, create, read, update, delete or `*`. The failure comes `before` the operation has
any effect (the default), `after` the whole of it as if the answer was lost, or `partial`: after
a create or update, reported as a resource that exists but failed to become ready, which the
engine then keeps in its state. Previews do not fail at create and update.
GRIDHUB_SANDBOX_FAIL_FILE names a file of such rules, read anew at every call.

The stand-in plugins read the rules themselves. The program's own providers run in a process that
knows nothing of the sandbox; `environment` leads it to tests/sandbox/plugins/inject.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

RULES_VARIABLE: Final = "GRIDHUB_SANDBOX_FAIL"
FILE_VARIABLE: Final = "GRIDHUB_SANDBOX_FAIL_FILE"
_INJECT: Final = Path(__file__).with_name("inject")
OPERATIONS: Final = ("check", "diff", "create", "read", "update", "delete", "*")
MOMENTS: Final = ("before", "after", "partial")


def environment(rules: Path) -> dict[str, str]:
    """Return what a pulumi command needs so that plugins and providers obey the rules in a file."""
    inherited = os.environ.get("PYTHONPATH")
    path = f"{_INJECT}{os.pathsep}{inherited}" if inherited else str(_INJECT)
    return {FILE_VARIABLE: str(rules), "PYTHONPATH": path}


class BadRuleError(ValueError):
    """A rule that can not be read; the message says what a rule looks like."""


class InjectedFailureError(Exception):
    """The failure that a rule asked for."""

    def __init__(self, rule: Rule) -> None:
        super().__init__(f"failure injected by the sandbox ({RULES_VARIABLE}: {rule.text})")
        self.rule = rule


@dataclass(frozen=True)
class Rule:
    """One rule: which calls fail, and when."""

    token: str
    operation: str
    name: str
    moment: str

    @property
    def text(self) -> str:
        """The rule as it is written."""
        return f"{self.token} {self.operation} {self.name} {self.moment}"

    def matches(self, operation: str, urn: str) -> bool:
        """Whether the rule speaks of this operation on this resource."""
        token, name = split_urn(urn)
        return (
            self.operation in ("*", operation)
            and fnmatchcase(token, self.token)
            and fnmatchcase(name, self.name)
        )


def split_urn(urn: str) -> tuple[str, str]:
    """Return the type token (without its parents') and the name of a URN."""
    parts = urn.split("::", 3)
    if len(parts) < 4:
        return "", urn
    return parts[2].rsplit("$", 1)[-1], parts[3]


def parse(text: str) -> tuple[Rule, ...]:
    """Return the rules in a text; raises BadRuleError."""
    lines = (line.strip() for line in text.replace(";", "\n").splitlines())
    return tuple(_parse_rule(line) for line in lines if line and not line.startswith("#"))


def _parse_rule(line: str) -> Rule:
    words = line.split()
    moment = words.pop() if words[-1] in MOMENTS else MOMENTS[0]
    if len(words) != 3 or words[1] not in OPERATIONS:
        raise BadRuleError(
            f"{RULES_VARIABLE}: {line!r} is no rule; write TOKEN OPERATION NAME-PATTERN "
            f"[{'|'.join(MOMENTS)}], OPERATION one of {', '.join(OPERATIONS)}"
        )
    return Rule(words[0], words[1], words[2], moment)


class Faults:
    """The rules in force."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self._environment = os.environ if environment is None else environment
        self._rules()

    def _rules(self) -> tuple[Rule, ...]:
        text = self._environment.get(RULES_VARIABLE, "")
        path = self._environment.get(FILE_VARIABLE)
        if path and Path(path).exists():
            text += "\n" + Path(path).read_text(encoding="utf-8")
        return parse(text)

    def trip(self, operation: str, urn: str, moment: str) -> None:
        """Raise InjectedFailureError if a rule wants this operation to fail at this moment."""
        for rule in self._rules():
            if rule.moment == moment and rule.matches(operation, urn):
                raise InjectedFailureError(rule)
