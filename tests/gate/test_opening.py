"""No connection to Caddy is spent on half a TLS record or half a head."""

import ssl

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gate.opening import is_whole


def hello() -> bytes:
    """Return a client's hello as OpenSSL sends it."""
    out = ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), out, server_hostname="hub.test")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return out.read()


HEADS = [
    b"GET / HTTP/1.1\r\nHost: hub.test\r\n\r\n",
    b"GET / HTTP/1.0\n\n",
    b"POST /api HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\n",
    b"nonsense\r\n\r\n",
    b"\r\n\r\n",
]


@pytest.mark.parametrize("opening", [hello(), *HEADS])
def test_every_half_of_an_opening_waits_and_the_whole_goes_on(opening: bytes) -> None:
    assert [cut for cut in range(len(opening)) if is_whole(opening[:cut])] == []
    assert is_whole(opening)
    assert is_whole(opening + b"more")


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_no_bytes_are_beyond_it(data: bytes) -> None:
    whole = is_whole(data)
    assert whole in {True, False}
    assert is_whole(data + b"more") or not whole
