"""What a bootstrap server lists, as JSON and as the page of older revisions."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from sync.agent.budget import OverBudgetError
from sync.agent.kernels import listing
from sync.agent.master.client import HttpError
from sync.agent.status_writer import name_list
from sync.contract.spec import KernelsSpec
from tests.fuzz.listings import JSON_WORDS, is_file_name, master, recorded_json
from tests.fuzz.target import Target, promise

_LATEST_SECONDS: Final = 1e12
_SPEC: Final = KernelsSpec.model_validate(
    {
        "stack": "fuzz",
        "sources": ["http://master.test"],
        "job": "kernels",
        "max_age_days": 900,
        "newest": 3,
    }
)


def run(data: bytes, _scratch: Path) -> None:
    """Read as /api/images, or as the page /images where that is missing."""
    how, data = data[:1], data[1:]
    missing = ("/api/images",) if how == b"p" else ()
    try:
        found = listing.fetch(master(data, missing), _SPEC)
    except (HttpError, OverBudgetError) as error:
        str(error).encode()
        return
    for kernel in found.kernels:
        is_file_name(kernel.name)
        at = kernel.updated_seconds
        promise(at is None or (math.isfinite(at) and abs(at) < _LATEST_SECONDS), f"a time of {at}")
    linked = {found.kernels[0].name} if found.kernels else set()
    wanted = listing.wanted(found, _SPEC, linked)
    names = [kernel.name for kernel in wanted]
    promise(len(set(names)) == len(names), "a kernel that is wanted twice")
    promise(linked <= set(names), "a kernel that a link names is left out")
    name_list(found.refused).model_dump_json().encode()


def seeds() -> Iterator[bytes]:
    """Return listings as the real service gave them, and rows of each form."""
    for body in recorded_json("bootstrap"):
        yield b"i" + body
    image = {
        "name": "k.efi",
        "release": "r",
        "timestamp": 1.7e9,
        "updated": "2024-01-01, 00:00:00 (UTC)",
    }
    yield b"i" + json.dumps([image, image | {"name": "l", "timestamp": None}]).encode()
    yield b'p<a href="/kernel/k%2e.efi">k</a><td>2024-02-30, 00:00:00 (UTC)</td> kernel'


TARGET: Final = Target(
    "images",
    run,
    seeds,
    (
        *JSON_WORDS,
        b'"name"',
        b'"timestamp"',
        b'"updated"',
        b'href="/kernel/',
        b"(UTC)",
        b"&#47;",
        b'"net"',
    ),
)
