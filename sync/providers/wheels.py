"""The agent's locked wheels, resolved for the container's Python and the host's processor.

They are fetched by pip from the operator's package registry, only as binaries and only with the
hashes of the lock, and kept in a cache whose every use is checked against the lock again.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PYTHON: Final = "3.11"
# Docker's name of a processor to the wheel tags that run there (any glibc since 2.28 at most).
PLATFORMS: Final[Mapping[str, str]] = {"amd64": "x86_64", "arm64": "aarch64"}
_MANYLINUX: Final = ("manylinux2014", "manylinux_2_17", "manylinux_2_28")
_PIP_SECONDS: Final = 300
_REQUIREMENT: Final = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)")
_HASH: Final = re.compile(r"--hash=sha256:([0-9a-f]{64})")


class WheelError(Exception):
    """The agent's wheels can not be had; `str()` names the remedy."""


@dataclass(frozen=True)
class LockedWheel:
    """One line of the lock: normalized name (PEP 503), version, accepted SHA-256 digests."""

    name: str
    version: str
    digests: frozenset[str]


def normalized(name: str) -> str:
    """Name of a distribution as wheels spell it (PEP 503, with underscores)."""
    return re.sub(r"[-_.]+", "_", name).lower()


def read_lock(text: str) -> tuple[LockedWheel, ...]:
    """Parse a pip-compile lock with hashes; WheelError where an entry has none."""
    entries = []
    for entry in re.split(r"\n(?=[A-Za-z0-9])", text):
        if match := _REQUIREMENT.match(entry.strip()):
            digests = frozenset(_HASH.findall(entry))
            if not digests:
                raise WheelError(f"{match[0]}: no hash in the lock; compile it with hashes")
            entries.append(LockedWheel(normalized(match[1]), match[2], digests))
    return tuple(entries)


def cache_directory(project: Path) -> Path:
    """Where wheels are kept: $GRIDHUB_CACHE, else .pulumi-cache in the project (git-ignored)."""
    named = os.environ.get("GRIDHUB_CACHE")
    return Path(named) if named else project / ".pulumi-cache"


def wheels(lock: Path, architecture: str, cache: Path) -> list[Path]:
    """Return one verified wheel per entry of the lock, for Docker's `architecture`.

    Raises WheelError for an unknown processor, a registry that fails, or a hash that is wrong.
    """
    if architecture not in PLATFORMS:
        raise WheelError(
            f"no wheels for a {architecture} host: only {', '.join(sorted(PLATFORMS))} are known"
        )
    locked = read_lock(lock.read_text())
    name = f"wheels-{hashlib.sha256(lock.read_bytes()).hexdigest()[:16]}-{architecture}"
    folder = cache / name
    if found := _verified(folder, locked):
        return found
    with _alone(cache):
        # Another run may have filled it while this one waited.
        if found := _verified(folder, locked):
            return found
        _download(lock, PLATFORMS[architecture], folder)
        if found := _verified(folder, locked):
            return found
    raise WheelError(f"{folder}: pip fetched what the lock does not name; remove it and try again")


@contextlib.contextmanager
def _alone(cache: Path) -> Iterator[None]:
    """Hold the cache's lock: of runs that find it empty one fetches, and none removes another's."""
    cache.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(cache, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _verified(folder: Path, locked: tuple[LockedWheel, ...]) -> list[Path] | None:
    """Return the wheels if the folder holds exactly those of the lock, unharmed; else None."""
    by_key: dict[tuple[str, str], Path] = {}
    for path in folder.glob("*.whl"):
        name, version, *_tags = path.name.split("-")
        by_key[normalized(name), version] = path
    found = []
    for entry in locked:
        wheel = by_key.get((entry.name, entry.version))
        if wheel is None or hashlib.sha256(wheel.read_bytes()).hexdigest() not in entry.digests:
            return None
        found.append(wheel)
    return found if len(found) == len(by_key) else None


def _download(lock: Path, machine: str, folder: Path) -> None:
    """Fetch all wheels into a fresh folder beside, then put it in place by a rename."""
    temporary = Path(tempfile.mkdtemp(prefix=".wheels-", dir=folder.parent))
    platforms = [f"--platform={tag}_{machine}" for tag in _MANYLINUX]
    argv = [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"),
        *("--no-deps", "--only-binary=:all:", "--require-hashes", f"--dest={temporary}"),
        *(f"--python-version={PYTHON}", "--implementation=cp", "--abi=cp311", "--abi=abi3"),
        *("--abi=none", *platforms, f"--requirement={lock}"),
    ]
    try:
        _run_pip(argv)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    except OSError as error:
        raise WheelError(f"{folder}: {error.strerror}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _run_pip(argv: list[str]) -> None:
    try:
        completed = subprocess.run(
            argv, check=False, capture_output=True, text=True, timeout=_PIP_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise WheelError(
            f"pip did not fetch the agent's wheels in {_PIP_SECONDS} s; is the registry reachable?"
        ) from error
    if completed.returncode != 0:
        raise WheelError(
            "pip could not fetch the agent's wheels (binaries for Python 3.11 with the hashes of "
            f"sync/agent/requirements.lock); its last words: {completed.stderr.strip()[-1500:]}"
        )


def contents(wheel: Path) -> Iterator[tuple[str, bytes]]:
    """Yield (path below site-packages, content) of a wheel (PEP 427; scripts are left out)."""
    with zipfile.ZipFile(wheel) as archive:
        for info in archive.infolist():
            path = _installed_path(info.filename)
            if path is not None and not info.is_dir():
                yield path, archive.read(info)


def _installed_path(name: str) -> str | None:
    first, _slash, rest = name.partition("/")
    if not first.endswith(".data"):
        return name
    scheme, _slash, below = rest.partition("/")
    return below if scheme in ("purelib", "platlib") else None
