"""Replies of a master: head, framing, coding, and a download over several of them."""

import gzip
import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from sync.agent.budget import OverBudgetError
from sync.agent.master.download import Expected, Partial
from sync.agent.master.http1 import HttpError, Reply
from sync.agent.master.replies import page_of, unpacked
from tests.fuzz.target import Target, promise

_MAX_BYTES: Final = 1 << 20
_ATTEMPTS: Final = 4
_ACCEPTED: Final = frozenset({200, 206, 416})
_BODY: Final = b"MZ" + bytes(range(64))


def _page(data: bytes, method: str) -> None:
    source = io.BufferedReader(io.BytesIO(data))
    try:
        reply = Reply(source, method)
        body = unpacked(reply, _MAX_BYTES)
        page = page_of(reply, body)
        promise(len(body) <= _MAX_BYTES, f"a page of {len(body)} bytes")
        promise(reply.ended, "a page that was not read to its end")
        _ = page.modified_seconds
        page.json()
    except (HttpError, OverBudgetError):
        pass


def _download(data: bytes, scratch: Path) -> None:
    """Receive a file over several attempts, as Master does, whose replies come one by one."""
    source = io.BufferedReader(io.BytesIO(data))
    target = scratch / "file"
    partial = Partial("file", target, _MAX_BYTES, Expected(), lambda _: None)
    for _ in range(_ATTEMPTS):
        partial.headers()
        try:
            reply = Reply(source, "GET")
            if reply.status not in _ACCEPTED:
                return
            done = partial.receive(reply)
        except (HttpError, OverBudgetError) as error:
            if not getattr(error, "retry", False):
                return
            continue
        if done is None:  # a part: the next reply brings more
            continue
        content = target.read_bytes()
        promise(len(content) == done.size_bytes <= _MAX_BYTES, "another size than was said")
        digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
        promise(digest == done.md5, "another MD5 than was said")
        promise(not reply.header("Content-Encoding").strip(" ,") or _identity(reply), "a coding")
        if reply.status == 206:
            total = reply.header("Content-Range").rpartition("/")[2]
            promise(not total.isdigit() or int(total) == len(content), "a part taken for the whole")
        return


def _identity(reply: Reply) -> bool:
    return reply.header("Content-Encoding").strip().lower() == "identity"


def run(data: bytes, scratch: Path) -> None:
    """Read as a page of GET or HEAD, or as the replies to a download; the first byte says which."""
    how, data = data[:1], data[1:]
    if how == b"d":
        _download(data, scratch)
    else:
        _page(data, "HEAD" if how == b"h" else "GET")


def seeds() -> Iterator[bytes]:
    """Return the forms in which pages and files come."""
    date = (
        b"Date: Mon, 30 Nov 2026 12:00:00 GMT\r\nLast-Modified: Sun, 29 Nov 2026 12:00:00 GMT\r\n"
    )
    packed = gzip.compress(b'[{"name": "a"}]', mtime=0)
    length = b"Content-Length: %d\r\n"
    head = b"HTTP/1.1 200 OK\r\n" + date
    yield b"g" + head + length % 2 + b"\r\n[]"
    yield b"h" + head + length % 2 + b"\r\n"
    gzipped = b"Content-Encoding: gzip\r\n"
    yield b"g" + head + gzipped + length % len(packed) + b"\r\n" + packed
    yield b"g" + head + b"Transfer-Encoding: chunked\r\n\r\n2;a=b\r\n[]\r\n0\r\nX: y\r\n\r\n"
    yield b"gHTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\n{}"
    yield b"d" + head + length % len(_BODY) + b"\r\n" + _BODY
    cut = (
        b"d"
        + head
        + b'ETag: "1"\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n'
        + _BODY[:8]
        + b"\r\nx\r\n"
    )
    part = b"HTTP/1.1 206 Partial Content\r\n" + date + b'ETag: "1"\r\n'
    rest = _BODY[8:]
    said = b"Content-Range: bytes 8-%d/%d\r\n" % (len(_BODY) - 1, len(_BODY))
    yield cut + part + said + length % len(rest) + b"\r\n" + rest
    short = b"Content-Range: bytes 8-15/%d\r\n" % len(_BODY)
    yield cut + part + short + length % 8 + b"\r\n" + rest[:8]
    yield b"d" + head + b"Content-Encoding: gzip\r\n" + length % len(packed) + b"\r\n" + packed
    yield (
        cut
        + b"HTTP/1.1 416 Range Not Satisfiable\r\nContent-Length: 0\r\n\r\n"
        + head
        + b"\r\n"
        + _BODY
    )


_WORDS: Final = (
    b"HTTP/1.1 206 ,HTTP/1.0,100 Continue,GMT,Content-Range: bytes 8-,/66,*/66,If-Range,ETag: ,W/,"
    b"Transfer-Encoding: chunked\r\n,Content-Length: ,gzip,deflate,identity,Retry-After: ,"
    b"Connection: close\r\n,\r\n\r\n"
)
TARGET: Final = Target("http", run, seeds, tuple(_WORDS.split(b",")))
