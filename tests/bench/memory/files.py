"""Large things that a master's hub and bootstrap can send to the users and kernels jobs."""

import contextlib
import functools
import gzip
import hashlib
import io
import itertools
import json
import sqlite3
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

from sync.contract.spec import Backoff, ZdbEndpoint
from sync.contract.status import StatusRecord
from tests.bench.memory.cases import Case, Trial, refused_or
from tests.bench.memory.exists import Existing
from tests.sandbox.flist import Directory, FileChunk, Flist, Inode
from tests.sandbox.flist.tree import Access

MIB: Final = 1 << 20
_UPDATED: Final = 1_600_000_000
_MARK: Final = b"KEYMARK!"
# Files of a directory, each of one chunk.
_FILES: Final = 50_000

# What a path is answered with: bytes, or a file; and whether those are gzip of what is meant.
Answers = Callable[[str], tuple[bytes | Path, bool] | None]


@contextlib.contextmanager
def _serving(answers: Answers) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, *, body: bool) -> None:
            found = answers(self.path)
            content, packed = found or (b"", False)
            size = len(content) if isinstance(content, bytes) else content.stat().st_size
            self.send_response(200 if found else 404)
            self.send_header("Content-Length", str(size))
            self.send_header("Last-Modified", "Sun, 13 Sep 2020 12:26:40 GMT")
            self.send_header("Content-Type", "application/octet-stream")
            if packed:
                self.send_header("Content-Encoding", "gzip")
            self.end_headers()
            if body and isinstance(content, bytes):
                self.wfile.write(content)
            elif body and isinstance(content, Path):
                with content.open("rb") as file:
                    self.wfile.write(b"") if size == 0 else _copy(file, self.wfile)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _copy(source: Any, target: Any) -> None:
    with contextlib.suppress(OSError):
        while piece := source.read(MIB):
            target.write(piece)


_QUICK: Final = Backoff(first_seconds=0.5, longest_seconds=1)


@contextlib.contextmanager
def _users(
    root: Path,
    pages: dict[str, bytes],
    flist: bytes,
    done: Callable[[StatusRecord], bool],
    *,
    packed: bool = False,
    chunk: bytes | None = None,
) -> Iterator[Trial]:
    """Serve a hub whose flists are all the same; chunk: the payload that all keys have."""

    def answers(path: str) -> tuple[bytes | Path, bool] | None:
        if path in pages:
            return pages[path], packed
        if path.endswith("/light"):
            light = {**_row(path.split("/")[-2], flist), "size": len(flist)}
            return json.dumps(light).encode(), False
        return (flist, False) if path.endswith(".flist") else None

    root.mkdir(parents=True, exist_ok=True)
    with _serving(answers) as url, Existing(chunk) as zdb:
        yield Trial(
            {
                "sources": [url],
                "sources_zdb": [zdb.endpoint],
                "local_zdb": zdb.endpoint,
                "publish_backend": ZdbEndpoint(host="mirror.example"),
                "backoff": _QUICK,
                "free_space_floor_bytes": 0,
            },
            refused_or(done),
        )


def _first_pass(record: StatusRecord) -> bool:
    return record.first_pass_at is not None and not record.broken.count


def _all_asked(record: StatusRecord) -> bool:
    # One payload is what its key says; the others came too, and were looked at.
    return any("127 of its chunks are on no 0-db" in name for name in record.broken.names)


def _row(name: str, flist: bytes) -> dict[str, object]:
    digest = hashlib.md5(flist, usedforsecurity=False).hexdigest()
    size = f"{len(flist) / 1024:.2f} KB"
    return {"name": name, "type": "regular", "size": size, "updated": _UPDATED, "md5": digest}


def _small() -> bytes:
    access = Access()
    return Flist.of([Directory("", access.key)], {access.key: access}).encode()


def many_flists(count: int, root: Path) -> contextlib.AbstractContextManager[Trial]:
    """List so many flists, and give each."""
    flist = _small()
    rows = [_row(f"an-application-of-somebody-{number}.flist", flist) for number in range(count)]
    listing = json.dumps({f"r{at // 1000}": rows[at : at + 1000] for at in range(0, count, 1000)})
    pages = {"/api/fileslist": gzip.compress(listing.encode(), 1)}

    def listed(record: StatusRecord) -> bool:
        # All are planned; to fetch them takes longer than anybody waits here.
        return (record.total.items or 0) >= count and (record.done.items or 0) >= 200

    return _users(root, pages, flist, listed, packed=True)


def empty_rows(count: int, root: Path) -> contextlib.AbstractContextManager[Trial]:
    """List so many rows of nothing: some bytes of gzip each thousand."""
    listing = b'{"alice":[' + b",".join([b"{}"] * count) + b"]}"
    pages = {"/api/fileslist": gzip.compress(listing, 9)}
    return _users(root, pages, b"", _first_pass, packed=True)


@functools.cache
def _directory() -> bytes:
    """Return a directory of many files, whose chunks' keys begin with a mark."""
    access = Access()
    inodes = tuple(
        Inode(
            f"f{number:05}",
            "file",
            4000,
            access.key,
            chunks=(FileChunk(_MARK + number.to_bytes(8, "big"), bytes(16)),),
        )
        for number in range(_FILES)
    )
    return Directory("d", access.key, inodes=inodes).encode()


def _one_flist(
    root: Path, flist: bytes, chunk: bytes | None = None
) -> contextlib.AbstractContextManager[Trial]:
    listing = json.dumps({"alice": [_row("one.flist", flist)]}).encode()
    done = _first_pass if chunk is None else _all_asked
    return _users(root, {"/api/fileslist": listing}, flist, done, chunk=chunk)


def many_keys(count: int, root: Path) -> contextlib.AbstractContextManager[Trial]:
    """Give one flist that names so many chunks."""
    access = Access()
    entries = {access.key: access.encode()}
    root_directory = Directory("", access.key)
    entries[root_directory.key] = root_directory.encode()
    for number in range(count // _FILES):
        key = hashlib.blake2b(b"%d" % number, digest_size=16).hexdigest()
        entries[key] = _directory().replace(_MARK, number.to_bytes(8, "big"))
    return _one_flist(root, Flist(entries).encode())


def large_database(size_bytes: int, root: Path) -> contextlib.AbstractContextManager[Trial]:
    """Give one flist whose database is so large: zeros, of which gzip leaves a thousandth."""
    access = Access()
    directory = Directory("", access.key)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "flistdb.sqlite3"
        with contextlib.closing(sqlite3.connect(path)) as database:
            database.execute("CREATE TABLE entries (key VARCHAR(64) PRIMARY KEY, value BLOB)")
            for one in (access, directory):
                database.execute("INSERT INTO entries VALUES (?, ?)", (one.key, one.encode()))
            # Entries that nobody can read count for nothing.
            for number in range(size_bytes // MIB):
                database.execute("INSERT INTO entries VALUES (?, zeroblob(?))", (f"{number}", MIB))
            database.commit()
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=6) as archive:
            archive.add(path, "./flistdb.sqlite3")
    return _one_flist(root, packed.getvalue())


def large_payloads(size_bytes: int, root: Path) -> contextlib.AbstractContextManager[Trial]:
    """Give one flist of 128 chunks, all of which the master says to be so long."""
    access = Access()
    payload = bytes(size_bytes)
    ids = [hashlib.blake2b(payload, digest_size=16).digest()]
    ids += [b"lacking %08d" % number for number in range(127)]
    inodes = [
        Inode(f"f{number}", "file", 4000, access.key, chunks=(FileChunk(one, bytes(16)),))
        for number, one in enumerate(ids)
    ]
    directory = Directory("", access.key, inodes=tuple(inodes))
    flist = Flist.of([directory], {access.key: access}).encode()
    return _one_flist(root, flist, payload)


@contextlib.contextmanager
def _kernels(
    pages: dict[str, bytes], kernel: bytes | Path, done: Callable[[StatusRecord], bool]
) -> Iterator[Trial]:
    def answers(path: str) -> tuple[bytes | Path, bool] | None:
        if path in pages:
            return pages[path], True
        return (kernel, False) if path.startswith("/kernel/zos-") else None

    with _serving(answers) as url:
        yield Trial(
            {"sources": [url], "backoff": _QUICK, "free_space_floor_bytes": 0, "run_modes": []},
            refused_or(done),
        )


def _images(count: int) -> dict[str, bytes]:
    row = '{"name": "zos-%d.efi", "timestamp": 1600000000}'
    listing = f"[{','.join(row % number for number in range(count))}]"
    return {"/api/images": gzip.compress(listing.encode(), 6)}


def many_kernels(count: int, root: Path) -> contextlib.AbstractContextManager[Trial]:
    """List so many kernels, and give each."""
    root.mkdir(parents=True, exist_ok=True)

    def listed(record: StatusRecord) -> bool:
        return (record.total.items or 0) >= count and (record.done.items or 0) >= 1

    return _kernels(_images(count), b"MZ" + bytes(1000), listed)


def empty_images(count: int, root: Path) -> contextlib.AbstractContextManager[Trial]:
    """List so many rows of nothing."""
    root.mkdir(parents=True, exist_ok=True)
    listing = b"[" + b",".join(itertools.repeat(b"{}", count)) + b"]"
    pages = {"/api/images": gzip.compress(listing, 6)}
    return _kernels(pages, b"", lambda record: record.first_pass_at is not None)


def large_kernel(size_bytes: int, root: Path) -> contextlib.AbstractContextManager[Trial]:
    """Give one kernel of so many bytes."""
    root.mkdir(parents=True, exist_ok=True)
    path = root / "kernel"
    with path.open("wb") as file:
        file.write(b"MZ")
        file.truncate(size_bytes)
    return _kernels(_images(1), path, _first_pass)


CASES: Final = (
    Case("users", "flists of a hub", (100_000, 300_000, 350_000, 500_000), many_flists, 300),
    Case("users", "rows of nothing in a listing", (10_000, 1_000_000, 6_000_000), empty_rows),
    Case(
        "users", "chunks of one flist", (500_000, 1_000_000, 3_000_000, 6_000_000), many_keys, 300
    ),
    Case(
        "users",
        "bytes of a flist's database",
        (16 * MIB, 400 * MIB, 511 * MIB, 513 * MIB),
        large_database,
    ),
    Case("users", "bytes of each of 128 chunks", (512 << 10, 8 * MIB, 8 * MIB + 1), large_payloads),
    Case("kernels", "kernels", (1_000, 30_000, 100_000, 300_000), many_kernels, 200),
    Case("kernels", "rows of nothing in a listing", (10_000, 1_000_000, 6_000_000), empty_images),
    Case("kernels", "bytes of a kernel", (1 << 28, 2 << 30, (2 << 30) + 1), large_kernel, 300),
)
