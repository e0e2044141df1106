"""Status records: what outside text becomes in one, and what is made of a file that is none."""

import json
import unicodedata
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from sync.agent.status_writer import StatusWriter, first_record, name_list, read_status
from sync.contract.status import StatusRecord
from sync.providers.jobs.outputs import summary
from tests.fuzz.target import Target, promise

_LONGEST_TEXT: Final = 4096
_MOST_BYTES: Final = 1 << 20


def _texts(found: object) -> Iterator[str]:
    if isinstance(found, str):
        yield found
    elif isinstance(found, dict):
        for key, value in found.items():
            yield str(key)
            yield from _texts(value)
    elif isinstance(found, list):
        for value in found:
            yield from _texts(value)


def _readable(text: str) -> bool:
    # Controls, formats (directions of writing), surrogates, and the two separators of lines.
    return not any(unicodedata.category(one) in {"Cc", "Cf", "Cs", "Zl", "Zp"} for one in text)


def _is_clean(data: bytes) -> None:
    for text in _texts(json.loads(data)):
        promise(len(text) <= _LONGEST_TEXT, f"a text of {len(text)} characters")
        promise(_readable(text), f"a text that does something: {text[:80]!r}")


def _write(data: bytes, scratch: Path) -> None:
    """Put a text wherever one from outside may come, write it, and read it again."""
    path = scratch / "status.json"
    text = data.decode("utf-8", "surrogatepass" if data[:1] == b"\xed" else "surrogateescape")
    writer = StatusWriter(path, first_record("users", "http://master.test", "0"))
    writer.update(
        reason=text,
        broken=name_list([text, f"NAME: {text}"]),
        refused=name_list(text.split("\n")),
        cursor=text,
        details={"text": text},
    )
    writer.error(text)
    writer.seen_master(text, text)
    writer.close()
    written = path.read_bytes()
    promise(len(written) <= _MOST_BYTES, f"a record of {len(written)} bytes")
    _is_clean(written)
    promise(read_status(path), "a record that was written and cannot be read")


def _read(data: bytes, scratch: Path) -> None:
    path = scratch / "found.json"
    path.write_bytes(data)
    record = read_status(path)
    if record is not None:
        summary(record.job, record)


def run(data: bytes, scratch: Path) -> None:
    """Take it as the file of a status record, or as a text in one."""
    how, data = data[:1], data[1:]
    if how == b"f":
        _read(data, scratch)
    else:
        try:
            _write(data, scratch)
        except UnicodeDecodeError:
            return


def seeds() -> Iterator[bytes]:
    """Return a full record, and texts of the kinds that do something."""
    now = datetime(2026, 11, 30, tzinfo=UTC)
    record = first_record("users", "http://master.test", "0").model_copy(
        update={"updated_at": now, "started_at": now, "reason": "r"}
    )
    assert isinstance(record, StatusRecord)
    yield b"f" + record.model_dump_json().encode()
    yield b"t/REPO/f.flist: 500"
    yield "t\u202e\u200b\x1b[31m\x00\x85\u2028".encode()
    yield b"t" + b"x" * 5000
    yield b"t\xff\xfe\x80"
    yield "t\ud800".encode("utf-8", "surrogatepass")


TARGET: Final = Target(
    "status", run, seeds, ("\u202e".encode(), b"\x1b[", "\ufeff".encode(), b"\\ud800")
)
