"""Operations as root on the mirror host, inside a one-shot container of the helper image.

Only the standard library of Python 3.11: this very file is sent on stdin, after the one that it
imports and followed by one request (JSON, length first) and, for a bundle, by a tar stream. The
reply is one JSON object on stdout: {"result": …} or {"error": text, "kind": word}. No secret stands
in a reply or on a command line.

Every path in a request is relative to the data root; symbolic links on the way to it are refused,
because some of the directories belong to the services, which are not trusted by root (see descent).
"""

import base64
import contextlib
import errno
import hashlib
import itertools
import json
import os
import secrets
import shutil
import stat
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, TypeAlias, TypedDict

from sync.providers.host.descent import RefusedError, held, opened, parent_of, parts, shown, walk

MANIFEST = "MANIFEST.json"
# Of what nobody asked for by its path.
_PATHS_LIMIT = 5000
_FOLDER_LIMIT = 200
_DEPTH_LIMIT = 4
_NAME_CHARACTERS = 100
_READ_LIMIT_BYTES = 256 << 10
_DIGEST_LIMIT_BYTES = 4 << 20
_LEFTOVER_SECONDS = 3600  # longer than any one-shot container runs
_NO_FSYNC = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP})


class Owned(TypedDict):
    """A directory or file: path below the data root, owner (gid equals uid), mode."""

    path: str
    uid: int
    mode: int


class File(Owned):
    """content: base64."""

    content: str


# A path as it is: kind (directory, file or other), uid, gid, mode, and sha256 (hex) of small files.
Described: TypeAlias = dict[str, str | int]


def make_directories(root: str, directories: list[Owned]) -> list[str]:
    """Create, own and mode every directory; returns those that were not yet so."""
    changed = []
    listed = {entry["path"] for entry in directories}
    for entry in directories:
        with parent_of(root, entry["path"]) as (parent, name), contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=parent)
            changed.append(entry["path"])
        with opened(root, entry["path"]) as descriptor:
            if _own(root, descriptor, entry, listed):
                changed.append(entry["path"])
    for folder in sorted({path.rpartition("/")[0] for path in changed}):
        with opened(root, folder) as descriptor:
            _durable(descriptor)
    return sorted(set(changed))


def _own(root: str, descriptor: int, entry: Owned, listed: set[str]) -> bool:
    before, uid, path = os.fstat(descriptor), entry["uid"], f"{root}/{entry['path']}"
    os.fchmod(descriptor, entry["mode"])
    if before.st_uid == uid and before.st_gid == uid:
        return stat.S_IMODE(before.st_mode) != entry["mode"]
    # The directory after its contents: what is cut off in between is begun again by the next `up`.
    inside = {one.removeprefix(f"{entry['path']}/") for one in listed}
    _own_contents(descriptor, path, (before.st_uid, uid), inside)
    os.fchown(descriptor, uid, uid)
    # And what the previous owner put there meanwhile; from now on it cannot.
    _own_contents(descriptor, path, (before.st_uid, uid), inside)
    return True


def _own_contents(top: int, path: str, owners: tuple[int, int], listed: set[str]) -> None:
    """Hand what the previous owner had below a directory to the new one (a mode, a take-over).

    owners: both uids. listed: paths below it that have owners of their own; what belongs to anybody
    else stays.
    """
    previous, uid = owners
    depth = max((one.count("/") for one in listed), default=-1)

    def hand_over(directory: int, way: list[str]) -> list[str]:
        below = []
        for name in os.listdir(directory):
            if len(way) <= depth and "/".join([*way, name]) in listed:
                continue
            # What its owner renames or removes meanwhile is not there to be handed over.
            with contextlib.suppress(FileNotFoundError):
                if _chown(directory, name, previous, uid):
                    below.append(name)
        return below

    walk(top, path, hand_over)


def _chown(directory: int, name: str, previous: int, uid: int) -> bool:
    """Hand one over if it is still the previous owner's; returns whether it is a directory."""
    found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    if found.st_uid == previous:
        with held(directory, name) as (it, found):
            if found.st_uid == previous:
                os.chown(it, uid, uid)
    return stat.S_ISDIR(found.st_mode)


def write_files(root: str, files: list[File]) -> None:
    """Write every file: temporary name, owner, mode, fsync, rename."""
    for entry in files:
        _write_file(root, entry)


def _write_file(root: str, entry: File) -> None:
    with parent_of(root, entry["path"]) as (directory, name):
        # A name of its own: one whose connection was cut off may still be writing the same file.
        temporary = f".{name}.{secrets.token_hex(8)}.tmp"
        _remove_leftovers(directory, name)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        descriptor = os.open(temporary, flags, 0o600, dir_fd=directory)
        try:
            with os.fdopen(descriptor, "wb") as file:
                os.fchown(file.fileno(), entry["uid"], entry["uid"])
                os.fchmod(file.fileno(), entry["mode"])
                file.write(base64.b64decode(entry["content"]))
                file.flush()
                _durable(file.fileno())
            # A directory is what Docker makes of the source of a bind that is missing (moby:
            # daemon/volumes.go, registerMountPoints: only for mounts it skips that).
            _remove_directory(directory, name, f"{root}/{entry['path']}")
            os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=directory)
            raise
        _durable(directory)


def _remove_directory(directory: int, name: str, path: str) -> bool:
    """Remove an empty directory where a file belongs; False where there is none."""
    try:
        os.rmdir(name, dir_fd=directory)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        raise RefusedError(
            f"{path}: a directory that is not empty stands where a file belongs; move it away, and "
            "run pulumi up again"
        ) from error
    return True


def _remove_leftovers(directory: int, name: str) -> None:
    """Remove what a writer that was killed left of a file; one that may still run keeps its own."""
    for found in os.listdir(directory):
        if found.startswith(f".{name}.") and found.endswith(".tmp"):
            with contextlib.suppress(FileNotFoundError, IsADirectoryError):
                changed = os.stat(found, dir_fd=directory, follow_symlinks=False).st_mtime
                if time.time() - changed > _LEFTOVER_SECONDS:
                    os.unlink(found, dir_fd=directory)


def remove_files(root: str, paths: list[str]) -> None:
    """Remove the files that are there."""
    for path in paths:
        with contextlib.suppress(FileNotFoundError), parent_of(root, path) as (directory, name):
            if not _remove_directory(directory, name, f"{root}/{path}"):
                os.unlink(name, dir_fd=directory)
            _durable(directory)


def empty(root: str, paths: list[str]) -> None:
    """Remove what directories hold; they stay, as containers have them mounted.

    What is behind a link that has the name of one is another's, and stays.
    """
    for path in reversed(paths):
        with contextlib.suppress(FileNotFoundError), contextlib.ExitStack() as stack:
            try:
                directory = stack.enter_context(opened(root, path))
            except RefusedError:
                continue
            walk(directory, f"{root}/{path}", _removed, _remove_if_empty)


def purge(root: str, paths: list[str]) -> None:
    """Remove directories with all they hold, the last listed first; mount points are emptied."""
    empty(root, paths)
    for path in reversed(paths):
        # A mount point stays, empty.
        with contextlib.suppress(OSError, RefusedError), parent_of(root, path) as (directory, name):
            with contextlib.suppress(IsADirectoryError):
                os.unlink(name, dir_fd=directory)
                continue
            os.rmdir(name, dir_fd=directory)


def _removed(directory: int, _way: list[str]) -> list[str]:
    """Remove all but the directories in one; returns their names."""
    below = []
    for name in os.listdir(directory):
        try:
            os.unlink(name, dir_fd=directory)
        except FileNotFoundError:
            continue
        except IsADirectoryError:
            below.append(name)
    return below


def _remove_if_empty(directory: int, name: str) -> None:
    with contextlib.suppress(OSError):
        os.rmdir(name, dir_fd=directory)


def facts(root: str, paths: list[str], trees: list[str], agents: str) -> dict[str, object]:
    """Describe the paths, what is below the trees as far as bounds permit, the agent's bundles.

    {"paths": {relative: Described}, "bundles": {digest: [problem…]}}. agents: none, if empty.
    """
    described: dict[str, Described] = {}
    for tree in trees:
        _look_below(root, tree, described)
    described |= {path: found for path in paths if (found := _look(root, path))}
    return {"paths": described, "bundles": _bundles(root, agents) if agents else {}}


def _look(root: str, relative: str) -> Described | None:
    *parents, name = parts(relative)
    try:
        with opened(root, "/".join(parents)) as directory:
            return _describe(directory, name)
    except FileNotFoundError:
        return None
    except RefusedError:  # a file or a link where a directory should be
        return {"kind": "other", "uid": -1, "gid": -1, "mode": 0}


def _describe(directory: int, name: str, limit_bytes: int = _DIGEST_LIMIT_BYTES) -> Described:
    with held(directory, name) as (it, found):
        described: Described = {
            "kind": _kind(found.st_mode),
            "uid": found.st_uid,
            "gid": found.st_gid,
            "mode": stat.S_IMODE(found.st_mode),
        }
        if described["kind"] == "file" and found.st_size <= limit_bytes:
            # Its owner may hold a lease on it, or let it grow; the digest of such a one is unknown.
            with contextlib.suppress(BlockingIOError):
                descriptor = os.open(it, os.O_RDONLY | os.O_NONBLOCK)
                with os.fdopen(descriptor, "rb") as file:
                    content = file.read(limit_bytes + 1)
                if len(content) <= limit_bytes:
                    described["sha256"] = hashlib.sha256(content).hexdigest()
        return described


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "directory"
    return "file" if stat.S_ISREG(mode) else "other"


def _is_plain(name: str) -> bool:
    """Return whether a file of ours may have the name: a reply has room for all of these."""
    return len(name) <= _NAME_CHARACTERS and name.isascii() and name.isprintable()


def _look_below(root: str, tree: str, described: dict[str, Described]) -> None:
    """Describe what is below a tree: of much only a part, and nothing that none of ours is called.

    What was wanted and is not among it is asked for by its path.
    """

    def look(directory: int, way: list[str]) -> list[str]:
        below = []
        with os.scandir(directory) as entries:
            names = [one.name for one in itertools.islice(entries, _FOLDER_LIMIT)]
        for name in sorted(filter(_is_plain, names)):
            if len(described) >= _PATHS_LIMIT:
                return []
            # Files come and go meanwhile: another resource's temporary ones.
            with contextlib.suppress(FileNotFoundError):
                found = _describe(directory, name, _READ_LIMIT_BYTES)
                described["/".join([tree, *way, name])] = found
                if found["kind"] == "directory" and len(way) < _DEPTH_LIMIT:
                    below.append(name)
        return below

    # Even the tree itself may go.
    with contextlib.suppress(FileNotFoundError, RefusedError), opened(root, tree) as top:
        walk(top, f"{root}/{tree}", look)


def _bundles(root: str, agents: str) -> dict[str, list[str]]:
    shown = [path for path in _folders(Path(root) / agents) if not path.name.startswith(".")]
    return {path.name: problems(path) for path in shown}


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.is_dir())


def problems(bundle: Path) -> list[str]:
    """Compare a bundle with its manifest: a line per file that is missing, changed or foreign."""
    try:
        manifest = json.loads((bundle / MANIFEST).read_text())
    except (OSError, ValueError):
        return [f"{MANIFEST} is missing or damaged"]
    found = {}
    for folder, _names, files in os.walk(bundle):
        for path in (Path(folder) / name for name in files if name != MANIFEST):
            # One that is replaced or removed at this moment counts as missing.
            with contextlib.suppress(FileNotFoundError):
                if path.is_file() and not path.is_symlink():
                    digest = hashlib.sha256(path.read_bytes()).hexdigest()
                    found[str(path.relative_to(bundle))] = digest
    differing = sorted(
        f"{name}: {'changed' if name in found else 'missing'}"
        for name, digest in manifest.items()
        if found.get(name) != digest
    )
    return differing + sorted(f"{shown(name)}: foreign" for name in found.keys() - manifest.keys())


def install_bundle(root: str, agents: str, digest: str, stream: IO[bytes]) -> str:
    """Unpack the tar on `stream` as <agents>/<digest>; "adopted", "installed" or "repaired".

    A new bundle appears whole, by one rename. A damaged one is repaired file by file in the same
    directory, because running containers have that very directory mounted.
    """
    folder = Path(root) / agents
    # A folder of its own: one whose connection was cut off may still be unpacking the same bundle.
    temporary = Path(tempfile.mkdtemp(prefix=f".{digest}.", suffix=".tmp", dir=folder))
    try:
        with tarfile.open(fileobj=stream, mode="r|gz") as archive:
            for member in archive:
                _unpack(archive, member, temporary)
        # All files at once: the file system's journal takes them in few commits.
        with ThreadPoolExecutor(32) as pool:
            list(pool.map(_fsync, _files(temporary)))
        if wrong := problems(temporary):
            raise RefusedError(f"the bundle arrived damaged ({wrong[0]}); run pulumi up again")
        return _put(temporary, folder / digest)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _unpack(archive: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    parts(member.name)
    content = archive.extractfile(member)
    if not member.isreg() or content is None:
        raise RefusedError(f"the bundle holds {member.name}, which is no plain file")
    path = folder / member.name
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    with path.open("xb") as file:
        shutil.copyfileobj(content, file)
        os.fchmod(file.fileno(), 0o644)


def _put(temporary: Path, target: Path) -> str:
    if not target.exists():
        _sync_folders(temporary)
        try:
            temporary.rename(target)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
        else:
            _fsync(target.parent)
            return "installed"
    if not problems(target):
        return "adopted"
    for path in _files(temporary):
        destination = target / path.relative_to(temporary)
        destination.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        path.replace(destination)
    manifest = json.loads((target / MANIFEST).read_text())
    for path in [path for path in target.rglob("*") if not path.is_dir() or path.is_symlink()]:
        name = str(path.relative_to(target))
        if name not in manifest and name != MANIFEST:
            path.unlink(missing_ok=True)
    _sync_folders(target)
    return "repaired"


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _sync_folders(top: Path) -> None:
    for folder in [top, *(path for path in top.rglob("*") if path.is_dir())]:
        folder.chmod(0o755)
        _fsync(folder)


def _durable(descriptor: int) -> None:
    """Fsync, except on a file system that has none (see sync/contract/fsync.py)."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FSYNC:
            raise


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        _durable(descriptor)
    finally:
        os.close(descriptor)


def remove_bundles(root: str, agents: str, keep: list[str]) -> None:
    """Remove every bundle whose digest is not to be kept."""
    folders = [path.name for path in _folders(Path(root) / agents)]
    purge(root, [f"{agents}/{name}" for name in folders if name not in keep])


_OPERATIONS: dict[str, Callable[..., object]] = {
    operation.__name__: operation
    for operation in (
        *(make_directories, write_files, remove_files, purge, empty, facts),
        *(install_bundle, remove_bundles),
    )
}


def answer(request: Mapping[str, object], stream: IO[bytes]) -> dict[str, object]:
    """Carry out one request, {operation, root, …its parameters}; a failure is {error, kind}."""
    operation = str(request["operation"])
    parameters = {key: value for key, value in request.items() if key != "operation"}
    if operation == "install_bundle":
        parameters["stream"] = stream
    try:
        return {"result": _OPERATIONS[operation](**parameters)}
    except RefusedError as error:
        return {"error": shown(str(error)), "kind": "refused"}
    except OSError as error:
        kind = "space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "system"
        where = error.filename or request["root"]
        return {"error": shown(f"{where}: {error.strerror}"), "kind": kind}


def main() -> None:
    """Read one length-prefixed request from stdin, write the reply to stdout."""
    os.umask(0o022)
    stream = sys.stdin.buffer
    request = json.loads(stream.read(int(stream.readline())))
    json.dump(answer(request, stream), sys.stdout)


if __name__ == "__main__":
    main()
