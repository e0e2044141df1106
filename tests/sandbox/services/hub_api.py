"""0-hub's HTTP API over any tree of repositories (0-hub, src/flist-uploader.py).

Master and mirror share it: the master's tree is a model in memory, the mirror's the disk.
"""

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

from tests.sandbox.flist import Flist, FormatError
from tests.sandbox.services.http import (
    Content,
    Request,
    Response,
    download,
    gzipped,
    not_found,
    text,
)

FLIST: Final = ".flist"
TAG_PREFIX: Final = ".tag-"


@dataclass(frozen=True)
class Entry:
    """A name in a directory as lstat and stat see it; sizes in bytes, times in seconds.

    size, modified: of what a link leads to, if it leads anywhere. target: a link's text.
    """

    name: str
    kind: Literal["regular", "symlink", "directory"]
    size: int
    modified: int
    link_modified: int = 0
    target: str = ""


class Tree(Protocol):
    """The directory of repositories. A directory is `REPO` or `REPO/.tag-T`."""

    def repositories(self) -> list[tuple[str, int]]:
        """Name and modification time of each repository, sorted by name."""
        ...

    def listing(self, directory: str) -> list[Entry] | None:
        """Return the entries of a directory sorted by name; None where there is none."""
        ...

    def entry(self, directory: str, name: str) -> Entry | None:
        """Return one entry, None where there is none."""
        ...

    def content(self, directory: str, name: str) -> Content | None:
        """Return the content of a file, links followed; None where there is none."""
        ...

    def digest(self, directory: str, name: str) -> str | None:
        """Return the hex MD5 of a file, links followed; None where there is none."""
        ...


@dataclass(frozen=True)
class HubOptions:
    """What differs between hubs.

    official: repositories marked so. etag: newer Flask sends one. fileslist_conditional and
    fileslist_gzip: what a hub may offer beyond upstream. backend: shown by .txt.
    """

    official: tuple[str, ...] = ()
    etag: bool = False
    fileslist_conditional: bool = False
    fileslist_gzip: bool = False
    website: str = "https://hub.grid.tf"
    backend: str = "zdb://hub.grid.tf:9900"


Handler = Callable[..., Response]


class HubApi:
    """Answers what a hub answers to anybody."""

    def __init__(self, tree: Tree, options: HubOptions = HubOptions()) -> None:
        self.tree, self.options = tree, options
        name = r"([^/]+)"
        self._routes: list[tuple[str, re.Pattern[str], Handler]] = [
            (label, re.compile(pattern.replace("NAME", name)), handler)
            for label, pattern, handler in (
                ("/api/flist", "/api/flist", self._all),
                ("/api/fileslist", "/api/fileslist", self._fileslist),
                ("/api/repositories", "/api/repositories", self._repositories),
                ("/api/flist/me", "/api/flist/me(?:/.*)?", self._me),
                ("/api/flist/REPO/tags/T", "/api/flist/NAME/tags/NAME", self._tag),
                ("/api/flist/REPO/F/light", "/api/flist/NAME/NAME/light", self._light),
                ("/api/flist/REPO/L/taglink", "/api/flist/NAME/NAME/taglink", self._taglink),
                ("/api/flist/REPO/F/metadata", "/api/flist/NAME/NAME/metadata", self._metadata),
                ("/api/flist/REPO", "/api/flist/NAME", self._repository),
                ("/api/flist/REPO/F", "/api/flist/NAME/NAME", self._inspect),
                ("/REPO/F.flist.md5", r"/NAME/([^/]*)\.flist\.md5", self._md5),
                ("/REPO/tags/T/F.flist", r"/NAME/tags/NAME/([^/]*)\.flist", self._tag_file),
                ("/REPO/F.flist", r"/NAME/([^/]*)\.flist", self._file),
                ("/REPO/F.txt", r"/NAME/([^/]*)\.txt", self._text),
                ("/REPO/F.json", r"/NAME/([^/]*)\.json", self._broken),
                ("/REPO/tags/T", "/NAME/tags/NAME", self._tag_page),
                ("/search", "/search", self._front_page),
                ("/readonly", "/readonly", self._front_page),
                ("/REPO", "/NAME", self._user_page),
                ("/", "/", self._front_page),
            )
        ]

    def __call__(self, request: Request) -> Response:
        """Answer a request."""
        if request.method not in {"GET", "HEAD"}:
            return text("<title>405 Method Not Allowed</title>", 405)
        path = request.path.rstrip("/") or "/"
        for label, pattern, handler in self._routes:
            if match := pattern.fullmatch(path):
                return cors(handler(request, *match.groups())).at(label)
        return cors(not_found()).at("404")

    # -- lists -------------------------------------------------------------------------------

    def _all(self, _: Request) -> Response:
        names = [
            f"{repository}/{entry.name}"
            for repository, _ in self.tree.repositories()
            for entry in self.tree.listing(repository) or []
        ]
        return _json(names)

    def _fileslist(self, request: Request) -> Response:
        document = {
            repository: _entries(self.tree.listing(repository) or [])
            for repository, _ in self.tree.repositories()
        }
        response = _json(document)
        if self.options.fileslist_conditional:
            response = _with_digest(request, response)
        return gzipped(request, response) if self.options.fileslist_gzip else response

    def _repositories(self, _: Request) -> Response:
        official = self.options.official
        return _json(
            [
                {"name": name, "official": name in official, "updated": modified}
                for name, modified in self.tree.repositories()
            ]
        )

    def _repository(self, _: Request, repository: str) -> Response:
        listing = self.tree.listing(repository)
        return not_found() if listing is None else _json(_entries(listing))

    def _tag(self, _: Request, repository: str, tag: str) -> Response:
        listing = self.tree.listing(f"{repository}/{TAG_PREFIX}{tag}")
        if listing is None or self.tree.listing(repository) is None:
            return not_found()
        return _json(_entries([entry for entry in listing if entry.kind == "symlink"]))

    def _me(self, _: Request) -> Response:
        return api_error("no authorization provided", 401)

    # -- one flist ---------------------------------------------------------------------------

    def _found(self, repository: str, name: str) -> Entry | Response:
        if self.tree.listing(repository) is None:
            return api_error("user not found", 404)
        entry = self.tree.entry(repository, flist_name(name))
        if entry is None or entry.kind == "directory":
            return api_error("source not found", 404)
        return entry

    def _light(self, _: Request, repository: str, name: str) -> Response:
        entry = self._found(repository, name)
        if isinstance(entry, Response):
            return entry
        described: dict[str, Any] = {
            "name": entry.name,
            "size": entry.size,
            "updated": entry.modified,
            "type": entry.kind,
            "md5": self.tree.digest(repository, entry.name),
        }
        if entry.kind == "symlink":
            described["linktime"] = entry.link_modified
            described["target"] = entry.target
        return _json(described)

    def _taglink(self, _: Request, repository: str, name: str) -> Response:
        if self.tree.listing(repository) is None:
            return api_error("user not found", 404)
        entry = self.tree.entry(repository, flist_name(name).removesuffix(FLIST))
        if entry is None or entry.kind != "symlink":
            return api_error("source not found", 404)
        return _json({"target": cleaned(entry.target)})

    def _metadata(self, _: Request, repository: str, name: str) -> Response:
        flist = self._opened(repository, name)
        if isinstance(flist, Response):
            return flist
        return _json({name: _parsed(value) for name, value in flist.metadata.items()})

    def _inspect(self, _: Request, repository: str, name: str) -> Response:
        flist = self._opened(repository, name)
        if isinstance(flist, Response):
            return flist
        content = [
            {"path": f"/{directory.path}/{inode.name}".replace("//", "/"), "size": inode.size}
            for directory in flist.walk()
            for inode in directory.inodes
        ]
        return _json({"content": content})

    def _opened(self, repository: str, name: str) -> Flist | Response:
        entry = self._found(repository, name)
        if isinstance(entry, Response):
            return entry
        content = self.tree.content(repository, entry.name)
        try:
            return Flist.decode(b"" if content is None else content.read())
        except FormatError:
            return text("<title>500 Internal Server Error</title>", 500)

    def _file(self, request: Request, repository: str, name: str) -> Response:
        return self._download(request, repository, name + FLIST)

    def _tag_file(self, request: Request, repository: str, tag: str, name: str) -> Response:
        return self._download(request, f"{repository}/{TAG_PREFIX}{tag}", name + FLIST)

    def _download(self, request: Request, directory: str, name: str) -> Response:
        content = self.tree.content(directory, name)
        if content is None:
            return not_found()
        etag = f"{content.modified}-{content.size}" if self.options.etag else None
        return download(request, content, name, etag)

    def _md5(self, _: Request, repository: str, name: str) -> Response:
        digest = self.tree.digest(repository, name + FLIST)
        return not_found() if digest is None else text(digest + "\n", kind="text/plain")

    def _text(self, _: Request, repository: str, name: str) -> Response:
        entry = self._found(repository, name)
        if isinstance(entry, Response):
            return not_found()
        digest = self.tree.digest(repository, entry.name)
        body = (
            f"File:     {entry.name}\nUploader: {repository}\n"
            f"Source:   {self.options.website}/{repository}/{entry.name}\n"
            f"Storage:  {self.options.backend}\nChecksum: {digest}\n"
        )
        return text(body, kind="text/plain")

    def _broken(self, _: Request, repository: str, name: str) -> Response:
        entry = self._found(repository, name)
        if isinstance(entry, Response):
            return not_found()
        return text("<title>500 Internal Server Error</title>", 500)

    # -- pages -------------------------------------------------------------------------------

    def _front_page(self, _: Request) -> Response:
        return text("<!doctype html><title>Zero-OS Hub</title><h1>Zero-OS Hub</h1>\n")

    def _user_page(self, _: Request, repository: str) -> Response:
        if self.tree.listing(repository) is None:
            return not_found()
        return text("<!doctype html><title>Zero-OS Hub</title><h1>Repository</h1>\n")

    def _tag_page(self, _: Request, repository: str, tag: str) -> Response:
        if self.tree.listing(f"{repository}/{TAG_PREFIX}{tag}") is None:
            return not_found()
        return text("<!doctype html><title>Zero-OS Hub</title><h1>Tag</h1>\n")


def cors(response: Response) -> Response:
    """Let any page read the response, as the hub does."""
    response.headers["Access-Control-Allow-Origin"] = "*"
    return response


def flist_name(name: str) -> str:
    """Return a flist's file name; the API takes it with or without `.flist`."""
    return name if name.endswith(FLIST) else name + FLIST


def cleaned(target: str) -> str:
    """Return a link's target as the API shows it (clean_symlink)."""
    return target.replace("../", "").replace(TAG_PREFIX, "tags/")


def api_error(message: str, status: int) -> Response:
    """Answer with the API's error document."""
    return _json({"status": "error", "message": message}, status)


def api_success(payload: dict[str, Any] | None = None) -> Response:
    """Answer with the API's success document."""
    return _json({"status": "success", **({"payload": payload} if payload else {})})


def _json(document: object, status: int = 200) -> Response:
    return text(json.dumps(document) + "\n", status, "application/json")


def _with_digest(request: Request, response: Response) -> Response:
    etag = hashlib.sha256(response.content.read()).hexdigest()[:32]
    if f'"{etag}"' in request.headers.get("if-none-match", ""):
        return Response(304, {"ETag": f'"{etag}"'})
    response.headers["ETag"] = f'"{etag}"'
    return response


def _parsed(value: str) -> Any:
    """Return a metadata value as zflist does: JSON where it is."""
    try:
        return json.loads(value)
    except ValueError:
        return value


def _kb(size: int) -> str:
    return f"{size / 1024:.2f} KB"


def _entries(listing: list[Entry]) -> list[dict[str, Any]]:
    return [shown for entry in listing if (shown := _shown(entry)) is not None]


def _shown(entry: Entry) -> dict[str, Any] | None:
    if entry.kind == "directory":
        if not entry.name.startswith(TAG_PREFIX):
            return None
        name = entry.name.removeprefix(TAG_PREFIX)
        return {"name": name, "size": "0 KB", "updated": entry.modified, "type": "tag"}
    shown: dict[str, Any] = {
        "name": entry.name,
        "size": _kb(entry.size),
        "updated": entry.modified,
    }
    if entry.kind == "regular":
        return {**shown, "type": "regular"}
    kind = "taglink" if "/.tag-" in entry.target else "symlink"
    return {
        **shown,
        "linktime": entry.link_modified,
        "type": kind,
        "target": cleaned(entry.target),
    }
