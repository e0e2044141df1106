"""Whatever is written, in any order, the stand-in lists and serves it as a real zdbd does.

Needs one: ZDBD=/path/to/zdbd, or on PATH. What single requests are answered is recorded, and held
to in tests/golden.
"""

import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.sandbox.host.ports import free_port
from tests.sandbox.services.zdb_client import ErrorReply, Wire
from tests.sandbox.tests.servers import ended, real_zdbd, started

ZDBD = real_zdbd(os.environ.get("ZDBD"))
pytestmark = pytest.mark.skipif(
    ZDBD is None, reason="no real zdbd to compare with: name one with ZDBD or put it on PATH"
)
Pair = tuple[Wire, Wire]


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """Connect to a real zdbd and to the stand-in, both empty, with small data files."""
    commands = ([str(ZDBD)], [sys.executable, "-m", "tests.sandbox.services.zdb"])
    processes, ports = [], []
    try:
        for number, command in enumerate(commands):
            port, place = free_port(), tmp_path / str(number)
            place.mkdir()
            folders = ["--data", str(place / "data"), "--index", str(place / "index")]
            address = ["--listen", "127.0.0.1", "--port", str(port)]
            flags = [*folders, *address, "--mode", "user", "--datasize", "524288"]
            processes.append(started([*command, *flags], port, Path(__file__).parents[3]))
            ports.append(port)
        yield Wire(ports[0]), Wire(ports[1])
    finally:
        for process in processes:
            ended(process)


def _both(pair: Pair, *words: bytes | str | int) -> Any:
    """Ask both, compare, return the answer."""
    real, ours = (wire.ask(*words) for wire in pair)
    assert ours == real, words
    return real


def _listing(wire: Wire, command: str, *cursor: bytes) -> list[tuple[bytes, int, int]]:
    """List from a cursor to the end: how much a page of zdbd holds is a matter of time."""
    found: list[tuple[bytes, int, int]] = []
    for _ in range(100):
        page = wire.ask(command, *cursor)
        if page == ErrorReply("No more data"):
            return found
        found += [(key, length, stamp) for key, length, stamp in page[1]]
        cursor = (page[0],)
    raise AssertionError("the listing does not end")


def _random_writes(pair: Pair, chance: random.Random, count: int) -> None:
    keys = [bytes([n]) * chance.choice((1, 16, 255)) for n in range(1, 41)]
    for _ in range(count):
        key = chance.choice(keys)
        if chance.random() < 0.25:
            _both(pair, "DEL", key, chance.randint(1, 2**31))
            continue
        payload = chance.randbytes(chance.choice((0, 1, 7, 5000))) * chance.choice((0, 1))
        _both(pair, "SET", key, payload, chance.randint(1, 2**31))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_same_order_cursors_and_versions_whatever_is_written(pair: Pair, seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(5):
        _random_writes(pair, chance, 100)
        real, ours = (_listing(wire, "SCAN") for wire in pair)
        assert ours == real
        assert [_listing(wire, "RSCAN") for wire in pair] == [real[::-1]] * 2
        _both(pair, "DBSIZE")
        keys = [key for key, _, _ in real]
        _both(pair, "MGET", *keys, b"absent")
        cursors = [_both(pair, "KEYCUR", key) for key in keys]
        for key in [*keys, b"absent"]:
            for command in ("GET", "EXISTS", "CHECK", "LENGTH", "KEYTIME", "HISTORY"):
                _both(pair, command, key)
        # Cursors stay good when their keys are overwritten and deleted.
        for key in chance.sample(keys, len(keys) // 2):
            _both(pair, *(("DEL", key) if chance.random() < 0.5 else ("SET", key, "other", 3)))
        for cursor in chance.sample(cursors, 5):
            for command in ("SCAN", "RSCAN"):
                real, ours = (_listing(wire, command, cursor) for wire in pair)
                assert ours == real
