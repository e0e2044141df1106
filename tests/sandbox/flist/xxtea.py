"""XXTEA as the xxtea C library pads it (length word appended), for many messages at once.

Within a message every word depends on the one before, so a message can not be split. But messages
are independent: here they lie side by side in the 64-bit lanes of big integers, and one Python
operation advances all of them by a word.
"""

import struct
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

_DELTA: Final = 0x9E3779B9
_WORD: Final = 0xFFFFFFFF
_LANE_BYTES: Final = 8
_LANES: Final = 64
_FEW_WORDS: Final = 52  # shorter messages take more than six rounds
_ROUNDS: Final = 6

Message = tuple[bytes, bytes]  # data, 16-byte key


class CipherError(ValueError):
    """The data is not what the library's encrypt function gives."""


def encrypt_many(messages: Sequence[Message]) -> list[bytes]:
    """Encrypt each (data, key); data must not be empty."""
    words = [(_padded(data) + struct.pack("<I", len(data)), key) for data, key in messages]
    return _transform(words, encrypting=True)


def decrypt_many(messages: Sequence[Message]) -> list[bytes]:
    """Decrypt each (data, key); raises CipherError where a length word makes no sense."""
    for data, _ in messages:
        if len(data) < 2 * 4 or len(data) % 4:
            raise CipherError(f"{len(data)} bytes is no length of an xxtea message")
    plain = _transform(messages, encrypting=False)
    return [_unpadded(data) for data in plain]


def _padded(data: bytes) -> bytes:
    if not data:
        raise CipherError("an empty message can not be encrypted")
    return data + bytes(-len(data) % 4)


def _unpadded(data: bytes) -> bytes:
    length = int(struct.unpack("<I", data[-4:])[0])
    if not len(data) - 4 - 3 <= length <= len(data) - 4:
        raise CipherError("wrong key or damaged data")
    return data[:length]


def _transform(messages: Sequence[Message], *, encrypting: bool) -> list[bytes]:
    order = sorted(range(len(messages)), key=lambda at: -len(messages[at][0]))
    done: list[bytes] = [b""] * len(messages)
    wide = [at for at in order if len(messages[at][0]) // 4 > _FEW_WORDS]
    for start in range(0, len(wide), _LANES):
        batch = wide[start : start + _LANES]
        lanes = _Lanes.load([messages[at] for at in batch])
        for at, data in zip(batch, lanes.run(encrypting=encrypting), strict=True):
            done[at] = data
    single = _encrypt_words if encrypting else _decrypt_words
    for at in order[len(wide) :]:
        data, key = messages[at]
        words = list(struct.unpack(f"<{len(data) // 4}I", data))
        single(words, struct.unpack("<4I", key))
        done[at] = struct.pack(f"<{len(words)}I", *words)
    return done


def _mix(p: int, y: int, z: int, total: int, key: Sequence[int]) -> int:
    """Return the MX of the algorithm (0-flist, libflist/xxtea.c)."""
    shifted = ((z >> 5) ^ (y << 2 & _WORD)) + ((y >> 3) ^ (z << 4 & _WORD))
    return (shifted ^ ((total ^ y) + (key[(p ^ total >> 2) & 3] ^ z))) & _WORD


def _encrypt_words(words: list[int], key: Sequence[int]) -> None:
    last = len(words) - 1
    total, z = 0, words[last]
    for _ in range(6 + 52 // (last + 1)):
        total = (total + _DELTA) & _WORD
        for p in range(last + 1):
            y = words[p + 1] if p < last else words[0]
            z = words[p] = (words[p] + _mix(p, y, z, total, key)) & _WORD


def _decrypt_words(words: list[int], key: Sequence[int]) -> None:
    last = len(words) - 1
    rounds = 6 + 52 // (last + 1)
    total, y = rounds * _DELTA & _WORD, words[0]
    for _ in range(rounds):
        for p in range(last, -1, -1):
            z = words[p - 1] if p else words[last]
            y = words[p] = (words[p] - _mix(p, y, z, total, key)) & _WORD
        total = (total - _DELTA) & _WORD


@dataclass(frozen=True)
class _Segment:
    """Positions first..last in which the same lanes are active; `ending` have their last there."""

    first: int
    last: int
    active: int  # lanes
    ending: int  # mask of the lanes that end at `last`


@dataclass
class _Lanes:
    """Messages of falling length, one per lane; rows[p] holds word p of each."""

    lengths: list[int]
    rows: list[int]
    keys: list[int]

    @classmethod
    def load(cls, messages: Sequence[Message]) -> "_Lanes":
        lengths = [len(data) // 4 for data, _ in messages]
        count = len(messages)
        matrix = array("I", bytes(_LANE_BYTES * count * lengths[0]))
        for lane, (data, _) in enumerate(messages):
            end = 2 * count * lengths[lane]
            matrix[2 * lane : end : 2 * count] = array("I", data)
        raw = matrix.tobytes()
        stride = _LANE_BYTES * count
        rows = [
            int.from_bytes(raw[at : at + stride], "little") for at in range(0, len(raw), stride)
        ]
        key_words = [struct.unpack("<4I", key) for _, key in messages]
        keys = [_joined([words[at] for words in key_words]) for at in range(4)]
        return cls(lengths, rows, keys)

    def run(self, *, encrypting: bool) -> list[bytes]:
        """Transform all lanes and return their bytes."""
        segments = list(self._segments())
        if encrypting:
            self._encrypt(segments)
        else:
            self._decrypt(segments)
        count = len(self.lengths)
        stride = _LANE_BYTES * count
        matrix = array("I", b"".join(row.to_bytes(stride, "little") for row in self.rows))
        return [
            matrix[2 * lane : 2 * count * length : 2 * count].tobytes()
            for lane, length in enumerate(self.lengths)
        ]

    def _segments(self) -> Iterator[_Segment]:
        first = 0
        for last in sorted({length - 1 for length in self.lengths}):
            active = sum(length - 1 >= last for length in self.lengths)
            longer = sum(length - 1 > last for length in self.lengths)
            ending = _repeated(_WORD, active) & ~_repeated(_WORD, longer)
            yield _Segment(first, last, active, ending)
            first = last + 1

    def _last_words(self) -> int:
        return sum(
            (self.rows[length - 1] >> 64 * lane & _WORD) << 64 * lane
            for lane, length in enumerate(self.lengths)
        )

    def _encrypt(self, segments: list[_Segment]) -> None:
        total = 0
        for _ in range(_ROUNDS):
            total = (total + _DELTA) & _WORD
            z = self._last_words()
            for segment in segments:
                z = self._encrypt_segment(segment, total, z)

    def _encrypt_segment(self, segment: _Segment, total: int, z: int) -> int:
        rows = self.rows
        full = _repeated(_WORD, segment.active)
        low27, low29 = _repeated(_WORD >> 5, segment.active), _repeated(_WORD >> 3, segment.active)
        sums = _repeated(total, segment.active)
        keys = [key & full for key in self.keys]
        keys = [keys[at ^ total >> 2 & 3] for at in range(4)]
        z &= full
        for p in range(segment.first, segment.last):
            y = rows[p + 1] & full
            mixed = ((z >> 5 & low27) ^ (y << 2)) + ((y >> 3 & low29) ^ (z << 4))
            z = rows[p] = rows[p] + (mixed ^ ((sums ^ y) + (keys[p & 3] ^ z))) & full
        p = segment.last
        following = rows[p + 1] if p + 1 < len(rows) else 0
        y = (following & full & ~segment.ending) | (rows[0] & segment.ending)
        mixed = ((z >> 5 & low27) ^ (y << 2 & full)) + ((y >> 3 & low29) ^ (z << 4 & full))
        z = rows[p] = rows[p] + (mixed ^ ((sums ^ y) + (keys[p & 3] ^ z))) & full
        return z

    def _decrypt(self, segments: list[_Segment]) -> None:
        total = _ROUNDS * _DELTA & _WORD
        for _ in range(_ROUNDS):
            y = 0
            for segment in reversed(segments):
                y = self._decrypt_segment(segment, total, y)
            total = (total - _DELTA) & _WORD

    def _decrypt_segment(self, segment: _Segment, total: int, y: int) -> int:
        rows = self.rows
        full = _repeated(_WORD, segment.active)
        low27, low29 = _repeated(_WORD >> 5, segment.active), _repeated(_WORD >> 3, segment.active)
        sums, borrow = _repeated(total, segment.active), _repeated(1 << 40, segment.active)
        keys = [key & full for key in self.keys]
        keys = [keys[at ^ total >> 2 & 3] for at in range(4)]
        y |= rows[0] & segment.ending
        for p in range(segment.last, segment.first - 1, -1):
            z = rows[p - 1] & full if p else self._last_words()
            mixed = ((z >> 5 & low27) ^ (y << 2)) + ((y >> 3 & low29) ^ (z << 4))
            mixed ^= (sums ^ y) + (keys[p & 3] ^ z)
            y = rows[p] = (rows[p] | borrow) - mixed & full
        return y


def _repeated(word: int, lanes: int) -> int:
    return int.from_bytes(struct.pack("<Q", word) * lanes, "little")


def _joined(words: Sequence[int]) -> int:
    return int.from_bytes(struct.pack(f"<{len(words)}Q", *words), "little")
