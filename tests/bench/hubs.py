"""Masters to measure against, each a process of its own: a hub of many flists, kernels, chunks.

`python -m tests.bench.hubs PARAMETERS` (JSON) builds a world, prints the ports as JSON, and
serves until its input ends.
"""

import contextlib
import hashlib
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Final

from tests.sandbox.flist import Backend, Directory, FileChunk, Flist, Inode
from tests.sandbox.flist.tree import Access
from tests.sandbox.upstream import Upstream, UpstreamModel

_OLD: Final = 1_600_000_000.0
_FILES_PER_DIRECTORY: Final = 32


@dataclass(frozen=True)
class Hub:
    """What a master holds.

    flists in repositories, in families of versions: those of a family share all files but
    `changed_files`. files: of one flist. bulk_chunks: further chunks, which no flist names.
    """

    repositories: int = 20
    flists: int = 400
    families: int = 8
    files: int = 600
    changed_files: int = 40
    chunk_bytes: int = 200
    bulk_chunks: int = 0
    kernels: int = 0
    kernel_bytes: int = 0


@dataclass(frozen=True)
class Ports:
    """Where a master answers on 127.0.0.1, and how much it has."""

    hub: int
    bootstrap: int
    zdb: int
    flist_bytes: int
    chunks: int


class _Builder:
    """Makes flists of random files whose chunks are what their keys say."""

    def __init__(self, hub: Hub, chance: random.Random) -> None:
        self._hub = hub
        self._chance = chance
        self._access = Access()
        self.chunks: dict[bytes, bytes] = {}

    def inode(self, number: int) -> Inode:
        payload = self._chance.randbytes(self._hub.chunk_bytes)
        key = hashlib.blake2b(payload, digest_size=16).digest()
        self.chunks[key] = payload
        chunk = FileChunk(key, self._chance.randbytes(16))
        name = f"lib{self._chance.getrandbits(24):06x}-{number}.so"
        return Inode(name, "file", 4000, self._access.key, chunks=(chunk,))

    def directory(self, number: int, files: int) -> Directory:
        inodes = tuple(self.inode(one) for one in range(files))
        return Directory(f"usr/lib/part-{number}", self._access.key, inodes=inodes)

    def family(self) -> list[bytes]:
        """Return the archives of one family's versions."""
        hub = self._hub
        common = hub.files - hub.changed_files
        sizes = [_FILES_PER_DIRECTORY] * (common // _FILES_PER_DIRECTORY)
        base = [self.directory(number, files) for number, files in enumerate(sizes)]
        shared = {self._access.key: self._access.encode()}
        shared |= {directory.key: directory.encode() for directory in base}
        archives = []
        for version in range(hub.flists // hub.families):
            own = self.directory(10_000 + version, hub.changed_files)
            metadata = {"backend": Backend("hub.grid.tf").encode()}
            archives.append(Flist({**shared, own.key: own.encode()}, metadata).encode())
        return archives


def _model(hub: Hub) -> tuple[UpstreamModel, int]:
    chance = random.Random(7)
    model = UpstreamModel()
    model.now = lambda: _OLD
    builder = _Builder(hub, chance)
    archives = [archive for _ in range(hub.families) for archive in builder.family()]
    for number, archive in enumerate(archives):
        repository = "tf-zos" if number % hub.repositories == 0 else f"r{number % hub.repositories}"
        model.add_flist(repository, f"app-{number}.flist", archive, _OLD + number)
    model.add_chunks(builder.chunks)
    for first in range(0, hub.bulk_chunks, 1000):
        count = min(1000, hub.bulk_chunks - first)
        payloads = [chance.randbytes(hub.chunk_bytes) for _ in range(count)]
        model.add_chunks({hashlib.blake2b(one, digest_size=16).digest(): one for one in payloads})
    for number in range(hub.kernels):
        data = b"MZ" + chance.randbytes(hub.kernel_bytes - 2)
        model.add_kernel(f"zos-{number:02}.efi", data, _OLD + number)
    for number, mode in enumerate(("prod", "test", "dev", "qa")):
        if hub.kernels:
            model.set_net_link(mode, f"zos-{number % hub.kernels:02}.efi")
    return model, sum(len(archive) for archive in archives)


def main() -> None:
    """Serve until the input ends; the first line of output tells where, as JSON."""
    hub = Hub(**json.loads(sys.argv[1]))
    model, flist_bytes = _model(hub)
    with Upstream(model) as upstream:
        ports = Ports(
            upstream.hub.port,
            upstream.bootstrap.port,
            upstream.zdb.port,
            flist_bytes,
            len(model.store.default),
        )
        print(json.dumps(asdict(ports)), flush=True)
        sys.stdin.read()


@contextlib.contextmanager
def serving(hub: Hub) -> Iterator[Ports]:
    """Run a master as a process of its own."""
    command = [sys.executable, "-m", "tests.bench.hubs", json.dumps(asdict(hub))]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("the master has no pipes")
        try:
            yield Ports(**json.loads(process.stdout.readline()))
        finally:
            process.stdin.close()
            process.wait(20)


if __name__ == "__main__":
    main()
