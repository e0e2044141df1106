"""What a writable hub lets its users do (0-hub, src/flist-uploader.py: `/api/flist/me/…`)."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.sandbox.services.http import Request, Response
from tests.sandbox.services.hub_api import FLIST, TAG_PREFIX, api_error, api_success, flist_name
from tests.sandbox.services.hub_flist import Workshop, unpack
from tests.sandbox.services.web import Form, Route, json_text, page, secure_filename

_ARCHIVE: Final = ".tar.gz"
_ME: Final = "/api/flist/me"
_METADATA: Final = "metadata-"

# Takes a request, the user's name, and the values of the rule.
Operation = Callable[..., Response]


@dataclass(frozen=True)
class Named:
    """A flist by repository and name, whether it is there or not (HubPublicFlist)."""

    directory: Path
    name: str

    @property
    def place(self) -> Path:
        """The file, or the link."""
        return self.directory / self.name

    @property
    def bare(self) -> Path:
        """Where a taglink of this name would be."""
        return self.directory / self.name.removesuffix(FLIST)

    @property
    def exists(self) -> bool:
        """Whether there is a file or a link, wherever it leads."""
        return self.place.is_file() or self.place.is_symlink()


class HubWrites:
    """The write operations on a directory of repositories."""

    def __init__(self, users: Path, uploads: Path, workshop: Workshop) -> None:
        self._users, self._uploads, self._shop = users, uploads, workshop

    def routes(self, authorized: Callable[[Operation], Callable[..., Response]]) -> list[Route]:
        """Return the rules; `authorized` calls an operation for who may."""
        rules: list[tuple[str, Operation, tuple[str, ...]]] = [
            ("", self._myself, ("GET",)),
            ("/F", self._delete, ("DELETE",)),
            ("/F/link/L", self._link, ("GET",)),
            ("/L/crosslink/REPO/F", self._crosslink, ("GET",)),
            ("/L/crosstag/REPO/T", self._taglink, ("GET",)),
            ("/T/L/tag/REPO/F", self._tag, ("GET",)),
            ("/T/L/tag/REPO/F", self._untag, ("DELETE",)),
            ("/F/rename/F2", self._rename, ("GET",)),
            ("/promote/REPO/F/F2", self._promote, ("GET",)),
            ("/upload", self._upload, ("POST",)),
            ("/upload-flist", self._upload_flist, ("POST",)),
            ("/merge/F", self._merge, ("POST",)),
            ("/docker", self._docker, ("POST",)),
        ]
        return [Route(_ME + rule, authorized(does), methods) for rule, does, methods in rules]

    def _named(self, repository: str, name: str) -> Named:
        return Named(self._users / repository, flist_name(name))

    def _tagged(self, repository: str, tag: str, name: str) -> Named:
        return Named(self._users / repository / (TAG_PREFIX + tag), flist_name(name))

    def _myself(self, _: Request, username: object) -> Response:
        return api_success({"username": username})

    # -- uploads -----------------------------------------------------------------------------

    def _upload(self, request: Request, username: str) -> Response:
        saved = self._saved(request, _ARCHIVE)
        if isinstance(saved, Response):
            return saved
        form, name = Form.of(request), self._name(request, saved)
        flist = self._named(username, name.removesuffix(_ARCHIVE))
        flist.directory.mkdir(exist_ok=True)
        metadata = {
            field.removeprefix(_METADATA): value
            for field, value in form.fields.items()
            if field.startswith(_METADATA)
        }
        with self._shop.workspace() as unpacked, self._shop.flist() as work:
            unpack(saved, unpacked)
            packed = work.create(unpacked, flist.place, metadata)
        saved.unlink()
        return api_success({"name": flist.name, "files": packed})

    def _upload_flist(self, request: Request, username: str) -> Response:
        saved = self._saved(request, FLIST)
        if isinstance(saved, Response):
            return saved
        flist = self._named(username, self._name(request, saved).removesuffix(_ARCHIVE))
        flist.directory.mkdir(exist_ok=True)
        with self._shop.flist() as work:
            checked = work.validate(saved)
        if checked["response"]["failure"] > 0:
            return api_error("unauthorized upload, contents is not fully present on backend", 500)
        shutil.copyfile(saved, flist.place)
        saved.unlink()
        return api_success({"name": flist.name, "files": checked})

    def _saved(self, request: Request, ending: str) -> Path | Response:
        """Save the form's file under a safe name, or refuse it."""
        upload = Form.of(request).files.get("file")
        if upload is None:
            return api_error("no file found", 500)
        if not upload.filename:
            return api_error("no file selected", 500)
        if not upload.filename.endswith(ending):
            return api_error("this file is not allowed", 500)
        place = self._uploads / secure_filename(upload.filename)
        place.write_bytes(upload.data)
        return place

    def _name(self, request: Request, saved: Path) -> str:
        """Return the name that the user chose: the header's, as it is, before the form's."""
        given = request.headers.get("x-original-name")
        return saved.name if given is None else os.path.basename(given)  # noqa: PTH119

    def _merge(self, request: Request, username: str, target: str) -> Response:
        sources = _sources(request, self._named)
        if isinstance(sources, str):
            return api_error(sources, 500)
        flist = self._named(username, target)
        with self._shop.flist() as work:
            merged = work.merge(sources, flist.place)
        return json_text({"status": "success"}, 200 if merged else 500)

    def _docker(self, request: Request, _: str) -> Response:
        """Refuse: there is no Docker here, as there is none in the mirror's hub."""
        if b"image=" not in request.body:
            return api_error("missing docker image name", 400)
        return page(500)

    def _promote(self, _: Request, username: str, repository: str, name: str, new: str) -> Response:
        source, target = self._named(repository, name), self._named(username, new)
        if not source.directory.is_dir():
            return api_error("user not found", 404)
        if not source.exists:
            return api_error("source not found", 404)
        target.directory.mkdir(exist_ok=True)
        if target.place.exists():
            target.place.unlink()  # its own source, too
        shutil.copy(source.place, target.place)
        payload = {
            "source": {"username": repository, "filename": source.name},
            "destination": {"username": username, "filename": target.name},
        }
        return api_success(payload)

    # -- names -------------------------------------------------------------------------------

    def _delete(self, _: Request, username: str, name: str) -> Response:
        flist = self._named(username, name)
        if not flist.directory.is_dir():
            return api_error("user not found", 404)
        if flist.exists:
            flist.place.unlink()
        elif flist.bare.is_symlink():
            flist.bare.unlink()
        else:
            return api_error("source not found", 404)
        return api_success()

    def _rename(self, _: Request, username: str, name: str, new: str) -> Response:
        flist = self._named(username, name)
        if not flist.directory.is_dir():
            return api_error("user not found", 404)
        if not flist.exists:
            return api_error("source not found", 404)
        flist.place.rename(self._named(username, new).place)
        return api_success()

    def _link(self, _: Request, username: str, name: str, link: str) -> Response:
        source = self._named(username, name)
        if not source.directory.is_dir():
            return api_error("user not found", 404)
        return _linked(source, self._named(username, link), source.name)

    def _crosslink(
        self, _: Request, username: str, link: str, repository: str, name: str
    ) -> Response:
        source = self._named(repository, name)
        if not source.directory.is_dir():
            return api_error("source repository not found", 404)
        target = f"../{repository}/{source.name}"
        return _linked(source, self._named(username, link), target)

    def _tag(
        self, _: Request, username: str, tag: str, link: str, repository: str, name: str
    ) -> Response:
        source, tagged = self._named(repository, name), self._tagged(username, tag, link)
        if not source.directory.is_dir():
            return api_error("source repository not found", 404)
        if source.exists:
            tagged.directory.mkdir(exist_ok=True)
        return _linked(source, tagged, f"../../{repository}/{source.name}")

    def _untag(
        self, _: Request, username: str, tag: str, link: str, repository: str, name: str
    ) -> Response:
        source, tagged = self._named(repository, name), self._tagged(username, tag, link)
        if not source.directory.is_dir():
            return api_error("source repository not found", 404)
        if not source.exists:
            return api_error("source not found", 404)
        if not tagged.place.is_symlink():
            return api_error("target not found on this tag", 404)
        tagged.place.unlink()
        if not any(tagged.directory.iterdir()):
            tagged.directory.rmdir()
        return api_success()

    def _taglink(self, _: Request, username: str, link: str, repository: str, tag: str) -> Response:
        if not (self._users / repository / (TAG_PREFIX + tag)).is_dir():
            return api_error("source tag not found", 404)
        if link.endswith(FLIST):
            return api_error("tag symlink cannot ends with .flist", 401)
        place = self._users / username / link
        if (self._users / username / flist_name(link)).exists():
            return api_error("there is a .flist file with the same name existing already", 401)
        return _point(place, f"../{repository}/{TAG_PREFIX}{tag}")


def _linked(source: Named, link: Named, target: str) -> Response:
    if not source.exists:
        return api_error("source not found", 404)
    return _point(link.place, target)


def _point(place: Path, target: str) -> Response:
    if place.is_symlink():
        place.unlink()
    if place.is_file():
        return api_error("link destination is already a file", 401)
    place.symlink_to(target)
    return api_success()


def _sources(request: Request, named: Callable[[str, str], Named]) -> list[str] | str:
    """Return the flists (REPO/F.flist) that a merge names, or why they can not be merged."""
    try:
        given: Any = json.loads(request.body)
    except ValueError:
        given = None
    if not isinstance(given, list):
        return "malformed json request"
    if not given:
        return "no source found"
    if any("/" not in source for source in given):
        return "malformed source filename"
    sources = [flist_name(source) for source in given]
    for source in sources:
        repository, name = source.split("/")[:2]
        if not named(repository, name).exists:
            return f"{source} does not exists"
    return sources
