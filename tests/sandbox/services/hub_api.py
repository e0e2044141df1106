"""0-hub's HTTP API over any tree of repositories (0-hub, src/flist-uploader.py).

Master and mirror share it: the master's tree is a model in memory, the mirror's the disk.
"""

import hashlib
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

from tests.sandbox.services.http import Content, Request, Response, text
from tests.sandbox.services.web import (
    Route,
    Router,
    download,
    gzipped,
    json_text,
    not_found,
    page,
)

FLIST: Final = ".flist"
TAG_PREFIX: Final = ".tag-"
# Any page of anybody may read what the hub answers.
HEADERS: Final = {"Access-Control-Allow-Origin": "*"}


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

    def holds(self, directory: str) -> bool:
        """Return whether there is such a directory."""
        ...

    def names(self, directory: str) -> list[str]:
        """Return the names in a directory that there is, sorted."""
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


class HubApi:
    """What a hub answers to anybody; `routes` are for a hub that answers more."""

    def __init__(self, tree: Tree, options: HubOptions = HubOptions()) -> None:
        self.tree, self.options = tree, options
        self.routes: list[Route] = [
            Route("/api/flist", self._all),
            Route("/api/fileslist", self._fileslist),
            Route("/api/repositories", self._repositories),
            Route("/api/flist/REPO", self._repository),
            Route("/api/flist/REPO/tags/T", self._tag),
            Route("/api/flist/REPO/F/light", self.light),
            Route("/api/flist/REPO/L/taglink", self._taglink),
            Route("/REPO/F.flist", self._file),
            Route("/REPO/tags/T/F.flist", self._tag_file),
            Route("/REPO/F.flist.md5", self._md5),
            Route("/REPO/F.txt", self._text),
            Route("/REPO/F.json", self._broken),
            Route("/REPO/F.md", self._preview),
            Route("/REPO/tags/T", self._tag_page),
            Route("/", _front_page),
            Route("/search", _front_page),
            Route("/REPO", self._user_page),
        ]
        self._router = Router(self.routes, HEADERS)

    def __call__(self, request: Request) -> Response:
        """Answer a request."""
        return self._router(request)

    # -- lists -------------------------------------------------------------------------------

    def _all(self, _: Request) -> Response:
        names = [
            f"{repository}/{name}"
            for repository, _ in self.tree.repositories()
            for name in self.tree.names(repository)
        ]
        return json_text(names)

    def _fileslist(self, request: Request) -> Response:
        document = {
            repository: _entries(self.tree.listing(repository) or [])
            for repository, _ in self.tree.repositories()
        }
        response = json_text(document)
        if self.options.fileslist_conditional:
            response = _with_digest(request, response)
        return gzipped(request, response) if self.options.fileslist_gzip else response

    def _repositories(self, _: Request) -> Response:
        official = self.options.official
        return json_text(
            [
                {"name": name, "official": name in official, "updated": modified}
                for name, modified in self.tree.repositories()
            ]
        )

    def _repository(self, _: Request, repository: str) -> Response:
        listing = self.tree.listing(repository)
        return not_found() if listing is None else json_text(_entries(listing))

    def _tag(self, _: Request, repository: str, tag: str) -> Response:
        listing = self.tree.listing(f"{repository}/{TAG_PREFIX}{tag}")
        if listing is None:
            return not_found()
        return json_text(_entries([entry for entry in listing if entry.kind == "symlink"]))

    # -- one flist ---------------------------------------------------------------------------

    def found(self, repository: str, name: str) -> Entry | Response:
        """Return a flist's or link's entry, else the API's refusal."""
        if not self.tree.holds(repository):
            return api_error("user not found", 404)
        entry = self.tree.entry(repository, flist_name(name))
        if entry is None or entry.kind == "directory":
            return api_error("source not found", 404)
        return entry

    def light(self, _: Request, repository: str, name: str) -> Response:
        """Answer with what is known of a flist without opening it."""
        entry = self.found(repository, name)
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
        return json_text(described)

    def _taglink(self, _: Request, repository: str, name: str) -> Response:
        if not self.tree.holds(repository):
            return api_error("user not found", 404)
        entry = self.tree.entry(repository, flist_name(name).removesuffix(FLIST))
        if entry is None or entry.kind != "symlink":
            return api_error("source not found", 404)
        return json_text({"target": cleaned(entry.target)})

    def _file(self, request: Request, repository: str, name: str) -> Response:
        return self._download(request, repository, flist_name(name))

    def _tag_file(self, request: Request, repository: str, tag: str, name: str) -> Response:
        return self._download(request, f"{repository}/{TAG_PREFIX}{tag}", flist_name(name))

    def _download(self, request: Request, directory: str, name: str) -> Response:
        content = self.tree.content(directory, name)
        if content is None:
            return not_found()
        etag = f"{content.modified}-{content.size}" if self.options.etag else None
        return download(request, content, name, etag)

    def _md5(self, _: Request, repository: str, name: str) -> Response:
        digest = self.tree.digest(repository, flist_name(name))
        return not_found() if digest is None else text(digest + "\n", kind="text/plain")

    def _text(self, _: Request, repository: str, name: str) -> Response:
        entry = self.found(repository, name)
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
        return page(404 if isinstance(self.found(repository, name), Response) else 500)

    # -- pages -------------------------------------------------------------------------------

    def _preview(self, _: Request, repository: str, name: str) -> Response:
        found = not isinstance(self.found(repository, name), Response)
        return page(200 if found else 404)

    def _user_page(self, _: Request, repository: str) -> Response:
        return page(200 if self.tree.holds(repository) else 404)

    def _tag_page(self, _: Request, repository: str, tag: str) -> Response:
        return page(200 if self.tree.holds(f"{repository}/{TAG_PREFIX}{tag}") else 404)


def _front_page(_: Request) -> Response:
    return page(200)


def flist_name(name: str) -> str:
    """Return a flist's file name; the API takes it with or without `.flist`."""
    return name if name.endswith(FLIST) else name + FLIST


def cleaned(target: str) -> str:
    """Return a link's target as the API shows it (clean_symlink)."""
    return target.replace("../", "").replace(TAG_PREFIX, "tags/")


def api_error(message: str, status: int) -> Response:
    """Answer with the API's error document."""
    return json_text({"status": "error", "message": message}, status)


def api_success(payload: dict[str, Any] | None = None) -> Response:
    """Answer with the API's success document."""
    return json_text({"status": "success", **({"payload": payload} if payload else {})})


def _with_digest(request: Request, response: Response) -> Response:
    etag = hashlib.sha256(response.content.read()).hexdigest()[:32]
    if f'"{etag}"' in request.headers.get("if-none-match", ""):
        return Response(304, {"ETag": f'"{etag}"'})
    response.headers["ETag"] = f'"{etag}"'
    return response


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
