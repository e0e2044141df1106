"""What our providers have in common: how a failure is told, and how little a diff shows.

Pulumi's dynamic provider server answers every exception with its whole traceback, causes included.
For what the host, the network or the operator did wrong that buries the remedy, so such an error
leaves a provider without its history; a defect of the program keeps it.

A dynamic provider can not name the fields that changed. Where it answers "unknown" the engine
compares the inputs itself and shows just those that differ (pulumi: pkg/resource/deploy,
diffResource); where it answers "yes", `preview --diff` prints every input of the resource.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from pulumi.dynamic import DiffResult, ReadResult, ResourceProvider

from sync.providers.host.connection import HostError
from sync.providers.wheels import WheelError

_OPERATIONS: Final = ("create", "read", "update", "delete")
# Why a refreshed resource needs a repair. It stands in its inputs too, where the program has none,
# so that the reason is the field that a preview shows as changed.
REPAIR: Final = "repair"
Result = TypeVar("Result")


def plainly(operation: Callable[..., Result]) -> Callable[..., Result]:
    """Wrap an operation so that its expected errors carry neither causes nor inner frames."""

    @functools.wraps(operation)
    def told(*arguments: Any, **keywords: Any) -> Result:
        try:
            return operation(*arguments, **keywords)
        except (HostError, WheelError) as error:
            raise error.with_traceback(None) from None

    return told


def refreshed(
    id_: str, inputs: Mapping[str, Any], outs: Mapping[str, Any], repairs: Sequence[str]
) -> ReadResult:
    """Return what a read saw. repairs: why `up` has to apply the inputs again, in words.

    inputs: all that the program gives; outs: all outputs.
    """
    repair = {REPAIR: list(repairs)} if repairs else {}
    return ReadResult(id_, {**outs, **repair}, {**inputs, **repair})


def decided(
    olds: Mapping[str, Any],
    *,
    changed: bool,
    repair: bool = False,
    replaces: Sequence[str] = (),
    delete_before_replace: bool | None = None,
) -> DiffResult:
    """Return a diff that shows no more than what differs.

    changed: an input differs from the one that was applied last, and therefore from the one in the
    state. The engine is then left to find which; where none did, it would drop the change. repair:
    the host is not as it should be, whatever the inputs say.
    """
    inputs_differ = changed or (repair and REPAIR in olds)
    return DiffResult(
        changes=None if inputs_differ else repair,
        replaces=list(replaces),
        delete_before_replace=delete_before_replace,
    )


class HostProvider(ResourceProvider):
    """Base of the providers that work on the mirror host."""

    # Nothing secret is captured in a provider, so the state may show which class it is.
    serialize_as_secret_always: bool = False

    def __init_subclass__(cls, **keywords: Any) -> None:
        """Wrap the operations that the subclass defines."""
        super().__init_subclass__(**keywords)
        for name in _OPERATIONS:
            if name in cls.__dict__:
                setattr(cls, name, plainly(cls.__dict__[name]))
