"""What a 0-db tells, as typed records."""

import re
import struct
from dataclasses import dataclass
from typing import Final, NamedTuple, Self

from sync.agent.zdb.errors import ZdbProtocolError

_CURSOR: Final = struct.Struct("<BIIII")
CURSOR_BYTES: Final = _CURSOR.size
# 0-db counts in size_t (libzdb/index.h, index_stats_t).
_NUMBER: Final = re.compile(r"[0-9]{1,20}")
_LARGEST: Final = (1 << 64) - 1


class Entry(NamedTuple):
    """One key of a namespace: payload length in bytes, timestamp in unix seconds."""

    key: bytes
    length_bytes: int
    timestamp: int


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place in a namespace's index (0-db: libzdb/index.h, index_bkey_t).

    raw: the 17 bytes as the server gave them. Cursors of one namespace are ordered by
    `position`, (index file, offset in it), which is the order of SCAN.
    """

    raw: bytes

    def __post_init__(self) -> None:
        if len(self.raw) != CURSOR_BYTES:
            raise ZdbProtocolError(f"a cursor of {len(self.raw)} bytes instead of {CURSOR_BYTES}")

    @property
    def position(self) -> tuple[int, int]:
        """(index file id, offset in that file)."""
        _, file_id, _, offset, _ = _CURSOR.unpack(self.raw)
        return file_id, offset

    @property
    def length_bytes(self) -> int:
        """Payload length of the entry that the cursor stands on."""
        length: int = _CURSOR.unpack(self.raw)[2]
        return length

    @property
    def hex(self) -> str:
        """For the status record and the state file."""
        return self.raw.hex()

    @classmethod
    def from_hex(cls, text: str) -> Self:
        """Read what `hex` gave; ValueError or ZdbProtocolError where it is none."""
        return cls(bytes.fromhex(text))


@dataclass(frozen=True, slots=True)
class ScanPage:
    """One page of SCAN or RSCAN: its entries in listing order and the cursor of the last one."""

    cursor: Cursor
    entries: list[Entry]


@dataclass(frozen=True, slots=True)
class NamespaceInfo:
    """What NSINFO tells; the fields after `free_bytes` are told to an admin only, else None."""

    name: str
    entries: int
    data_size_bytes: int
    public: bool
    protected: bool
    locked: bool
    worm: bool
    mode: str
    free_bytes: int | None
    data_current_id: int | None
    data_current_offset: int | None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read NSINFO's `name: value` lines; raise ZdbProtocolError for one missing or wrong."""
        fields = dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)
        try:
            return cls(
                name=fields["name"],
                entries=_number(fields, "entries"),
                data_size_bytes=_number(fields, "data_size_bytes"),
                public=_flag(fields, "public"),
                protected=_flag(fields, "password"),
                locked=_flag(fields, "locked"),
                worm=_flag(fields, "worm"),
                mode=fields.get("mode", ""),
                free_bytes=_optional(fields, "data_disk_freespace_bytes"),
                data_current_id=_optional(fields, "data_current_id"),
                data_current_offset=_optional(fields, "data_current_offset"),
            )
        except KeyError as error:
            raise ZdbProtocolError(f"NSINFO without a usable field: {error}") from error


def _optional(fields: dict[str, str], name: str) -> int | None:
    return _number(fields, name) if name in fields else None


def _number(fields: dict[str, str], name: str) -> int:
    text = fields[name]
    if not _NUMBER.fullmatch(text) or int(text) > _LARGEST:
        raise ZdbProtocolError(f"NSINFO: {name} is no unsigned 64-bit number: {text[:40]!r}")
    return int(text)


def _flag(fields: dict[str, str], name: str) -> bool:
    return fields.get(name) == "yes"
