"""The guard against a master that suddenly lists little or nothing."""

from dataclasses import dataclass

from sync.agent.job import JobPaused
from sync.contract.spec import KernelsSpec, UsersSpec


@dataclass(frozen=True)
class Vanished:
    """What a complete listing no longer names: `gone` of `known` names; listed: what it names."""

    gone: int
    known: int
    listed: int


def guard(spec: UsersSpec | KernelsSpec, vanished: Vanished, confirmations_used: int) -> bool:
    """Allow removals, or raise JobPaused.

    Returns True when they are allowed only by a removalConfirmation that was not used yet: then
    the caller records it as used. A listing that is empty is never plausible by itself.
    """
    if not vanished.gone:
        return False
    allowed = max(spec.removal_floor_items, int(spec.removal_limit * vanished.known))
    if vanished.gone <= allowed and vanished.listed:
        return False
    if spec.removal_confirmation > confirmations_used:
        return True
    raise JobPaused(
        f"the master no longer lists {vanished.gone} of {vanished.known} names "
        f"(it lists {vanished.listed}, and {allowed} may vanish at once): nothing is removed, "
        "the mirror goes on serving; if this is right, raise removalConfirmation by one",
        spec.schedule.interval_seconds,
    )
