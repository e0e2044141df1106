"""Each target of `make fuzz` without the fuzzer: its seeds, and seeds damaged at random."""

import logging
import random
from pathlib import Path
from typing import Final

import pytest

from tests.fuzz.registry import TARGETS

_DAMAGED: Final = 300


def _damaged(seed: bytes, chance: random.Random, words: tuple[bytes, ...]) -> bytes:
    """Change a seed as a fuzzer does: bits, bytes, words, pieces that are lost or come twice."""
    data = bytearray(seed)
    for _ in range(chance.randrange(1, 5)):
        at = chance.randrange(1, len(data) + 1)  # the first byte says what it is read as
        end = min(len(data), at + chance.randrange(1, 9))
        now = bytes(data[at:end])
        word = chance.choice(words) if words else b""
        changes = (b"", now * 3, chance.randbytes(len(now)), word)
        data[at:end] = chance.choice(changes)
    return bytes(data)


@pytest.mark.parametrize("name", TARGETS)
def test_every_reader_accepts_or_refuses_what_comes_from_outside(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # What is logged may hold what no report of a test can.
    caplog.set_level(logging.CRITICAL + 1)
    target, chance = TARGETS[name], random.Random(name)
    seeds = list(target.seeds())
    for data in [*seeds, b"", b"\0"]:
        target.run(data, tmp_path)
    for _ in range(_DAMAGED):
        target.run(_damaged(chance.choice(seeds), chance, target.words), tmp_path)
