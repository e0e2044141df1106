"""What runs as root on the mirror host, inside a one-shot container of the helper image.

Only the standard library of Python 3.11: this very file is sent on stdin, followed by one request
(JSON, length first) and, for a bundle, by a tar stream. The reply is one JSON object on stdout:
{"result": …} or {"error": text, "kind": word}. No secret stands in a reply or on a command line.

Every path in a request is relative to the data root; symbolic links on the way to it are refused,
because some of the directories belong to the services, which are not trusted by root.
"""

import base64
import contextlib
import errno
import hashlib
import json
import os
import secrets
import shutil
import stat
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

MANIFEST = "MANIFEST.json"
_SURVEY_LIMIT = 5000
_DIGEST_LIMIT_BYTES = 4 << 20
_LEFTOVER_SECONDS = 3600  # longer than any one-shot container runs
_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


class RefusedError(Exception):
    """A request that can not be carried out; `str()` names the path and the remedy."""


def _parts(relative: str) -> list[str]:
    parts = relative.split("/")
    if not relative or any(part in ("", ".", "..") for part in parts):
        raise RefusedError(f"path {relative!r} does not stay below the data root")
    return parts


@contextlib.contextmanager
def opened(root: str, relative: str) -> Iterator[int]:
    """Yield a descriptor of the directory `relative` below root; no symbolic link on the way."""
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for part in _parts(relative) if relative else ():
            try:
                child = os.open(part, _DIRECTORY_FLAGS, dir_fd=descriptor)
            except OSError as error:
                if error.errno in (errno.ELOOP, errno.ENOTDIR):
                    raise RefusedError(
                        f"{root}/{relative}: {part} is a symbolic link or no directory; mount "
                        "the storage there instead of linking to it"
                    ) from error
                raise
            os.close(descriptor)
            descriptor = child
        yield descriptor
    finally:
        os.close(descriptor)


def split(relative: str) -> tuple[str, str]:
    """Directory and last component of a relative path."""
    *parents, name = _parts(relative)
    return "/".join(parents), name


def make_directories(request: dict[str, Any]) -> list[str]:
    """Create, own and mode every directory; returns those that were not yet so."""
    root = request["root"]
    changed = []
    for entry in request["directories"]:
        parent, name = split(entry["path"])
        with opened(root, parent) as descriptor, contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=descriptor)
            changed.append(entry["path"])
        with opened(root, entry["path"]) as descriptor:
            if _own(descriptor, entry, request):
                changed.append(entry["path"])
    for parent in sorted({split(path)[0] for path in changed}):
        _sync_directory(root, parent)
    return sorted(set(changed))


def _own(descriptor: int, entry: dict[str, Any], request: dict[str, Any]) -> bool:
    before = os.fstat(descriptor)
    os.fchmod(descriptor, entry["mode"])
    if before.st_uid == entry["uid"] and before.st_gid == entry["uid"]:
        return bool(stat.S_IMODE(before.st_mode) != entry["mode"])
    # The directory after its contents: what is cut off in between is begun again by the next `up`.
    _own_contents(entry, before.st_uid, request)
    os.fchown(descriptor, entry["uid"], entry["uid"])
    # And what the previous owner put there meanwhile; from now on it can not.
    _own_contents(entry, before.st_uid, request)
    return True


def _own_contents(entry: dict[str, Any], previous: int, request: dict[str, Any]) -> None:
    """Hand what the previous owner had below a directory to the new one (a mode, a take-over).

    Listed directories below have owners of their own; what belongs to anybody else stays.
    """
    root, path = request["root"], f"{request['root']}/{entry['path']}"
    listed = {directory["path"] for directory in request["directories"]}
    for folder, names, files, descriptor in os.fwalk(path, follow_symlinks=False):
        below = os.path.relpath(folder, root)
        names[:] = [name for name in names if f"{below}/{name}" not in listed]
        for name in [*names, *files]:
            # What its owner renames or removes meanwhile is not there to be handed over.
            with contextlib.suppress(FileNotFoundError):
                if os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_uid == previous:
                    uid = entry["uid"]
                    os.chown(name, uid, uid, dir_fd=descriptor, follow_symlinks=False)


def _sync_directory(root: str, relative: str) -> None:
    with opened(root, relative) as descriptor:
        os.fsync(descriptor)


def write_files(request: dict[str, Any]) -> list[str]:
    """Write every file: temporary name, owner, mode, fsync, rename; returns the paths."""
    for entry in request["files"]:
        _write_file(request["root"], entry)
    return [entry["path"] for entry in request["files"]]


def _write_file(root: str, entry: dict[str, Any]) -> None:
    parent, name = split(entry["path"])
    # A name of its own: one whose connection was cut off may still be writing the same file.
    temporary = f".{name}.{secrets.token_hex(8)}.tmp"
    with opened(root, parent) as directory:
        _remove_leftovers(directory, name)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        descriptor = os.open(temporary, flags, 0o600, dir_fd=directory)
        try:
            with os.fdopen(descriptor, "wb") as file:
                os.fchown(file.fileno(), entry["uid"], entry["uid"])
                os.fchmod(file.fileno(), entry["mode"])
                file.write(base64.b64decode(entry["content"]))
                file.flush()
                os.fsync(file.fileno())
            os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=directory)
            raise
        os.fsync(directory)


def _remove_leftovers(directory: int, name: str) -> None:
    """Remove what a writer that was killed left of a file; one that may still run keeps its own."""
    for found in os.listdir(directory):
        if found.startswith(f".{name}.") and found.endswith(".tmp"):
            with contextlib.suppress(FileNotFoundError):
                changed = os.stat(found, dir_fd=directory, follow_symlinks=False).st_mtime
                if time.time() - changed > _LEFTOVER_SECONDS:
                    os.unlink(found, dir_fd=directory)


def remove_files(request: dict[str, Any]) -> list[str]:
    """Remove the files that are there; returns their paths."""
    removed = []
    for path in request["paths"]:
        parent, name = split(path)
        with contextlib.suppress(FileNotFoundError), opened(request["root"], parent) as directory:
            os.unlink(name, dir_fd=directory)
            os.fsync(directory)
            removed.append(path)
    return removed


def purge(request: dict[str, Any]) -> list[str]:
    """Remove directories with all they hold, the last listed first; mount points are emptied."""
    removed = []
    for path in reversed(request["paths"]):
        parent, name = split(path)
        with contextlib.suppress(FileNotFoundError), opened(request["root"], parent) as directory:
            _empty(directory, name)
            with contextlib.suppress(OSError):  # a mount point stays, empty
                os.rmdir(name, dir_fd=directory)
            removed.append(path)
    return removed


def empty(request: dict[str, Any]) -> list[str]:
    """Remove what a directory holds; the directory stays, as containers have it mounted."""
    for path in request["paths"]:
        parent, name = split(path)
        with contextlib.suppress(FileNotFoundError), opened(request["root"], parent) as directory:
            _empty(directory, name)
    return list(request["paths"])


def _empty(directory: int, name: str) -> None:
    descriptor = os.open(name, _DIRECTORY_FLAGS, dir_fd=directory)
    try:
        for child in os.listdir(descriptor):  # noqa: PTH208  a descriptor, not a path
            if stat.S_ISDIR(os.stat(child, dir_fd=descriptor, follow_symlinks=False).st_mode):
                _empty(descriptor, child)
                with contextlib.suppress(OSError):
                    os.rmdir(child, dir_fd=descriptor)
            else:
                os.unlink(child, dir_fd=descriptor)
    finally:
        os.close(descriptor)


def survey(request: dict[str, Any]) -> dict[str, Any]:
    """Tell owner, mode and (small files) digest of everything that the stack manages.

    {"paths": {relative: {kind, uid, gid, mode, sha256?}}, "bundles": {digest: [problem…]}}.
    """
    root = request["root"]
    paths = {}
    for relative in request["paths"]:
        if found := _look(root, relative):
            paths[relative] = found
    for tree in request["trees"]:
        paths.update(_look_below(root, tree))
    return {"paths": paths, "bundles": _bundles(root, request["agents"])}


def _look(root: str, relative: str) -> dict[str, Any] | None:
    parent, name = split(relative)
    try:
        with opened(root, parent) as directory:
            return _describe(directory, name)
    except FileNotFoundError:
        return None
    except RefusedError:  # a file or a link where a directory should be
        return {"kind": "other", "uid": -1, "gid": -1, "mode": 0}


def _describe(directory: int, name: str) -> dict[str, Any]:
    found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    described: dict[str, Any] = {
        "kind": _kind(found.st_mode),
        "uid": found.st_uid,
        "gid": found.st_gid,
        "mode": stat.S_IMODE(found.st_mode),
    }
    if described["kind"] == "file" and found.st_size <= _DIGEST_LIMIT_BYTES:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=directory)
        with os.fdopen(descriptor, "rb") as file:
            described["sha256"] = hashlib.sha256(file.read(_DIGEST_LIMIT_BYTES)).hexdigest()
    return described


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "directory"
    return "file" if stat.S_ISREG(mode) else "other"


def _look_below(root: str, tree: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if not (Path(root) / tree).is_dir():
        return found
    # Files come and go meanwhile (another resource's temporary ones); even the tree itself may.
    with contextlib.suppress(FileNotFoundError):
        for folder, names, files, descriptor in os.fwalk(f"{root}/{tree}", follow_symlinks=False):
            below = os.path.relpath(folder, root)
            for name in sorted([*names, *files]):
                if len(found) >= _SURVEY_LIMIT:
                    return found
                with contextlib.suppress(FileNotFoundError):
                    found[f"{below}/{name}"] = _describe(descriptor, name)
    return found


def _bundles(root: str, agents: str) -> dict[str, list[str]]:
    folder = Path(root) / agents
    if not folder.is_dir():
        return {}
    names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    return {name: problems(folder / name) for name in names if not name.startswith(".")}


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
    return differing + sorted(f"{name}: foreign" for name in found.keys() - manifest.keys())


def install_bundle(request: dict[str, Any], stream: IO[bytes]) -> str:
    """Unpack the tar on `stream` as <agents>/<digest>; "adopted", "installed" or "repaired".

    A new bundle appears whole, by one rename. A damaged one is mended file by file in the same
    directory, because running containers have that very directory mounted.
    """
    agents = Path(request["root"]) / request["agents"]
    target = agents / request["digest"]
    # A folder of its own: one whose connection was cut off may still be unpacking the same bundle.
    temporary = Path(tempfile.mkdtemp(prefix=f".{request['digest']}.", suffix=".tmp", dir=agents))
    try:
        with tarfile.open(fileobj=stream, mode="r|gz") as archive:
            for member in archive:
                _unpack(archive, member, temporary)
        _sync_files(temporary)
        if wrong := problems(temporary):
            raise RefusedError(f"the bundle arrived damaged ({wrong[0]}); run pulumi up again")
        return _place(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _unpack(archive: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    _parts(member.name)
    content = archive.extractfile(member)
    if not member.isreg() or content is None:
        raise RefusedError(f"the bundle holds {member.name}, which is no plain file")
    path = folder / member.name
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    with path.open("xb") as file:
        shutil.copyfileobj(content, file)
        os.fchmod(file.fileno(), 0o644)


def _sync_files(folder: Path) -> None:
    """Fsync all files at once: the file system's journal takes them in few commits."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    with ThreadPoolExecutor(32) as pool:
        list(pool.map(_sync_file, files))


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _place(temporary: Path, target: Path) -> str:
    if not target.exists():
        _sync_tree(temporary)
        try:
            temporary.rename(target)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
        else:
            _sync_path(target.parent)
            return "installed"
    wrong = problems(target)
    if not wrong:
        return "adopted"
    for path in sorted(path for path in temporary.rglob("*") if path.is_file()):
        destination = target / path.relative_to(temporary)
        destination.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        path.replace(destination)
    manifest = json.loads((target / MANIFEST).read_text())
    for path in [path for path in target.rglob("*") if not path.is_dir() or path.is_symlink()]:
        name = str(path.relative_to(target))
        if name not in manifest and name != MANIFEST:
            path.unlink(missing_ok=True)
    _sync_tree(target)
    return "repaired"


def _sync_tree(folder: Path) -> None:
    for path in [folder, *(path for path in folder.rglob("*") if path.is_dir())]:
        path.chmod(0o755)
        _sync_path(path)


def _sync_path(folder: Path) -> None:
    descriptor = os.open(folder, _DIRECTORY_FLAGS)
    os.fsync(descriptor)
    os.close(descriptor)


def remove_bundles(request: dict[str, Any]) -> list[str]:
    """Remove every bundle whose digest is not in `keep`; returns the removed ones."""
    folder = Path(request["root"]) / request["agents"]
    if not folder.is_dir():
        return []
    names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    gone = [name for name in names if name not in request["keep"]]
    for name in gone:
        shutil.rmtree(folder / name)
    return gone


OPERATIONS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "make_directories": make_directories,
    "write_files": write_files,
    "remove_files": remove_files,
    "purge": purge,
    "empty": empty,
    "survey": survey,
    "remove_bundles": remove_bundles,
}


def answer(request: dict[str, Any], stream: IO[bytes]) -> dict[str, Any]:
    """Carry out one request; a failure becomes {"error", "kind"}."""
    try:
        if request["operation"] == "install_bundle":
            return {"result": install_bundle(request, stream)}
        return {"result": OPERATIONS[request["operation"]](request)}
    except RefusedError as error:
        return {"error": str(error), "kind": "refused"}
    except OSError as error:
        kind = "space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "system"
        return {"error": f"{error.filename or request['root']}: {error.strerror}", "kind": kind}


def main() -> None:
    """Read one length-prefixed request from stdin, write the reply to stdout."""
    os.umask(0o022)
    stream = sys.stdin.buffer
    request = json.loads(stream.read(int(stream.readline())))
    json.dump(answer(request, stream), sys.stdout)


if __name__ == "__main__":
    main()
