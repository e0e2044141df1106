"""Remembers a stack's mode and its first name, which a later preview has to know.

A hub that accepted uploads holds data that no master has. A mirror pass over it would delete or
replace them, so the way back to `mirror` is refused in the preview, before anything has changed.

What a stack has on its host carries the name that the stack had at its first `up`. `pulumi stack
rename` makes it no other mirror, so that name is kept: check gives it back in place of a later one,
and as an input it is known in every preview.
"""

from typing import Final

from pulumi.dynamic import CheckFailure, CheckResult

from sync.providers.base import Bag, Model, Provider, Whole

_WRITABLE: Final = ("detached", "standalone")
_HISTORY: Final = 20


class ModeInputs(Model):
    """See resources.ModeGuard."""

    stack: str
    mode: str
    confirmation: Whole


class ModeOutputs(Model):
    """What is remembered: the last mode with its confirmation, and the modes before it."""

    mode: str = ""
    confirmation: Whole = 0
    history: tuple[str, ...] = ()


def refused(before: ModeOutputs, mode: str, confirmation: int) -> str | None:
    """Return why the step to a mode is refused, or None where it is not."""
    if before.mode in _WRITABLE and mode == "mirror":
        needed = before.confirmation + 1
        if confirmation >= needed:
            return None
        return (
            f"this stack is {before.mode}: its hub accepted uploads, which a mirror pass would "
            f"delete or replace; to lose them, `pulumi config set modeConfirmation {needed}`, or "
            f"set mode back to {before.mode}"
        )
    if before.mode == "mirror" and mode == "standalone":
        return (
            "this stack is a mirror and holds its master's data; `detached` ends the sync and "
            "keeps the data, and `standalone` is for a stack that starts empty"
        )
    return None


class ModeGuardProvider(Provider[ModeInputs, ModeOutputs]):
    """Keeps {stack, mode, confirmation, history} in the state; touches nothing else."""

    inputs_type = ModeInputs
    outputs_type = ModeOutputs
    id_form = "{0.stack}/mode"
    not_compared = frozenset({"stack"})

    def check(self, _olds: Bag, news: Bag) -> CheckResult:
        """Keep the stack's first name; refuse a step that can lose uploads."""
        wanted = ModeInputs.model_validate(news)
        reason = refused(ModeOutputs.model_validate(_olds), wanted.mode, wanted.confirmation)
        inputs = {**news, "stack": _olds.get("stack") or wanted.stack}
        return CheckResult(inputs, [CheckFailure("gridhub:mode", reason)] if reason else [])

    def apply(self, inputs: ModeInputs, before: ModeOutputs | None) -> ModeOutputs:
        """Remember the mode, and the ones before it."""
        history = before.history if before else ()
        steps = history if history[-1:] == (inputs.mode,) else (*history, inputs.mode)
        return ModeOutputs(
            mode=inputs.mode, confirmation=inputs.confirmation, history=steps[-_HISTORY:]
        )
