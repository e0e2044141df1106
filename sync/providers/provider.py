"""What our providers have in common: a failure of the host is told as a sentence.

Pulumi's dynamic provider server answers every exception with its whole traceback, causes included.
For what the host, the network or the operator did wrong that buries the remedy, so such an error
leaves a provider without its history; a defect of the program keeps it.
"""

import functools
from collections.abc import Callable
from typing import Any, Final, TypeVar

from pulumi.dynamic import ResourceProvider

from sync.providers.connection import HostError
from sync.providers.wheels import WheelError

_OPERATIONS: Final = ("create", "read", "update", "delete")
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
