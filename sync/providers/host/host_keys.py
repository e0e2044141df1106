"""SSH host keys: their fingerprints, and the project's known_hosts file."""

import base64
import hashlib
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import paramiko

from sync.providers.host.connection import HostKeyError, SshAddress
from sync.providers.host.key_text import fault_of_encoding

_REVOKED: Final = "@revoked"


def fingerprint(key: paramiko.PKey) -> str:
    """Fingerprint as OpenSSH prints it: `ssh-ed25519 SHA256:…` (base64 without padding)."""
    digest = hashlib.sha256(key.asbytes()).digest()
    return f"{key.get_name()} SHA256:{base64.b64encode(digest).decode().rstrip('=')}"


def _known_as(address: SshAddress) -> str:
    """Return the address as known_hosts files have it (OpenSSH sshd(8), SSH_KNOWN_HOSTS FORMAT)."""
    return address.host if address.port == 22 else f"[{address.host}]:{address.port}"  # noqa: PLR2004


def load(path: Path, keys: paramiko.HostKeys) -> None:
    """Add what a known_hosts file holds; as OpenSSH does, skip lines that are none.

    Keys that are marked as revoked are not added, nor are those of authorities. Raises HostKeyError
    where the file cannot be read, or no line of it.
    """
    entries = list(_entries(_content(path)))
    wrong = [number for number, _mark, entry in entries if entry is None]
    if wrong and len(wrong) == len(entries):
        raise HostKeyError(
            f"{path}: line {wrong[0]} is no line of a known_hosts file (NAME TYPE KEY); remove it, "
            "and pin the host's key with: gridhub known-hosts pin"
        )
    revoked = {entry[1].asbytes() for _, mark, entry in entries if entry and mark == _REVOKED}
    for _, mark, entry in entries:
        if entry is None or mark or entry[1].asbytes() in revoked:
            continue
        for name in entry[0].split(","):
            # The first of a kind counts; add() would let the last.
            if entry[1].get_name() not in (keys.lookup(name) or {}):
                keys.add(name, entry[1].get_name(), entry[1])


def _entries(data: bytes) -> Iterator[tuple[int, str, tuple[str, paramiko.PKey] | None]]:
    """Yield the number of each line that says something, its mark, and names and key."""
    for number, line in enumerate(data.split(b"\n"), 1):
        fields = line.decode(errors="replace").split()
        if fields and not fields[0].startswith("#"):
            mark = fields.pop(0) if fields[0].startswith("@") else ""
            yield number, mark, _entry(fields[:3])


def _content(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise HostKeyError(
            f"{path} cannot be read ({error.strerror}); is it a file, and yours to read?"
        ) from error
    if fault := fault_of_encoding(data):
        what, remedy = fault
        done = remedy.format(path=shlex.quote(str(path)))
        raise HostKeyError(f"{path} {what}; make it right: {done}")
    return data


def _entry(fields: list[str]) -> tuple[str, paramiko.PKey] | None:
    """Read NAMES TYPE KEY; None where they are not."""
    try:
        names, kind, encoded = fields
        return names, paramiko.PKey.from_type_string(kind, base64.b64decode(encoded, validate=True))
    except Exception:  # noqa: BLE001 - paramiko's parsers raise whatever a wrong key leads them to
        return None


def pinned(path: Path, address: SshAddress) -> list[paramiko.PKey]:
    """Return the keys that the file holds for this host; a missing file holds none."""
    if not path.exists():
        return []
    keys = paramiko.HostKeys()
    load(path, keys)
    found = keys.lookup(_known_as(address))
    return [key for key in (found or {}).values() if key is not None]


def pin(path: Path, address: SshAddress, key: paramiko.PKey, *, replace: bool) -> bool:
    """Add the key to the file; False when it is there already.

    Raises HostKeyError when another key is pinned and `replace` was not asked for.
    """
    before = pinned(path, address)
    if any(known.asbytes() == key.asbytes() for known in before):
        return False
    if before and not replace:
        shown = ", ".join(fingerprint(known) for known in before)
        raise HostKeyError(
            f"{address}: pinned is {shown}, the host offers {fingerprint(key)}. If the host was "
            "reinstalled and the new fingerprint is right, repeat with --replace"
        )
    name = _known_as(address)
    lines = _content(path).splitlines() if path.exists() else []
    kept = [line for line in lines if name.encode() not in line.split(b" ", 1)[0].split(b",")]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    added = f"{name} {key.get_name()} {key.get_base64()}".encode()
    temporary.write_bytes(b"".join(line + b"\n" for line in [*kept, added]))
    temporary.replace(path)
    return True
