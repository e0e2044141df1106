"""A reply is read as the standard library reads it, and one that is not clear is refused."""

import contextlib
import email.utils
import http.client
import io
import socket
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sync.agent.master import http1
from sync.agent.master import replies as replies_of
from sync.agent.master.http1 import HttpError, Reply
from sync.agent.master.replies import http_seconds

PIECES = st.lists(st.binary(max_size=40), max_size=5)
TEXT = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=12)
FIELDS = st.dictionaries(st.sampled_from(["ETag", "Date", "X-Y", "Server"]), TEXT, max_size=3)


def chunked(pieces: list[bytes]) -> bytes:
    chunks = [b"%x;name=value\r\n%b\r\n" % (len(piece), piece) for piece in pieces if piece]
    return b"".join(chunks) + b"0\r\nTrailer: x\r\n\r\n"


@st.composite
def replies(draw: st.DrawFn) -> tuple[bytes, str]:
    """Draw a well-formed reply and the method that it answers."""
    pieces = draw(PIECES)
    method = draw(st.sampled_from(["GET", "HEAD"]))
    status = draw(st.sampled_from([200, 204, 206, 304, 404, 503]))
    version = draw(st.sampled_from(["1.0", "1.1"]))
    bodiless = method == "HEAD" or status in {204, 304}
    # The standard library waits for chunks where none may be.
    framing = draw(
        st.sampled_from(["length", "close"] if bodiless else ["length", "chunked", "close"])
    )
    fields = draw(FIELDS) | draw(
        st.sampled_from([{}, {"Connection": "close"}, {"connection": "Keep-Alive"}])
    )
    body = b"".join(pieces)
    if framing == "length":
        fields["content-length"] = str(len(body))
    elif framing == "chunked":
        fields["Transfer-Encoding"] = "chunked"
        body = chunked(pieces)
    if bodiless:
        body = b""
    interim = draw(st.sampled_from([b"", b"HTTP/1.1 100 Continue\r\nA: b\r\n\r\n"]))
    lines = [f"HTTP/{version} {status} Reason", *(f"{key}: {fields[key]}" for key in fields)]
    return interim + "\r\n".join([*lines, "", ""]).encode() + body, method


def standard(data: bytes, method: str) -> http.client.HTTPResponse:
    theirs, ours = socket.socketpair()
    with theirs, ours:
        theirs.sendall(data)
        theirs.shutdown(socket.SHUT_WR)
        reply = http.client.HTTPResponse(ours, method=method)
        reply.begin()
    return reply


@settings(max_examples=400, deadline=None)
@given(replies(), st.integers(1, 50))
def test_well_formed_reply_is_read_as_the_standard_library_reads_it(
    drawn: tuple[bytes, str], amount: int
) -> None:
    data, method = drawn
    expected = standard(data, method)
    source = io.BytesIO(data + b"next")
    reply = Reply(
        source if expected.chunked or expected.length is not None else io.BytesIO(data), method
    )
    assert reply.status == expected.status
    for name in ("ETag", "Date", "X-Y", "content-LENGTH", "Server"):
        assert reply.header(name) == (expected.headers.get(name) or "")
    assert reply.says_its_end == (expected.chunked or expected.length is not None)
    assert reply.keeps_alive == (not expected.will_close)
    body = b""
    with mock.patch.object(http1, "_READ_BYTES", amount):
        while part := reply.read():
            assert len(part) <= amount
            body += part
    assert body == expected.read()
    assert reply.ended
    if reply.says_its_end:
        assert source.read() == b"next"


@settings(max_examples=300, deadline=None)
@given(replies(), st.data())
def test_reply_that_breaks_off_is_never_taken_for_whole(
    drawn: tuple[bytes, str], data: st.DataObject
) -> None:
    whole, method = drawn
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    with contextlib.suppress(HttpError):
        reply = Reply(io.BytesIO(cut), method)
        body = reply.read_all(1000)
        assert not reply.says_its_end
        assert not reply.keeps_alive
        assert Reply(io.BytesIO(whole), method).read_all(1000).startswith(body)


OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (b"", "closed"),
        (b"ICY 200 OK\r\n\r\n", "is not HTTP/1"),
        (b"HTTP/1.1 20 OK\r\n\r\n", "is not HTTP/1"),
        (b"HTTP/2 200 OK\r\n\r\n", "is not HTTP/1"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 20, "without end"),
        (b"HTTP/1.1 " + b"2" * 70_000, "a head of more than"),
        (OK + b"A: " + b"b" * 70_000 + b"\r\n\r\n", "a head of more than"),
        (OK + (b"A: " + b"b" * 7_000 + b"\r\n") * 10 + b"\r\n", "a head of more than"),
        (OK + (b"A: " + b"\xe9" * 700 + b"\r\n") * 99 + b"\r\n", "a head of more than"),
        (OK + b"A: b\r\n" * 200 + b"\r\n", "more than 100 headers"),
        (OK + b"no colon\r\n\r\n", "is no header"),
        (OK + b" folded: x\r\n\r\n", "is no header"),
        (OK + b"Content-Length : 3\r\n\r\nabc", "is no header"),
        (OK + b"Content-Length: -3\r\n\r\nabc", "a length of"),
        (OK + b"Content-Length: +3\r\n\r\nabc", "a length of"),
        (OK + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", "a length of"),
        (OK + b"Content-Length: 99999999999999999999\r\n\r\nabc", "a length of"),
        (OK + b"Content-Length: \xb2\r\n\r\nabc", "a length of"),
        (OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "transfer coding"),
        (OK + b"Transfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\nx", "transfer coding"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n-1\r\nx", "a chunk of"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n0x1\r\nx\r\n", "a chunk of"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\nxyz\r\n0\r\n\r\n", "in a chunk"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"T: x\r\n" * 200, "more than 100"),
        (
            OK
            + b"Transfer-Encoding: chunked\r\n\r\n0\r\n"
            + (b"T: " + b"x" * 7_000 + b"\r\n") * 10,
            "a head of more than",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_reply_that_is_not_clear_is_refused(said: bytes, words: str) -> None:
    with pytest.raises(HttpError, match=words) as refused:
        Reply(io.BytesIO(said), "GET").read_all(1 << 20)
    assert refused.value.retry


@pytest.mark.parametrize(
    "date",
    [
        "Mon, 30 Nov 99999999999999999999 12:00:00 GMT",
        "Mon, 30 Nov 2026 12:00:00 +99999999999999999999",
        "Mon, 30 Nov 12345 12:00:00 GMT",
        "Mon, 31 Feb 2026 12:00:00 GMT",
        "Mon, 30 Nov 2026 12:00:00 GMT" + " " * 60_000,
        "Mon, 30 Nov 2026 99:99:99 GMT",
        "0",
        "\x00",
    ],
)
def test_date_that_is_none_is_taken_for_none(date: str) -> None:
    assert http_seconds(date) is None


@pytest.mark.parametrize("said", [5, 90, 0, -60, 1 << 20])
@pytest.mark.parametrize("wrong_days", [0.0, 5475.0, -5475.0, 0.5])
def test_a_date_to_wait_for_is_read_by_the_clock_that_it_is_of(
    said: int, wrong_days: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that is years behind would wait for the longest each time, one ahead never."""
    now = 1_700_000_000
    monkeypatch.setattr(replies_of, "time", mock.Mock(time=lambda: now + wrong_days * 86_400))
    dates = [email.utils.formatdate(at, usegmt=True).encode() for at in (now, now + said)]
    head = b"HTTP/1.1 503 Busy\r\nDate: %b\r\nRetry-After: %b\r\nContent-Length: 0\r\n\r\n"
    reply = Reply(io.BufferedReader(io.BytesIO(head % (*dates,))), "GET")
    assert replies_of.retry_after(reply) == min(max(0, said), 3600)
