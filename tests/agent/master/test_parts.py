"""A file that comes in parts is whole when it counts as whole, whatever the replies say."""

import contextlib
import io
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sync.agent.job import Control
from sync.agent.master.client import Expected, HttpError, Master
from sync.agent.master.download import Downloaded, Partial
from sync.agent.master.http1 import Reply
from sync.contract.spec import Backoff, HttpLimits
from tests.agent.scripted import Answer, Asked, ScriptedServer

WHOLE = b"MZ" + bytes(range(256)) * 8
SIZE = len(WHOLE)
DATE = "Tue, 14 Nov 2023 22:13:20 GMT"
QUICK = Backoff(first_seconds=0.001, longest_seconds=0.002)


def raw(status: int, body: bytes, *fields: str, length: int | None = None) -> bytes:
    said = len(body) if length is None else length
    head = [f"HTTP/1.1 {status} Said", f"Content-Length: {said}", f"Last-Modified: {DATE}"]
    return "\r\n".join([*head, *fields, "", ""]).encode() + body


def chunked(status: int, body: bytes, *fields: str) -> bytes:
    head = [f"HTTP/1.1 {status} Said", "Transfer-Encoding: chunked", f"Last-Modified: {DATE}"]
    parts = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
    return "\r\n".join([*head, *fields, "", ""]).encode() + parts + b"0\r\n\r\n"


def content_range(first: int, last: int, total: object = SIZE) -> str:
    return f"Content-Range: bytes {first}-{last}/{total}"


def one_part(start: int, end: int) -> bytes:
    return raw(206, WHOLE[start:end], content_range(start, end - 1))


# What a server may answer from byte `start`, or a cache before it; each tells the truth, breaks off
# in the middle, or contradicts itself or what was said before. No digest is known.
Answers = Callable[[int, int], bytes]
ANSWERS: dict[str, Answers] = {
    "all": lambda _, __: raw(200, WHOLE),
    "all, in chunks": lambda _, __: chunked(200, WHOLE),
    "all, breaks off": lambda _, end: raw(200, WHOLE[:end], length=SIZE),
    "the rest": lambda start, _: one_part(start, SIZE),
    "less": one_part,
    "less, in chunks": lambda start, end: chunked(
        206, WHOLE[start:end], content_range(start, end - 1)
    ),
    "less, and breaks off": lambda start, end: raw(
        206, WHOLE[start : end - 1], content_range(start, end - 1), length=end - start
    ),
    "less, of an unknown total": lambda start, end: raw(
        206, WHOLE[start:end], content_range(start, end - 1, "*")
    ),
    "from elsewhere": lambda start, end: raw(
        206, WHOLE[start + 1 : end + 1], content_range(start + 1, end)
    ),
    "less than its range": lambda start, end: raw(
        206, WHOLE[start : end - 1], content_range(start, end - 1)
    ),
    "more than its range": lambda start, end: chunked(
        206, WHOLE[start:end] + b"x", content_range(start, end - 1)
    ),
    "chunks that are less than its range": lambda start, end: chunked(
        206, WHOLE[start : end - 1], content_range(start, end - 1)
    ),
    "a range beyond the total": lambda start, _: raw(
        206, WHOLE[start:] + b"x", content_range(start, SIZE)
    ),
    "a range that ends before it begins": lambda start, _: raw(
        206, b"", content_range(start, start - 1)
    ),
    "a part that does not say which": lambda start, end: raw(206, WHOLE[start:end]),
    "two ranges": lambda start, end: raw(
        206, WHOLE[start:end], content_range(start, end - 1), content_range(start, end - 1)
    ),
    "parts in one": lambda start, end: raw(
        206, WHOLE[start:end], "Content-Type: multipart/byteranges; boundary=x"
    ),
    "another unit": lambda start, end: raw(
        206, WHOLE[start:end], f"Content-Range: lines {start}-{end - 1}/{SIZE}"
    ),
    "a part that is called all": lambda start, end: raw(
        200, WHOLE[start:end], content_range(start, end - 1)
    ),
    "in a coding": lambda start, end: raw(
        206, WHOLE[start:end], content_range(start, end - 1), "Content-Encoding: br"
    ),
    "all in a coding": lambda _, __: raw(200, b"\x1f\x8b squeezed", "Content-Encoding: gzip"),
    "of another file": lambda start, end: raw(
        206, bytes(end - start), content_range(start, end - 1), 'ETag: "other"'
    ),
    "416": lambda _, __: raw(416, b"", f"Content-Range: bytes */{SIZE}"),
}


@settings(max_examples=600, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(sorted(ANSWERS)), st.integers(2, SIZE)), min_size=1, max_size=12
    )
)
def test_what_counts_as_whole_is_whole_whatever_is_answered(drawn: list[tuple[str, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        target, done = Path(folder, "file"), None
        partial = Partial("/file", target, 2 * SIZE, Expected(), lambda _: None)
        for name, amount in drawn:
            asked = partial.headers().get("Range", "bytes=0-")
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            data = ANSWERS[name](start, min(start + amount, SIZE))
            if name == "of another file" and start == 0:
                continue  # alone it is a file like any other
            with contextlib.suppress(HttpError):
                done = partial.receive(Reply(io.BytesIO(data), "GET"))
            if done is not None:
                break
        if done is not None:
            assert target.read_bytes() == WHOLE
            assert (done.size_bytes, done.page.length) == (SIZE, SIZE)
        elif drawn[-1][0] in {"all", "all, in chunks"}:
            pytest.fail("all of it came, and was not taken")


@pytest.mark.parametrize("asked_for", [True, False], ids=["resumed", "unasked"])
@pytest.mark.parametrize("slice_bytes", [1, 7, 500, SIZE - 1, SIZE])
def test_transfer_goes_on_until_the_total(
    slice_bytes: int, asked_for: bool, tmp_path: Path
) -> None:
    def script(asked: Asked) -> Answer:
        if "Range" not in asked.headers and asked_for:
            return Answer(WHOLE, fault="truncate")
        said = asked.headers.get("Range", "bytes=0-")
        start = int(said.removeprefix("bytes=").removesuffix("-"))
        end = min(start + slice_bytes, SIZE)
        span = {"Content-Range": f"bytes {start}-{end - 1}/{SIZE}", "Last-Modified": DATE}
        return Answer(WHOLE[start:end], 206, headers=span)

    assert download(script, tmp_path / "file", SIZE).size_bytes == SIZE
    assert (tmp_path / "file").read_bytes() == WHOLE


def download(
    script: Callable[[Asked], Answer | None], target: Path, most: int = 2 * SIZE
) -> Downloaded:
    with ScriptedServer(script) as server:
        master = Master([server.url], HttpLimits(), Control(), backoff=QUICK)
        try:
            return master.download("/file", target, most)
        finally:
            master.close()


@pytest.mark.parametrize(
    "first",
    [
        Answer(WHOLE[:10], 206, headers={"Content-Range": f"bytes 0-9/{SIZE}"}),
        Answer(WHOLE[:10], 206, headers={"Content-Range": f"bytes 0-9/{SIZE}", "ETag": 'W/"1"'}),
    ],
    ids=["no validator", "a weak one"],
)
def test_parts_that_nothing_shows_to_be_of_one_file_are_refused(
    first: Answer, tmp_path: Path
) -> None:
    with pytest.raises(HttpError, match="of one file"):
        download(lambda _: first, tmp_path / "file")
    assert not (tmp_path / "file").exists()


def test_file_in_parts_without_end_is_given_up(tmp_path: Path) -> None:
    """One byte at a time of a file of gigabytes."""

    def script(asked: Asked) -> Answer:
        said = asked.headers.get("Range", "bytes=0-")
        start = int(said.removeprefix("bytes=").removesuffix("-"))
        span = {"Content-Range": f"bytes {start}-{start}/{1 << 30}", "Last-Modified": DATE}
        return Answer(b"x", 206, headers=span)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sync.agent.master.client._MOST_PARTS", 50)
        with pytest.raises(HttpError, match="more than 50 parts"):
            download(script, tmp_path / "file", 1 << 31)


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (206, {"Content-Range": "bytes 0-9/100"}),
        (206, {}),
        (304, {}),
        (416, {}),
        (204, {}),
        (203, {}),
    ],
)
def test_page_is_never_a_part_nor_unchanged_unless_that_was_asked_for(
    status: int, headers: dict[str, str]
) -> None:
    """The page of an older revision lists kernels in HTML: half of it still reads as a list."""
    page = Answer(b'<a href="/kernel/zos.efi">', status, headers=headers)
    with ScriptedServer(lambda _: page) as server:
        master = Master([server.url], HttpLimits(), Control(), backoff=QUICK)
        with pytest.raises(HttpError, match=str(status)):
            master.get("/images", 1000)
        with pytest.raises(HttpError, match=str(status)):
            master.head("/images")
        master.close()


@pytest.mark.parametrize("coding", ["gzip", "br", "deflate", "zstd", "gzip, br"])
def test_head_in_a_coding_is_not_the_length_of_the_file(coding: str) -> None:
    page = Answer(b"x", headers={"Content-Encoding": coding})
    with ScriptedServer(lambda _: page) as server:
        master = Master([server.url], HttpLimits(), Control(), backoff=QUICK)
        with pytest.raises(HttpError, match="not asked for"):
            master.head("/file")
        master.close()
