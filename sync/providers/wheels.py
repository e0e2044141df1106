"""The agent's site-packages: its locked wheels for the container's Python and the host's processor.

pip fetches them from the operator's package registry and unpacks them, only binaries, each with a
hash of the lock. They are kept in a cache that pip compares with the lock again at each use.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import stamina

# Docker's name of a processor to the wheel tags that run there (any glibc since 2.28 at most).
PLATFORMS: Final[Mapping[str, str]] = {"amd64": "x86_64", "arm64": "aarch64"}
_MANYLINUX: Final = ("manylinux2014", "manylinux_2_17", "manylinux_2_28")
_OPTIONS: Final = (
    *("--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"),
    *("--require-hashes", "--python-version=3.11", "--implementation=cp"),
    *("--abi=cp311", "--abi=abi3", "--abi=none"),
)
_PIP_SECONDS: Final = 300
# Who has the cache runs pip three times at most: it finds a wheel harmed, fetches, and unpacks.
_CACHE_SECONDS: Final = 3 * _PIP_SECONDS
# What pip notes about an installation: it differs between versions of pip, and nobody reads it.
_PIPS_NOTES: Final = frozenset({"INSTALLER", "RECORD", "REQUESTED"})


class WheelError(Exception):
    """The agent's wheels cannot be had; `str()` names the remedy."""


def cache_directory(project: Path) -> Path:
    """Where wheels are kept: $GRIDHUB_CACHE, else .pulumi-cache in the project (git-ignored)."""
    named = os.environ.get("GRIDHUB_CACHE")
    return Path(named) if named else project / ".pulumi-cache"


def site_packages(lock: Path, architecture: str, cache: Path) -> dict[str, bytes]:
    """Return every file of the locked wheels, for Docker's `architecture`; no scripts.

    The network is needed where the cache lacks one of them. Raises WheelError for an unknown
    processor, a registry that fails, a hash that is wrong or that the lock does not have.
    """
    if architecture not in PLATFORMS:
        raise WheelError(
            f"no wheels for a {architecture} host: only {', '.join(sorted(PLATFORMS))} are known"
        )
    machine = PLATFORMS[architecture]
    digest = hashlib.sha256(lock.read_bytes()).hexdigest()[:16]
    folder = cache / f"wheels-{digest}-{architecture}"
    # Of runs that find the cache empty one fetches, and none removes what another unpacks.
    with _locked(cache):
        with contextlib.suppress(WheelError):
            return _unpacked(lock, machine, folder)
        _download(lock, machine, folder)
        return _unpacked(lock, machine, folder)


def _unpacked(lock: Path, machine: str, folder: Path) -> dict[str, bytes]:
    """Have pip unpack the folder's wheels; WheelError where it does not hold those of the lock."""
    if not folder.is_dir():
        raise WheelError(f"{folder}: does not exist")
    with tempfile.TemporaryDirectory(prefix="gridhub-wheels-") as target:
        _pip(
            *("install", "--no-user", "--no-compile", "--no-index", f"--find-links={folder}"),
            *(f"--target={target}", *_wanted(lock, machine)),
        )
        files = sorted(path for path in Path(target).rglob("*") if path.is_file())
        relative = {path.relative_to(target): path for path in files}
        return {
            str(name): path.read_bytes()
            for name, path in relative.items()
            if name.parts[0] != "bin" and name.name not in _PIPS_NOTES
        }


@contextlib.contextmanager
def _locked(cache: Path) -> Iterator[None]:
    cache.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(cache, os.O_RDONLY | os.O_DIRECTORY)
    waiting = stamina.RetryingCaller(attempts=None, timeout=_CACHE_SECONDS, wait_max=1)
    try:
        try:
            waiting(BlockingIOError, fcntl.flock, descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise WheelError(
                f"{cache}: in use by another run for {_CACHE_SECONDS:g} s; end that one, or name "
                "another folder in $GRIDHUB_CACHE"
            ) from error
        yield
    finally:
        os.close(descriptor)


def _download(lock: Path, machine: str, folder: Path) -> None:
    """Fetch all wheels into a fresh folder beside, then put it in place by a rename."""
    temporary = Path(tempfile.mkdtemp(prefix=".wheels-", dir=folder.parent))
    try:
        _pip("download", f"--dest={temporary}", *_wanted(lock, machine))
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    except OSError as error:
        raise WheelError(f"{folder}: {error.strerror}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _wanted(lock: Path, machine: str) -> list[str]:
    platforms = [f"--platform={tag}_{machine}" for tag in _MANYLINUX]
    return [*_OPTIONS, *platforms, f"--requirement={lock}"]


def _pip(*arguments: str) -> None:
    argv = [sys.executable, "-m", "pip", *arguments]
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
