"""What a client must have said before a connection to Caddy is spent on it."""

from __future__ import annotations

# A record holds up to 2^14 bytes (RFC 8446, 5.1), a Go server's head twice 512 KiB; what nodes and
# browsers send is far below this.
LONGEST_BYTES = 64 << 10
_HANDSHAKE = 0x16  # ContentType of RFC 8446, 5.1
_RECORD_HEADER_BYTES = 5


def is_whole(opening: bytes | bytearray) -> bool:
    """Tell whether this is a whole TLS record with a handshake, or a whole head of HTTP.

    What is neither is for Caddy to refuse, once it has come to the empty line of a head.
    """
    if opening[:1] == bytes([_HANDSHAKE]):
        if len(opening) < _RECORD_HEADER_BYTES:
            return False
        length = int.from_bytes(opening[3:_RECORD_HEADER_BYTES], "big")
        return len(opening) >= _RECORD_HEADER_BYTES + length
    # A line may end without the carriage return (RFC 9112, 2.2).
    return b"\n\r\n" in opening or b"\n\n" in opening
