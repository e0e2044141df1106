"""Where a run spends its time: the program and each call of a provider, as lines of JSON.

Written only where GRIDHUB_ENGINE_SPANS names a file. A line has package ("program" or the
plugin's), method, resource, start and end (seconds of the monotonic clock).
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import grpc

FILE_VARIABLE = "GRIDHUB_ENGINE_SPANS"
PROGRAM = "program"
_LOCK = threading.Lock()


@dataclass(frozen=True)
class Span:
    """One line. resource: the last part of the URN that the call is about, or nothing."""

    package: str
    method: str
    resource: str
    start: float
    end: float


def record(package: str, method: str, resource: str, start: float) -> None:
    """Write a span that ends now, if anybody wants them."""
    name = os.environ.get(FILE_VARIABLE)
    if not name:
        return
    span = Span(package, method, resource, start, time.monotonic())
    with _LOCK, Path(name).open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(span)) + "\n")


def read(path: Path) -> list[Span]:
    """Read what a run has written."""
    return [Span(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def covered_seconds(spans: list[Span]) -> float:
    """Return how long at least one of the spans lasted."""
    total, reached = 0.0, float("-inf")
    for span in sorted(spans, key=lambda span: span.start):
        total += max(0.0, span.end - max(span.start, reached))
        reached = max(reached, span.end)
    return total


class Timed(grpc.UnaryUnaryClientInterceptor):
    """Records each call of one plugin."""

    def __init__(self, package: str) -> None:
        self._package = package

    def intercept_unary_unary(
        self, continuation: Callable[[Any, Any], Any], client_call_details: Any, request: Any
    ) -> Any:
        """Make the call; a blocking one has ended when it comes back."""
        start = time.monotonic()
        answer = continuation(client_call_details, request)
        method = str(client_call_details.method).rpartition("/")[2]
        resource = str(getattr(request, "urn", "")).rpartition("::")[2]
        record(self._package, method, resource, start)
        return answer


def timed(channel: grpc.Channel, package: str) -> grpc.Channel:
    """Return the channel, watched where somebody wants spans."""
    if not os.environ.get(FILE_VARIABLE):
        return channel
    return grpc.intercept_channel(channel, Timed(package))
