"""The hub as ZOS' two clients read it: its bootstrap (Rust) and its upgrader (Go).

Sources: zos, bootstrap/bootstrap/src/hub.rs; zosbase, pkg/upgrade/hub/hub.go. Both take a list
whole or not at all: one entry that does not fit its type fails it.
"""

from http import HTTPStatus
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from tests.sandbox.node.report import NodeError
from tests.sandbox.node.web import Answer, Web, quoted

_STRICT = ConfigDict(strict=True, frozen=True, extra="ignore")
Seconds = Annotated[int, Field(ge=0, lt=1 << 64)]
_Read = TypeVar("_Read")


class Flist(BaseModel):
    """An entry as serde reads it: md5 may be absent but not null, target may be either."""

    model_config = _STRICT

    kind: Literal["regular", "symlink", "tag", "taglink"] = Field(alias="type")
    updated: Seconds
    md5: str = ""
    name: str
    target: str | None = None


_Text = Annotated[str, BeforeValidator(lambda found: "" if found is None else found)]
_Whole = Annotated[Seconds, BeforeValidator(lambda found: 0 if found is None else found)]


class Package(BaseModel):
    """An entry as encoding/json reads it: whatever is absent or null is empty, any type goes."""

    model_config = _STRICT

    kind: _Text = Field(default="", alias="type")
    updated: _Whole = 0
    md5: _Text = ""
    name: _Text = ""
    target: _Text = ""

    def destination(self, source: str) -> tuple[str, str]:
        """Return repository and name that a link of repository `source` leads to."""
        parts = self.target.split("/")
        if len(parts) == 1:
            return source, self.target
        if len(parts) == 2:
            return parts[0], parts[1]
        raise NodeError(f"{self.name}: the target {self.target!r} is no REPO/F.flist")


def tag_of(name: str, target: str | None) -> tuple[str, str]:
    """Return repository and tag that a taglink leads to; raises NodeError."""
    parts = (target or "").split("/")
    if len(parts) != 3 or parts[1] != "tags":
        raise NodeError(f"taglink {name} leads to {target!r}, which is no REPO/tags/TAG")
    return parts[0], parts[2]


def parsed(answer: Answer, shape: TypeAdapter[_Read]) -> _Read:
    """Return a JSON body in its type; raises NodeError that names the first misfit."""
    try:
        return shape.validate_json(answer.body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        words = f"{first['msg']}, not {first['input']!r:.60}" if place else first["msg"]
        raise NodeError(f"{answer.url}: the node can not read {place or 'it'}: {words}") from error


_FLISTS = TypeAdapter(list[Flist])
_FLIST = TypeAdapter(Flist)


class StageHub:
    """The hub client of ZOS' bootstrap: a new connection for each request, a probe before it."""

    def __init__(self, base: str, web: Web) -> None:
        self._base, self._web = base, web

    def _call(self, path: str) -> Answer:
        probe = self._web.get(f"{self._base}/api/flist")
        if not 200 <= probe.status < 300:
            raise NodeError(f"{probe.url}: {probe.words}: a node passes this hub over")
        return self._web.get(self._base + quoted(path))

    def entries(self, repository: str) -> list[Flist]:
        """Return a repository's entries."""
        return parsed(self._call(f"/api/flist/{repository}").ok(), _FLISTS)

    def tag(self, repository: str, tag: str) -> list[Flist]:
        """Return a tag's entries."""
        answer = self._call(f"/api/flist/{repository}/tags/{tag}")
        if answer.status == HTTPStatus.NOT_FOUND:
            raise NodeError(f"tag {repository}/tags/{tag} is not found")
        return parsed(answer.ok(), _FLISTS)

    def flist(self, repository: str, name: str) -> Flist:
        """Return one entry (`/light`)."""
        return parsed(self._call(f"/api/flist/{repository}/{name}/light").ok(), _FLIST)

    def download(self, path: str) -> bytes:
        """Return a flist's bytes; a download is not probed for."""
        answer = self._web.get(f"{self._base}/{quoted(path)}")
        if not 200 <= answer.status < 300:
            raise NodeError(f"{answer.url}: {answer.words}")
        return answer.body
