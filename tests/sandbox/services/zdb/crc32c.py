"""CRC-32C as 0-db computes it (libzdb/crc32.c)."""

from typing import Final


def _crc32c_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        word = byte
        for _ in range(8):
            word = word >> 1 ^ (0x82F63B78 if word & 1 else 0)
        table.append(word)
    return tuple(table)


_CRC32C: Final = _crc32c_table()


def crc32c(data: bytes) -> int:
    """CRC-32C with init 0 and no final xor, as 0-db stores it (libzdb/crc32.c)."""
    word = 0
    for byte in data:
        word = word >> 8 ^ _CRC32C[(word ^ byte) & 0xFF]
    return word
