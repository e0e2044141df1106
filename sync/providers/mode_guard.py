"""Remembers a stack's mode and its first name, which a later preview has to know.

A hub that accepted uploads holds data that no master has. A mirror pass over it would delete or
replace them, so the way back to `mirror` is refused in the preview, before anything has changed.

What a stack has on its host carries the name that the stack had at its first `up`. `pulumi stack
rename` makes it no other mirror, so that name is kept: check gives it back in place of a later one,
and as an input it is known in every preview.
"""

from typing import Any, Final

import pulumi
from pulumi.dynamic import (
    CheckFailure,
    CheckResult,
    CreateResult,
    DiffResult,
    ReadResult,
    Resource,
    ResourceProvider,
    UpdateResult,
)

from sync.providers.base import decided

_WRITABLE: Final = ("detached", "standalone")
_HISTORY: Final = 20


def refused(olds: dict[str, Any], news: dict[str, Any]) -> str | None:
    """Return why the step from one mode to the other is refused, or None where it is not.

    olds, news: {mode, confirmation}; olds is empty for a new stack.
    """
    before, after = olds.get("mode"), news.get("mode")
    if before in _WRITABLE and after == "mirror":
        needed = int(olds.get("confirmation") or 0) + 1
        if int(news.get("confirmation") or 0) >= needed:
            return None
        return (
            f"this stack is {before}: its hub accepted uploads, which a mirror pass would delete "
            f"or replace; to lose them, `pulumi config set modeConfirmation {needed}`, or set "
            f"mode back to {before}"
        )
    if before == "mirror" and after == "standalone":
        return (
            "this stack is a mirror and holds its master's data; `detached` ends the sync and "
            "keeps the data, and `standalone` is for a stack that starts empty"
        )
    return None


class ModeGuardProvider(ResourceProvider):
    """Keeps {stack, mode, confirmation, history} in the state; touches nothing else."""

    serialize_as_secret_always = False

    def check(self, _olds: dict[str, Any], news: dict[str, Any]) -> CheckResult:
        """Keep the stack's first name; refuse a step that can lose uploads."""
        reason = refused(_olds, news)
        inputs = {**news, "stack": _olds.get("stack") or news["stack"]}
        return CheckResult(inputs, [CheckFailure("gridhub:mode", reason)] if reason else [])

    def create(self, props: dict[str, Any]) -> CreateResult:
        """Remember the first mode."""
        return CreateResult(f"{props['stack']}/mode", _record(props, []))

    def diff(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> DiffResult:
        """Tell a change of mode or confirmation; always an update."""
        keys = ("mode", "confirmation")
        return decided(_olds, changed=any(_olds.get(key) != _news.get(key) for key in keys))

    def update(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> UpdateResult:
        """Remember the new mode, and the ones before it."""
        return UpdateResult(_record(_news, list(_olds.get("history") or [])))

    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:
        """Return what the state holds: there is no other copy."""
        return ReadResult(id_, props)


def _record(props: dict[str, Any], history: list[str]) -> dict[str, Any]:
    mode = props["mode"]
    steps = history if history[-1:] == [mode] else [*history, mode]
    return {
        "stack": props["stack"],
        "mode": mode,
        "confirmation": int(props["confirmation"]),
        "history": steps[-_HISTORY:],
    }


class ModeGuard(Resource, module="gridhub", name="ModeGuard"):
    """A stack's mode as it is recorded; `history`: the modes it had, oldest first.

    stack: the stack's name; the output is the one that it had when this was created.
    confirmation: a counter; raised by one it allows one step back to `mirror`.
    """

    stack: pulumi.Output[str]
    mode: pulumi.Output[str]
    history: pulumi.Output[list[str]]

    def __init__(
        self,
        name: str,
        *,
        stack: str,
        mode: str,
        confirmation: int = 0,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        inputs = {"stack": stack, "mode": mode, "confirmation": confirmation, "history": None}
        super().__init__(ModeGuardProvider(), name, inputs, opts)
