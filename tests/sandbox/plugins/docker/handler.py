"""What the handlers of one Docker host share."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from tests.sandbox.plugins.docker.connection import DockerHost
from tests.sandbox.plugins.resource import Handler, ResourceError

# How long a removal waits for containers that are just going away, as the real plugin waits.
_REMOVE_SECONDS: Final = 30
_REMOVE_POLL_SECONDS: Final = 0.5


class DockerHandler(Handler):
    """Resources of one Docker host."""

    def __init__(self, host: DockerHost) -> None:
        self._host = host


def until_removed(remove: Callable[[], bool], pending: str) -> None:
    """Try a removal until it is done; `pending` is the real plugin's word for it being in use.

    Raises ResourceError when what uses it is still there after half a minute.
    """
    deadline = time.monotonic() + _REMOVE_SECONDS
    while not remove():
        if time.monotonic() >= deadline:
            raise ResourceError(
                "timeout while waiting for state to become 'removed' "
                f"(last state: '{pending}', timeout: {_REMOVE_SECONDS}s)"
            )
        time.sleep(_REMOVE_POLL_SECONDS)
