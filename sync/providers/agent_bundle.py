"""The agent's directory: its digest, its contents, its installation on the host."""

import hashlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

from pulumi.dynamic import ResourceProvider

from sync.contract import layout

PROJECT: Final = Path(__file__).resolve().parents[2]
LOCK: Final = PROJECT / "sync" / "agent" / "requirements.lock"
_SOURCES: Final = ("sync/__init__.py", "sync/contract", "sync/agent")


def source_files() -> Iterator[Path]:
    """Yield every source of the agent below the project (Python files and its lock), sorted."""
    found: set[Path] = {LOCK}
    for source in _SOURCES:
        path = PROJECT / source
        found.update(path.rglob("*.py") if path.is_dir() else [path])
    yield from sorted(found)


def agent_digest() -> str:
    """Digest (first 16 hex digits of SHA-256) of lock and sources; needs no network."""
    total = hashlib.sha256()
    for path in source_files():
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        total.update(f"{content} {path.relative_to(PROJECT)}\n".encode())
    return total.hexdigest()[:16]


def bundle_path(root: str, digest: str) -> str:
    """Absolute path on the host of the agent with this digest."""
    return str(PurePosixPath(layout.under(root, layout.AGENTS)) / digest)


class AgentBundleProvider(ResourceProvider):
    """Installs the agent's directory on the host."""
