"""SSH host keys: their fingerprints, and the project's known_hosts file."""

import base64
import hashlib
import os
from pathlib import Path

import paramiko

from sync.providers.host.connection import HostKeyError, SshAddress


def fingerprint(key: paramiko.PKey) -> str:
    """Fingerprint as OpenSSH prints it: `ssh-ed25519 SHA256:…` (base64 without padding)."""
    digest = hashlib.sha256(key.asbytes()).digest()
    return f"{key.get_name()} SHA256:{base64.b64encode(digest).decode().rstrip('=')}"


def _known_as(address: SshAddress) -> str:
    """Return the address as known_hosts files have it (OpenSSH sshd(8), SSH_KNOWN_HOSTS FORMAT)."""
    return address.host if address.port == 22 else f"[{address.host}]:{address.port}"  # noqa: PLR2004


def pinned(path: Path, address: SshAddress) -> list[paramiko.PKey]:
    """Return the keys that the file holds for this host; a missing file holds none."""
    if not path.exists():
        return []
    try:
        found = paramiko.HostKeys(str(path)).lookup(_known_as(address))
    except (OSError, paramiko.SSHException) as error:
        raise HostKeyError(f"{path} cannot be read: {error}") from error
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
    lines = path.read_text().splitlines() if path.exists() else []
    kept = [line for line in lines if name not in line.split(" ", 1)[0].split(",")]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    added = f"{name} {key.get_name()} {key.get_base64()}"
    temporary.write_text("".join(f"{line}\n" for line in [*kept, added]))
    temporary.replace(path)
    return True
