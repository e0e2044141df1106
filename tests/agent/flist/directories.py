"""Directories of a flist, built by pycapnp."""

import random
from typing import Any


def build_directory(
    schema: Any, chance: random.Random, **options: Any
) -> tuple[bytes, list[bytes]]:
    """Build a Dir with pycapnp; returns the message and the keys that it names, in order."""
    directory = schema.Dir.new_message(name="d", location="l", parent="p", size=4096, **options)
    inodes = directory.init("contents", chance.randrange(40))
    keys: list[bytes] = []
    for number, inode in enumerate(inodes):
        inode.name, inode.size = f"inode-{number}", chance.getrandbits(40)
        kind = chance.choice(["dir", "file", "file", "link", "special"])
        value = inode.attributes.init(kind)
        if kind == "file" and chance.random() < 0.9:
            for block in value.init("blocks", chance.randrange(6)):
                block.hash = chance.randbytes(chance.choice([16, 16, 16, 32, 7]))
                block.key = chance.randbytes(16)
                keys.append(block.hash)
        elif kind == "link":
            value.target = "../" * chance.randrange(9)
    return directory.to_bytes(), keys
