"""What a writable hub lets its users do (0-hub, src/flist-uploader.py: `/api/flist/me/…`)."""

import os
import re
import shutil
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from tests.sandbox.flist import Backend, Flist, FormatError, pack_directory
from tests.sandbox.services.http import Request, Response
from tests.sandbox.services.hub_api import FLIST, TAG_PREFIX, api_error, api_success, flist_name
from tests.sandbox.services.zdb_client import ZdbClient

_ARCHIVE: Final = ".tar.gz"


@dataclass(frozen=True)
class ChunkStore:
    """The hub's own way to its 0-db, with the right to write."""

    host: str
    port: int
    namespace: str = "default"
    password: str = ""

    def connect(self) -> ZdbClient:
        """Return a connection on which chunks can be stored."""
        client = ZdbClient(self.host, self.port)
        client.select(self.namespace, self.password or None)
        return client


@dataclass(frozen=True)
class Upload:
    """A file in a form."""

    filename: str
    data: bytes


class RefusedUploadError(ValueError):
    """An upload that is answered with 500 and this text."""


class HubWrites:
    """The write operations on a directory of repositories."""

    def __init__(self, users: Path, workdir: Path, chunks: ChunkStore, public: Backend) -> None:
        self._users, self._workdir = users, workdir
        self._chunks, self._public = chunks, public

    def answer(self, request: Request, username: str) -> Response:
        """Answer a request below /api/flist/me of an authenticated user."""
        path = request.path.removeprefix("/api/flist/me").rstrip("/")
        if path == "" and request.method == "GET":
            return api_success({"username": username})
        if request.method == "POST":
            return self._post(request, username, path)
        words = path.split("/")[1:]
        if request.method == "DELETE":
            return self._delete(username, words)
        if request.method == "GET":
            return self._change(username, words)
        return api_error("method not allowed", 405)

    # -- uploads -----------------------------------------------------------------------------

    def _post(self, request: Request, username: str, path: str) -> Response:
        if path not in {"/upload", "/upload-flist"}:
            return api_error("not supported by this hub", 500)
        try:
            upload = uploaded(request)
            if path == "/upload":
                name, files = self._pack(upload, username)
            else:
                name, files = self._take(upload, username)
        except (RefusedUploadError, FormatError, tarfile.TarError, OSError) as error:
            return api_error(str(error), 500)
        return api_success({"name": name, "files": {"success": True, "response": files}})

    def _pack(self, upload: Upload, username: str) -> tuple[str, dict[str, int]]:
        if not upload.filename.endswith(_ARCHIVE):
            raise RefusedUploadError("this file is not allowed")
        with tempfile.TemporaryDirectory(dir=self._made("temp"), prefix="workspace-") as directory:
            archive = self._made("distfiles") / os.path.basename(directory)  # noqa: PTH119
            archive.write_bytes(upload.data)
            try:
                _unpack(archive, Path(directory))
            finally:
                archive.unlink()
            packed = pack_directory(Path(directory), keep=lambda _: True)
        with self._chunks.connect() as zdb:
            for key, payload in packed.chunks.items():
                zdb.command("SET", key, payload)
        name = flist_name(upload.filename.removesuffix(_ARCHIVE))
        self._publish(username, name, packed.archive(self._public))
        return name, {"regular": len(packed.chunks), "size": packed.plain_bytes}

    def _take(self, upload: Upload, username: str) -> tuple[str, dict[str, int]]:
        if not upload.filename.endswith(FLIST):
            raise RefusedUploadError("this file is not allowed")
        keys = sorted(Flist.decode(upload.data).chunk_keys())
        with self._chunks.connect() as zdb:
            missing = sum(not zdb.command("EXISTS", key) for key in keys)
        if missing:
            raise RefusedUploadError(
                "unauthorized upload, contents is not fully present on backend"
            )
        self._publish(username, upload.filename, upload.data)
        return upload.filename, {"regular": len(keys), "failure": 0}

    def _publish(self, username: str, name: str, data: bytes) -> None:
        directory = self._users / username
        directory.mkdir(exist_ok=True)
        temporary = self._made("temp") / f"publish-{os.urandom(8).hex()}"
        temporary.write_bytes(data)
        shutil.move(temporary, directory / name)

    def _made(self, name: str) -> Path:
        directory = self._workdir / name
        directory.mkdir(parents=True, exist_ok=True)
        return directory

    # -- names -------------------------------------------------------------------------------

    def _delete(self, username: str, words: list[str]) -> Response:
        if len(words) == 5 and words[2] == "tag":
            return self._untag(username, words[0], words[1])
        if len(words) != 1:
            return api_error("source not found", 404)
        directory = self._users / username
        if not directory.is_dir():
            return api_error("user not found", 404)
        for name in (flist_name(words[0]), flist_name(words[0]).removesuffix(FLIST)):
            place = directory / name
            if place.is_symlink() or (name.endswith(FLIST) and place.is_file()):
                place.unlink()
                return api_success()
        return api_error("source not found", 404)

    def _untag(self, username: str, tag: str, link: str) -> Response:
        directory = self._users / username / (TAG_PREFIX + tag)
        place = directory / flist_name(link)
        if not place.is_symlink():
            return api_error("target not found on this tag", 404)
        place.unlink()
        if not any(directory.iterdir()):
            directory.rmdir()
        return api_success()

    def _change(self, username: str, words: list[str]) -> Response:
        own = self._users / username
        if not own.is_dir():
            return api_error("user not found", 404)
        response = api_error("source not found", 404)
        match words:
            case [source, "rename", target]:
                response = self._rename(own, flist_name(source), flist_name(target))
            case [source, "link", link]:
                response = self._link(own / flist_name(link), flist_name(source))
            case [link, "crosslink", repository, source]:
                target = f"../{repository}/{flist_name(source)}"
                response = self._link(own / flist_name(link), target)
            case [tag, link, "tag", repository, source]:
                target = f"../../{repository}/{flist_name(source)}"
                response = self._link(own / (TAG_PREFIX + tag) / flist_name(link), target)
            case [link, "crosstag", repository, tag]:
                response = self._taglink(own, link, repository, tag)
        return response

    def _rename(self, own: Path, source: str, target: str) -> Response:
        if not (own / source).exists():
            return api_error("source not found", 404)
        (own / source).rename(own / target)
        return api_success()

    def _link(self, place: Path, target: str) -> Response:
        """Make a link in one of upstream's shapes, if it leads to a flist."""
        source = self._users.joinpath(*target.split("/")[-2:]) if "/" in target else None
        if not (source or place.parent / target).exists():
            return api_error("source not found", 404)
        place.parent.mkdir(exist_ok=True)
        return _point(place, target)

    def _taglink(self, own: Path, link: str, repository: str, tag: str) -> Response:
        if not (self._users / repository / (TAG_PREFIX + tag)).is_dir():
            return api_error("source tag not found", 404)
        if link.endswith(FLIST):
            return api_error("tag symlink cannot ends with .flist", 401)
        return _point(own / link, f"../{repository}/{TAG_PREFIX}{tag}")


def _point(place: Path, target: str) -> Response:
    if place.is_symlink():
        place.unlink()
    if place.is_file():
        return api_error("link destination is already a file", 401)
    place.symlink_to(target)
    return api_success()


def _unpack(archive: Path, target: Path) -> None:
    """Unpack an archive that stays in its directory, modes as they are."""
    with tarfile.open(archive) as tar:
        links: set[PurePosixPath] = set()
        for member in tar.getmembers():
            paths = [PurePosixPath(member.name)]
            if member.islnk():
                paths.append(PurePosixPath(member.linkname))
            if any(_leaves(path, links) for path in paths):
                raise RefusedUploadError(f"{member.name!r} leaves the archive")
            if member.issym():
                links.add(paths[0])
        # Debian 12's Python may have no filters yet, and `tar` would change modes.
        trusted = {"filter": "fully_trusted"} if hasattr(tarfile, "tar_filter") else {}
        tar.extractall(target, **trusted)  # type: ignore[arg-type]


def _leaves(path: PurePosixPath, links: set[PurePosixPath]) -> bool:
    return path.is_absolute() or ".." in path.parts or not links.isdisjoint([path, *path.parents])


def uploaded(request: Request) -> Upload:
    """Return the file of a multipart form (its field is `file`)."""
    kind = request.headers.get("content-type", "")
    boundary = re.search(r'boundary="?([^";]+)"?', kind)
    if not kind.startswith("multipart/form-data") or boundary is None:
        raise RefusedUploadError("no file found")
    mark = b"\r\n--" + boundary[1].encode()
    for part in (b"\r\n" + request.body).split(mark)[1:]:
        head, _, data = part.partition(b"\r\n\r\n")
        shown = head.decode("utf-8", "replace")
        name = re.search(r'filename="([^"]*)"', shown)
        if 'name="file"' in shown and name is not None:
            given = request.headers.get("x-original-name") or name[1]
            filename = os.path.basename(given)  # noqa: PTH119 - a name, not a path of ours
            if not filename:
                raise RefusedUploadError("no file selected")
            return Upload(filename, data)
    raise RefusedUploadError("no file found")
