"""A client that boots: it rebuilds what a mirror serves and compares it with where it came from.

It asks only the mirror: the hub for the flist and its MD5, the 0-db that the flist names for the
chunks, the bootstrap server for kernels. `python -m tests.sandbox.client …` for a person.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.sandbox.fetch import Fetcher, FetchError, Resolver
from tests.sandbox.flist import Backend, Flist, FormatError, Inode
from tests.sandbox.flist.chunks import Chunk, ChunkError, open_chunks
from tests.sandbox.flist.pack import IGNORED
from tests.sandbox.services.zdb_client import ZdbClient, ZdbError

_BATCH_CHUNKS: Final = 256
_MODE_BITS: Final = 0o7777


class BootError(Exception):
    """Something that a node could not boot from; str() names it."""


@dataclass(frozen=True)
class Booted:
    """What was rebuilt of a flist. bytes: of all files, plain."""

    name: str
    files: int
    directories: int
    links: int
    chunks: int
    bytes: int
    compared_with: Path | None = None


@dataclass(frozen=True)
class Mirror:
    """Where a mirror is. backend: overrides the 0-db that flists name."""

    hub: str
    bootstrap: str = ""
    backend: Backend | None = None
    resolver: Resolver = field(default_factory=Resolver)
    ca_file: Path | None = None


class BootClient:
    """Reads a mirror as a node does, trusting nothing that it can check."""

    def __init__(self, mirror: Mirror) -> None:
        self._mirror = mirror
        self._fetcher = Fetcher(mirror.resolver, mirror.ca_file)

    # -- hub ---------------------------------------------------------------------------------

    def listing(self) -> dict[str, list[dict[str, Any]]]:
        """Return every repository's entries (/api/fileslist)."""
        found: dict[str, list[dict[str, Any]]] = json.loads(self._hub("/api/fileslist"))
        return found

    def bootable(self) -> list[str]:
        """Return the path of everything that a node could ask for by name.

        `REPO/F.flist` of flists and links, `REPO/tags/T/F.flist` of tags' content.
        """
        paths = []
        for repository, entries in self.listing().items():
            for entry in entries:
                if entry["type"] in {"regular", "symlink"} and entry["name"].endswith(".flist"):
                    paths.append(f"{repository}/{entry['name']}")
                elif entry["type"] == "tag":
                    place = f"{repository}/tags/{entry['name']}"
                    names = json.loads(self._hub(f"/api/flist/{place}"))
                    paths += [f"{place}/{name['name']}" for name in names]
        return sorted(paths)

    def flist(self, path: str) -> Flist:
        """Fetch a flist, check its MD5 (a tag's content has none) and read it."""
        data = self._hub(f"/{path}")
        if "/tags/" not in path:
            announced = self._hub(f"/{path}.md5").decode().strip()
            if hashlib.md5(data, usedforsecurity=False).hexdigest() != announced:
                raise BootError(f"{path}: the MD5 is not {announced}")
        try:
            return Flist.decode(data)
        except FormatError as error:
            raise BootError(f"{path}: {error}") from error

    def _hub(self, path: str) -> bytes:
        try:
            return self._fetcher.get(self._mirror.hub + path)
        except FetchError as error:
            raise BootError(str(error)) from error

    # -- boot --------------------------------------------------------------------------------

    def boot(self, path: str, source: Path | None = None) -> Booted:
        """Rebuild a flist from the mirror; compare it with the directory it was packed from.

        Raises BootError for the first thing that is missing, damaged or different.
        """
        flist = self.flist(path)
        backend = self._mirror.backend or flist.backend
        if backend is None:
            raise BootError(f"{path}: the flist does not say where its chunks are")
        try:
            rebuilt = _Rebuilt.of(flist, backend, self._mirror.resolver)
        except (FormatError, ChunkError, ZdbError) as error:
            raise BootError(f"{path}: {error}") from error
        if source is not None:
            rebuilt.compare(path, source)
        return Booted(
            name=path,
            files=len(rebuilt.files),
            directories=len(rebuilt.directories),
            links=len(rebuilt.links),
            chunks=len(flist.chunk_keys()),
            bytes=sum(map(len, rebuilt.files.values())),
            compared_with=source,
        )

    # -- kernels -----------------------------------------------------------------------------

    def kernels(self) -> list[str]:
        """Return the names of the kernels (/api/images)."""
        return [image["name"] for image in json.loads(self._bootstrap("/api/images"))]

    def kernel(self, name: str) -> bytes:
        """Fetch a kernel; `net/MODE.efi` is what a run mode boots."""
        return self._bootstrap(f"/kernel/{name}")

    def boot_script(self, mode: str, farm: str = "1") -> str:
        """Fetch the script that a node's iPXE runs."""
        return self._bootstrap(f"/ipxe/{mode}/{farm}").decode()

    def _bootstrap(self, path: str) -> bytes:
        try:
            return self._fetcher.get(self._mirror.bootstrap + path)
        except FetchError as error:
            raise BootError(str(error)) from error


@dataclass
class _Rebuilt:
    """A flist's tree in memory: content, mode and target by path."""

    files: dict[str, bytes] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    directories: set[str] = field(default_factory=set)
    modes: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, flist: Flist, backend: Backend, resolver: Resolver) -> "_Rebuilt":
        rebuilt = cls()
        files: dict[str, Inode] = {}
        for directory in flist.walk():
            for inode in directory.inodes:
                path = f"{directory.path}/{inode.name}".lstrip("/")
                rebuilt.modes[path] = flist.access(inode.access_key).mode
                if inode.kind == "file":
                    files[path] = inode
                elif inode.kind == "link":
                    rebuilt.links[path] = inode.target
                elif inode.kind == "directory":
                    rebuilt.directories.add(path)
        plain = _fetched(files.values(), backend, resolver)
        for path, inode in files.items():
            content = b"".join(plain[chunk.id] for chunk in inode.chunks)
            if len(content) != inode.size:
                raise ChunkError(f"{path} has {len(content)} bytes, not {inode.size}")
            rebuilt.files[path] = content
        return rebuilt

    def compare(self, name: str, source: Path) -> None:
        """Raise BootError unless this is, byte for byte, what `source` holds."""
        seen = set()
        for place in _walk(source):
            path = str(place.relative_to(source))
            seen.add(path)
            self._compare_one(name, path, place)
        extra = (set(self.files) | set(self.links) | self.directories) - seen
        if extra:
            raise BootError(f"{name}: {min(extra)} is not in {source}")

    def _compare_one(self, name: str, path: str, place: Path) -> None:
        if place.is_symlink():
            same = self.links.get(path) == str(place.readlink())
        elif place.is_dir():
            same = path in self.directories
        elif place.is_file():
            same = self.files.get(path) == place.read_bytes()
        else:
            return  # sockets and devices have no content
        if not same:
            raise BootError(f"{name}: {path} is not what {place} holds")
        mode = place.lstat().st_mode & _MODE_BITS
        if self.modes[path] != mode:
            raise BootError(f"{name}: {path} has mode {self.modes[path]:o}, not {mode:o}")


def _walk(source: Path) -> Iterator[Path]:
    for place in sorted(source.iterdir()):
        if place.name in IGNORED:
            continue
        yield place
        if place.is_dir() and not place.is_symlink():
            yield from _walk(place)


def _fetched(inodes: Iterable[Inode], backend: Backend, resolver: Resolver) -> dict[bytes, bytes]:
    """Fetch, verify and open every chunk; the plain bytes by key."""
    ciphers = {chunk.id: chunk.cipher for inode in inodes for chunk in inode.chunks}
    if not ciphers:
        return {}
    host, port = resolver.resolve(backend.host, backend.port)
    plain: dict[bytes, bytes] = {}
    with ZdbClient(host, port) as zdb:
        zdb.select(backend.namespace)
        keys = list(ciphers)
        for start in range(0, len(keys), _BATCH_CHUNKS):
            batch = keys[start : start + _BATCH_CHUNKS]
            chunks = [_chunk(key, ciphers[key], data) for key, data in _payloads(zdb, batch)]
            plain.update(zip(batch, open_chunks(chunks), strict=True))
    return plain


def _payloads(zdb: ZdbClient, keys: Sequence[bytes]) -> Iterator[tuple[bytes, bytes | None]]:
    yield from zip(keys, zdb.get_many(keys), strict=True)


def _chunk(key: bytes, cipher: bytes, payload: bytes | None) -> Chunk:
    if payload is None:
        raise ChunkError(f"chunk {key.hex()} is not in the 0-db")
    return Chunk(key, cipher, payload)


def main(argv: list[str]) -> int:
    """Boot what is asked for; status 1 when anything could not be booted."""
    options = _parser().parse_args(argv)
    client = BootClient(_mirror(options))
    failed = 0
    try:
        paths = options.flist or client.bootable()
    except BootError as error:
        print(f"FAILED  {error}")
        return 1
    sources = _sources(options.sources)
    for path in paths:
        failed += not _booted(client, path, sources.get(path))
    if options.bootstrap:
        failed += not _kernels_read(client)
    print(f"{len(paths) - failed} of {len(paths)} flists boot" if failed else "everything boots")
    return 1 if failed else 0


def _booted(client: BootClient, path: str, source: Path | None) -> bool:
    try:
        done = client.boot(path, source)
    except BootError as error:
        print(f"FAILED  {error}")
        return False
    compared = f", same as {source}" if source else ""
    print(f"boots   {path}: {done.files} files, {done.chunks} chunks, {done.bytes} bytes{compared}")
    return True


def _kernels_read(client: BootClient) -> bool:
    try:
        for name in [*client.kernels(), *(f"net/{mode}.efi" for mode in _MODES)]:
            data = client.kernel(name)
            print(f"kernel  {name}: {len(data)} bytes, {hashlib.sha256(data).hexdigest()[:16]}")
    except BootError as error:
        print(f"FAILED  {error}")
        return False
    return True


_MODES: Final = ("prod", "test", "dev", "qa")


def _sources(given: Path | None) -> dict[str, Path]:
    """Read the `sources` of the master's description (`upstream show`)."""
    if given is None:
        return {}
    found = json.loads(given.read_text())
    return {name: Path(path) for name, path in found.get("sources", found).items()}


def _mirror(options: argparse.Namespace) -> Mirror:
    backend = None
    if options.zdb:
        host, _, port = options.zdb.rpartition(":")
        backend = Backend(host.strip("[]"), int(port), options.namespace)
    resolver = Resolver()
    for rule in options.resolve:
        name, port, address = rule.split(":", 2)
        resolver.add(name, int(port), address)
    return Mirror(options.hub, options.bootstrap, backend, resolver, options.ca)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="client", description=__doc__)
    parser.add_argument("--hub", required=True, help="base URL, https://hub.example.org")
    parser.add_argument("--bootstrap", default="", help="base URL; also reads the kernels")
    parser.add_argument("--ca", type=Path, help="file with the certificate authority")
    parser.add_argument("--zdb", help="HOST:PORT instead of what the flists say")
    parser.add_argument("--namespace", default="default")
    parser.add_argument(
        "--resolve",
        action="append",
        default=[],
        metavar="HOST:PORT:ADDRESS[,PORT]",
        help="connect there instead (as curl's; IPv6 without brackets)",
    )
    parser.add_argument("--sources", type=Path, help="JSON: flist path to the directory to compare")
    parser.add_argument("flist", nargs="*", help="REPO/F.flist (default: everything)")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
