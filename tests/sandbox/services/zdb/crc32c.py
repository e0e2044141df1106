"""CRC-32C as 0-db computes it (libzdb/crc32.c): initial value 0, no final xor.

Bytes are coefficients modulo 2, lowest bit of the first byte first. A page's cursor holds the CRC
of one whole payload, so a long one is folded first: its head is multiplied by the power of x that
the rest's length stands for, and added to the rest, which leaves the remainder as it was.
"""

from functools import cache
from typing import Final

_POLYNOMIAL: Final = 0x82F63B78
_UNFOLDED_BYTES: Final = 64


def crc32c(data: bytes) -> int:
    """Return the CRC of a payload."""
    word, size = int.from_bytes(data, "little"), len(data)
    while size > _UNFOLDED_BYTES:
        # Each rest is 4 bytes longer than its head, so that the product's end is not cut off.
        rest = (1 << (size - 5).bit_length() - 1) + 4
        head_bits = 8 * (size - rest)
        head = word & (1 << head_bits) - 1
        word = word >> head_bits ^ _product(head, _power(rest)) << 8 * rest - head_bits - 31
        size = rest
    crc = 0
    for byte in word.to_bytes(size, "little"):
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    return crc


def _product(left: int, right: int) -> int:
    product = 0
    while right:
        if right & 1:
            product ^= left
        left <<= 1
        right >>= 1
    return product


@cache
def _power(count: int) -> int:
    """Return x to the power of 8 * count, modulo the polynomial: the CRC of one bit so far off."""
    return crc32c(b"\x80" + bytes(count - 4))


def _table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        word = byte
        for _ in range(8):
            word = word >> 1 ^ (_POLYNOMIAL if word & 1 else 0)
        table.append(word)
    return tuple(table)


_TABLE: Final = _table()
