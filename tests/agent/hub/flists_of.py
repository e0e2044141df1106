"""Small flists of random files, packed in the true format, and the keys of one that was read."""

import random
import tempfile
from functools import cache
from pathlib import Path

from sync.agent.flist.database import Contents
from tests.sandbox.flist import Packed, pack_directory


@cache
def small(seed: int, files: int = 3, file_bytes: int = 900) -> Packed:
    """Pack a directory of random files: other seeds give other chunks."""
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        for number in range(files):
            part = Path(folder) / f"part{number % 3}"
            part.mkdir(exist_ok=True)
            (part / f"file{number}").write_bytes(chance.randbytes(file_bytes))
        return pack_directory(Path(folder))


def keys_in(contents: Contents) -> frozenset[bytes]:
    """Return the keys of all chunks that a flist names."""
    return frozenset[bytes]().union(*(directory.keys for directory in contents.directories))
