"""Large things that a master's 0-db can send to the flists job."""

import contextlib
import functools
import hashlib
import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from sync.contract.spec import Backoff
from sync.contract.status import StatusRecord
from tests.agent.chunks.scripted_zdb import NSINFO, Script, ScriptedZdb, bulk
from tests.bench.memory.cases import Case, Trial, refused_or
from tests.bench.servers import ADMIN_PASSWORD, ZdbProcess

MIB: Final = 1 << 20
LARGEST: Final = 8 * MIB
_LATE: Final = 1 << 30
_END: Final = b"-No more data\r\n"


def cursor(offset: int) -> bytes:
    """Return a cursor at this offset of the first index file."""
    return struct.pack("<BIIII", 16, 0, 1, offset, 0)


def page(at: int, keys: list[bytes], length_bytes: int = 1) -> bytes:
    """Encode a page of SCAN that ends at an offset and lists payloads of one length."""
    entry = b"*3\r\n$%d\r\n%b\r\n:%d\r\n:1\r\n"
    items = b"".join([entry % (len(key), key, length_bytes) for key in keys])
    return b"*2\r\n%b*%d\r\n%b" % (bulk(cursor(at)), len(keys), items)


def names(count: int, size: int, first: int = 0) -> list[bytes]:
    """Return keys of one size."""
    return [b"%0*d" % (size, number) for number in range(first, first + count)]


@contextlib.contextmanager
def _trial(
    root: Path, script: Script, done: Callable[[StatusRecord], bool], **settings: Any
) -> Iterator[Trial]:
    with ZdbProcess(root / "zdb", admin=ADMIN_PASSWORD) as local, ScriptedZdb(script) as master:
        yield Trial(
            {
                "sources": [master.endpoint],
                "local_zdb": local.endpoint,
                "backoff": Backoff(first_seconds=0.5, longest_seconds=1),
                "free_space_floor_bytes": 0,
                **settings,
            },
            refused_or(done),
        )


def _gone(count: int) -> Callable[[StatusRecord], bool]:
    """Return what tells that so many keys were listed and asked for; the master has none."""

    def done(record: StatusRecord) -> bool:
        gone = record.details.get("gone_items")
        return isinstance(gone, int) and gone >= count

    return done


def _without_payloads(request: list[bytes]) -> bytes | None:
    if request[0] == b"LENGTH":
        return b"$-1\r\n"
    if request[0] == b"MGET":
        return b"*%d\r\n" % (len(request) - 1) + b"$-1\r\n" * (len(request) - 1)
    return None


def one_page(key_bytes: int, count: int, root: Path) -> contextlib.AbstractContextManager[Trial]:
    """List so many keys in one page."""
    listed = page(1, names(count, key_bytes))

    def script(request: list[bytes]) -> bytes | None:
        return listed if request == [b"SCAN"] else _without_payloads(request)

    return _trial(root, script, _gone(count))


def three_pages(count: int, root: Path) -> contextlib.AbstractContextManager[Trial]:
    """List so many keys by each of three scanners at once."""
    low, high, tail = (page(at, names(count, 16, at)) for at in (10, _LATE - 10, _LATE + 10))
    far = cursor(_LATE)
    pages = {(b"SCAN",): low, (b"RSCAN", far): high, (b"SCAN", far): tail}
    pages[(b"RSCAN",)] = page(_LATE, [b"the-newest-entry"])

    def script(request: list[bytes]) -> bytes | None:
        return pages.get(tuple(request)) or _without_payloads(request)

    # One may be dropped: where a scan ends, it does not matter what the other one lists.
    return _trial(root, script, _gone(2 * count + 1))


def tiny_objects(wire_bytes: int, root: Path) -> contextlib.AbstractContextManager[Trial]:
    """Answer SCAN with arrays of empty arrays."""
    row = b"*65536\r\n" + b"*0\r\n" * 65_536
    rows = wire_bytes // len(row)
    flood = b"*%d\r\n" % rows + row * rows

    def script(request: list[bytes]) -> bytes | None:
        return flood if request[0] == b"SCAN" else None

    return _trial(root, script, _gone(1))


def facts(text_bytes: int, root: Path) -> contextlib.AbstractContextManager[Trial]:
    """Say so much of the namespace."""
    lines = NSINFO.format(entries=0).encode()
    told = bulk(lines + b"a: b\n" * ((text_bytes - len(lines)) // 5))

    def script(request: list[bytes]) -> bytes | None:
        return told if request[0] == b"NSINFO" else None

    return _trial(root, script, lambda record: record.phase == "following")


@functools.cache
def _payloads(count: int) -> dict[bytes, bytes]:
    made = [random.Random(number).randbytes(LARGEST) for number in range(count)]
    return {hashlib.blake2b(one, digest_size=16).digest(): one for one in made}


def large_chunks(size_bytes: int, root: Path) -> contextlib.AbstractContextManager[Trial]:
    """List chunks of this size, many of which are fetched at once."""
    payloads = _payloads(24)
    listed = page(1, list(payloads), size_bytes)

    def script(request: list[bytes]) -> bytes | None:
        if request == [b"SCAN"]:
            return listed
        if request[0] == b"MGET":
            found = b"".join([bulk(payloads[key]) for key in request[1:]])
            return b"*%d\r\n%b" % (len(request) - 1, found)
        return None

    return _trial(root, script, lambda record: record.details.get("copied_items") == len(payloads))


def _with_largest(listed: bytes) -> Callable[[list[bytes]], bytes | None]:
    """Return a script that lists a page, and sends a payload of 8 MiB for each key of it."""

    def script(request: list[bytes]) -> bytes | None:
        if request == [b"SCAN"]:
            return listed
        if request[0] == b"MGET":
            return b"*%d\r\n" % (len(request) - 1) + bulk(bytes(LARGEST)) * (len(request) - 1)
        return None

    return script


def longer_than_listed(count: int, root: Path) -> contextlib.AbstractContextManager[Trial]:
    """Send payloads of 8 MiB for keys that were listed with a byte, so many in each reply."""
    script = _with_largest(page(1, names(8 * count, 16)))

    def done(record: StatusRecord) -> bool:
        return record.refused.count == 8 * count

    return _trial(root, script, done, batch_keys=count)


def overwritten(count: int, root: Path) -> contextlib.AbstractContextManager[Trial]:
    """Send payloads of 8 MiB for so many plain keys, all of which were overwritten."""
    script = _with_largest(page(1, names(count, 20)))
    return _trial(root, script, lambda record: record.details.get("copied_items") == count)


PAGES: Final = (1_600, 20_000, 65_536, 65_537)
CASES: Final = (
    Case("flists", "keys of 16 bytes in a page", PAGES, functools.partial(one_page, 16)),
    Case("flists", "keys of 255 bytes in a page", PAGES, functools.partial(one_page, 255)),
    Case("flists", "keys in each of three pages at once", PAGES, three_pages),
    Case("flists", "bytes of empty arrays in place of a page", (2 * MIB, 29 * MIB), tiny_objects),
    Case("flists", "bytes that a 0-db says of a namespace", (50_000, 60_000, 70_000), facts),
    Case("flists", "bytes of each of 24 chunks", (MIB, LARGEST, LARGEST + 1), large_chunks),
    Case("flists", "chunks of 8 MiB listed with a byte, a reply", (1, 2, 3), longer_than_listed),
    Case("flists", "plain keys overwritten with 8 MiB", (8, 64), overwritten, 240),
)
