"""A namespace kept in append-only files, in a layout of our own.

data/NS/d0, d1, …: records of a header (key length, flags, payload length, time, CRC-32 of the
payload), the key, and the payload as the bulk reply that GET sends. index/NS/namespace.json: the
namespace's settings. The index is rebuilt from the records at start; a record that a kill cut off
is dropped. Not fsynced, as zdbd's are not.
"""

import json
import os
import shutil
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from tests.sandbox.services.zdb.namespace import (
    DEFAULT_DATASIZE_BYTES,
    NIL,
    BulkWrite,
    Namespace,
    WriteFailedError,
    bulk,
)

_RECORD: Final = struct.Struct("<BBIiI")  # key length, flags, reply length, timestamp, crc
_DELETED: Final = 1
_DESCRIPTOR: Final = "namespace.json"

Place = tuple[int, int, int]  # file id, offset of the reply, its length


def saved_names(index: Path) -> list[str]:
    """Names of the namespaces found below an index directory."""
    return sorted(path.parent.name for path in index.glob(f"*/{_DESCRIPTOR}"))


class DiskNamespace(Namespace):
    """A namespace whose payloads are on disk and whose index is in memory."""

    def __init__(
        self, name: str, data: Path, index: Path, datasize_bytes: int = DEFAULT_DATASIZE_BYTES
    ) -> None:
        self._data, self._index = data, index
        self._at: dict[bytes, Place] = {}
        self._old_at: dict[int, Place] = {}
        self._files: dict[int, int] = {}
        self._sizes: dict[int, int] = {}
        super().__init__(name, datasize_bytes)
        data.mkdir(parents=True, exist_ok=True)
        index.mkdir(parents=True, exist_ok=True)
        self._load_settings()
        self._load()

    # -- settings ----------------------------------------------------------------------------

    def _load_settings(self) -> None:
        path = self._index / _DESCRIPTOR
        if not path.exists():
            self.save_settings()
            return
        saved = json.loads(path.read_text())
        self.password, self.public = saved["password"], saved["public"]
        self.worm, self.maxsize_bytes = saved["worm"], saved["maxsize"]

    def save_settings(self) -> None:
        """Write the namespace's settings beside its index."""
        document = {
            "password": self.password,
            "public": self.public,
            "worm": self.worm,
            "maxsize": self.maxsize_bytes,
        }
        temporary = self._index / f"{_DESCRIPTOR}.new"
        temporary.write_text(json.dumps(document))
        temporary.chmod(0o600)
        temporary.replace(self._index / _DESCRIPTOR)

    # -- files -------------------------------------------------------------------------------

    def _load(self) -> None:
        ids = sorted(
            int(path.name[1:]) for path in self._data.glob("d*") if path.name[1:].isdigit()
        )
        for file in ids:
            while self._file < file:
                super().rotate()
            self._load_file(file)
        self.next_id = self.log_length

    def _load_file(self, file: int) -> None:
        handle = self._handle(file)
        size = os.fstat(handle).st_size
        end = 0
        for key, flags, timestamp, start, length in _records(handle, size):
            end = start + length
            if flags & _DELETED:
                if key in self:
                    self._forget(key)
                continue
            if key in self:
                self._keep(self._live[key], key)
            self._at[key] = (file, start, length)
            self._append(key, _payload_length(length), timestamp)
        if end < size:
            os.ftruncate(handle, end)
        self._sizes[file] = end

    def _handle(self, file: int) -> int:
        if file not in self._files:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            self._files[file] = os.open(self._data / f"d{file}", flags, 0o600)
            self._sizes[file] = os.fstat(self._files[file]).st_size
        return self._files[file]

    def close(self) -> None:
        """Close the data files."""
        for handle in self._files.values():
            os.close(handle)
        self._files.clear()

    def destroy(self) -> None:
        """Close and remove every file of the namespace."""
        self.close()
        shutil.rmtree(self._data, ignore_errors=True)
        shutil.rmtree(self._index, ignore_errors=True)

    def reload(self) -> None:
        """Read the data files again."""
        self.clear()
        self.close()
        self._at.clear()
        self._old_at.clear()
        self._sizes.clear()
        self._load()

    # -- reading -----------------------------------------------------------------------------

    def replies(self, keys: Sequence[bytes]) -> list[bytes]:
        """Return the bulk reply for each key, read from its file, nil where there is none."""
        found = []
        get, files, pread = self._at.get, self._files, os.pread
        for key in keys:
            place = get(key)
            found.append(NIL if place is None else pread(files[place[0]], place[2], place[1]))
        return found

    def intact(self, key: bytes) -> bool:
        """Compare the payload with the CRC-32 that was written with it."""
        place = self._at.get(key)
        if place is None:
            return False
        file, start, length = place
        head = start - len(key) - _RECORD.size
        crc: int = _RECORD.unpack(os.pread(self._files[file], _RECORD.size, head))[4]
        return zlib.crc32(_payload(os.pread(self._files[file], length, start))) == crc

    # -- writing -----------------------------------------------------------------------------

    def _keep_fresh(self, writes: Sequence[BulkWrite]) -> None:
        """Append the records of all in one system call, or none of them."""
        handle = self._handle(self._file)
        base = offset = self._sizes[self._file]
        parts: list[bytes] = []
        places: dict[bytes, Place] = {}
        file, crc32 = self._file, zlib.crc32
        for key, reply, payload_length, timestamp in writes:
            length = len(reply)
            crc = crc32(memoryview(reply)[length - payload_length - 2 : -2])
            head = _RECORD.pack(len(key), 0, length, timestamp, crc)
            parts += (head, key, reply)
            start = offset + _RECORD.size + len(key)
            places[key] = (file, start, length)
            offset = start + length
        self._write(handle, b"".join(parts), base)
        self._at.update(places)

    def _keep(self, position: int, key: bytes) -> None:
        self._old_at[position] = self._at[key]

    def _buried(self, position: int) -> bytes:
        file, start, length = self._old_at[position]
        return os.pread(self._files[file], length, start)

    def _write(self, handle: int, data: bytes, base: int) -> None:
        try:
            done = 0
            while done < len(data):
                done += os.pwrite(handle, memoryview(data)[done:], base + done)
        except OSError as error:
            os.ftruncate(handle, base)
            raise WriteFailedError(str(error)) from error
        self._sizes[self._file] = base + len(data)

    def _unchanged(self, write: BulkWrite) -> bool:
        place, reply = self._at.get(write[0]), write[1]
        if place is None or place[2] != len(reply):
            return False
        stored: bytes = os.pread(self._files[place[0]], place[2], place[1])
        return stored == reply

    def _store_tombstone(self, key: bytes, timestamp: int) -> None:
        handle = self._handle(self._file)
        record = _RECORD.pack(len(key), _DELETED, 0, timestamp, 0) + key
        self._write(handle, record, self._sizes[self._file])

    def _drop(self, key: bytes) -> None:
        self._at.pop(key, None)

    def replace_payload(self, key: bytes, payload: bytes) -> None:
        """Overwrite a payload of the same length in its file."""
        file, start, length = self._at[key]
        self._crc(self._live[key])
        reply = bulk(payload)
        if len(reply) != length:
            raise ValueError("only a payload of the same length can be replaced on disk")
        os.pwrite(self._files[file], reply, start)


def _payload(reply: bytes) -> bytes:
    return reply[reply.find(b"\n") + 1 : -2]


def _records(handle: int, size: int) -> Iterator[tuple[bytes, int, int, int, int]]:
    """Whole records of a data file: key, flags, timestamp, start and length of the reply."""
    offset = 0
    while offset + _RECORD.size <= size:
        idlength, flags, length, timestamp, crc = _RECORD.unpack(
            os.pread(handle, _RECORD.size, offset)
        )
        start = offset + _RECORD.size + idlength
        if start + length > size:
            return
        if start + length == size and zlib.crc32(_payload(os.pread(handle, length, start))) != crc:
            return
        yield os.pread(handle, idlength, offset + _RECORD.size), flags, timestamp, start, length
        offset = start + length


def _payload_length(reply_length: int) -> int:
    """Length of the payload in a bulk reply of so many bytes (`$`, digits, two line ends)."""
    for digits in range(1, 9):
        length = reply_length - 5 - digits
        if length >= 0 and len(str(length)) == digits:
            return length
    raise ValueError(reply_length)
