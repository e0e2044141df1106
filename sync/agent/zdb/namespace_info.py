"""What a 0-db says of itself and of a namespace: the lines of INFO and NSINFO."""

import re
from dataclasses import dataclass
from typing import Final, Self

from sync.agent.zdb.errors import ZdbProtocolError
from sync.agent.zdb.protocol import Reply, expect

# 0-db counts in size_t (libzdb/index.h, index_stats_t).
_NUMBER: Final = re.compile(r"[0-9]{1,20}")
_LARGEST: Final = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class NamespaceInfo:
    """What the agent needs of NSINFO: number of keys, payload bytes, bytes free on the disk.

    free_bytes: None where it is not said, as to all but an admin.
    """

    entries: int
    data_size_bytes: int
    free_bytes: int | None

    @classmethod
    def of(cls, reply: Reply) -> Self:
        """Read NSINFO's `name: value` lines; raise ZdbProtocolError for one missing or wrong."""
        fields = text_fields(reply, "NSINFO")
        free = "data_disk_freespace_bytes"
        return cls(
            entries=_number(fields, "entries"),
            data_size_bytes=_number(fields, "data_size_bytes"),
            free_bytes=_number(fields, free) if free in fields else None,
        )


def text_fields(reply: Reply, command: str) -> dict[str, str]:
    """Read the `name: value` lines of INFO and NSINFO (zdbd/commands_system.c, _namespace.c)."""
    text = expect(reply, bytes, command).decode("utf-8", "replace")
    return dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)


def boot_of(facts: dict[str, str]) -> str:
    """Name a start of a server by its INFO; another text: it is another one, or was started anew.

    Empty where it does not say (zdbd/commands_system.c, command_info).
    """
    return f"{facts.get('instance_id', '')} {facts.get('boot_time', '')}".strip()


def _number(fields: dict[str, str], name: str) -> int:
    text = fields.get(name, "")
    if not _NUMBER.fullmatch(text) or int(text) > _LARGEST:
        raise ZdbProtocolError(f"NSINFO: {name} is no unsigned 64-bit number: {text[:40]!r}")
    return int(text)
