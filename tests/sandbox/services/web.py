"""What Flask does for upstream's services around their own code.

Sources: Werkzeug 2.0.2, routing.py (Rule, MapAdapter.match), utils.py (send_file,
secure_filename), wrappers/response.py (make_conditional), datastructures.py (Range).
"""

import contextlib
import email.utils
import gzip
import json
import re
import string
import time
import traceback
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Final, Self
from urllib.parse import quote

from tests.sandbox.services.http import Content, Request, Response, text

Handler = Callable[..., Response]
# Rules name their variables in capitals, `/REPO/F.flist`; PATH may hold slashes.
_VARIABLE: Final = re.compile(r"[A-Z]+\d?")
_KINDS: Final = {"efi": "application/efi", "txt": "text/plain; charset=utf-8"}
_TOKEN: Final = frozenset(string.ascii_letters + string.digits + "!#$%&'*+-.^_`|~")


# -- answers -----------------------------------------------------------------------------------


def page(status: int, **headers: str) -> Response:
    """Answer with Werkzeug's page of a status."""
    phrase = HTTPStatus(status).phrase
    body = f"<!doctype html>\n<title>{status} {phrase}</title>\n<h1>{phrase}</h1>\n"
    return text(body, status, **headers)


def not_found() -> Response:
    """Answer as Flask does where no route or no file is."""
    return page(404)


def json_text(document: object, status: int = 200) -> Response:
    """Answer with a document as upstream's own json.dumps writes it."""
    return text(json.dumps(document) + "\n", status, "application/json")


def jsonify(document: object, status: int = 200) -> Response:
    """Answer with a document as Flask's jsonify writes it: compact, keys sorted."""
    compact = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return text(compact + "\n", status, "application/json")


def gzipped(request: Request, response: Response) -> Response:
    """Compress a response where the client takes gzip."""
    if "gzip" not in request.headers.get("accept-encoding", ""):
        return response
    packed = gzip.compress(response.content.read(), compresslevel=5, mtime=0)
    headers = {**response.headers, "Content-Encoding": "gzip", "Vary": "Accept-Encoding"}
    return replace(response, headers=headers, content=Content(0.0, packed))


# -- routes ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Route:
    """A rule, the methods that it takes (HEAD with GET), and who answers them."""

    rule: str
    handler: Handler
    methods: Sequence[str] = ("GET",)
    pattern: re.Pattern[str] = field(init=False)

    def __post_init__(self) -> None:
        parts = _VARIABLE.split(self.rule)
        names = [r"([^/].*?)" if name == "PATH" else r"([^/]+)" for name in self.variables]
        fixed = [re.escape(part).replace("/", "/+") for part in parts]
        whole = "".join(a + b for a, b in zip(fixed, [*names, ""], strict=True))
        object.__setattr__(self, "pattern", re.compile(whole + r"(?:(?<!/)/+)?", re.DOTALL))

    @property
    def variables(self) -> list[str]:
        """The variables' names in order."""
        return _VARIABLE.findall(self.rule)

    @property
    def allowed(self) -> set[str]:
        """Every method that the rule answers."""
        return {*self.methods, "OPTIONS", *(["HEAD"] if "GET" in self.methods else [])}

    def built(self, values: Sequence[str]) -> str:
        """Return the path with each run of slashes as one."""
        remaining = iter(values)
        return _VARIABLE.sub(lambda _: next(remaining), self.rule)


class Router:
    """Answers a request by the first rule that fits path and method.

    headers: added to every answer.
    """

    def __init__(self, routes: Sequence[Route], headers: Mapping[str, str] | None = None) -> None:
        self._routes, self._headers = list(routes), dict(headers or {})

    def __call__(self, request: Request) -> Response:
        """Answer a request."""
        response = self._answer(request)
        response.headers.update(self._headers)
        return response

    def _answer(self, request: Request) -> Response:
        path = "/" + request.path.lstrip("/")
        allowed: set[str] = set()
        for route in self._routes:
            match = route.pattern.fullmatch(path)
            if match is None:
                continue
            single = route.built(match.groups()) + (
                "/" if path.endswith("/") and path != "/" else ""
            )
            if single.count("/") < path.count("/"):
                return _redirected(request, single).at(route.rule)
            if request.method in route.allowed - {"OPTIONS"}:
                return handled(route.handler, request, *match.groups()).at(route.rule)
            allowed |= route.allowed
        if not allowed:
            return not_found().at("404")
        listed = ", ".join(sorted(allowed))
        if request.method == "OPTIONS":
            return text("", Allow=listed)
        return page(405, Allow=listed)


def handled(handler: Handler, request: Request, *values: str) -> Response:
    """Call a handler; what it raises becomes Flask's 500, and is told in the log as by Flask."""
    try:
        return handler(request, *values)
    except Exception:  # noqa: BLE001 - upstream's own mistakes are recorded as 500, too
        traceback.print_exc()
        return page(500)


def _redirected(request: Request, path: str) -> Response:
    """Send elsewhere with an absolute URL, as Werkzeug writes every Location."""
    return page(308, Location=absolute(request, path))


def absolute(request: Request, path: str) -> str:
    """Return a path of this server as a whole URL (the server itself speaks plain http)."""
    return f"http://{request.headers.get('host', 'localhost')}{quote(path, safe='/:+&')}"


# -- files -------------------------------------------------------------------------------------


def download(
    request: Request,
    content: Content,
    name: str,
    etag: str | None = None,
    max_age_seconds: int | None = None,
) -> Response:
    """Answer with a file: 200, 304 (If-None-Match, If-Modified-Since), 206 or 416 (Range).

    max_age_seconds: how long a client may keep it; Flask 1 says so, and names no file.
    """
    headers = {
        "Content-Disposition": _disposition(name),
        "Content-Type": _KINDS.get(name.rpartition(".")[2], "application/octet-stream"),
        "Last-Modified": email.utils.formatdate(int(content.modified), usegmt=True),
        "Cache-Control": "no-cache",
    }
    if etag is not None:
        headers["ETag"] = f'"{etag}"'
    if max_age_seconds is not None:
        del headers["Content-Disposition"]
        headers["Cache-Control"] = f"public, max-age={max_age_seconds}"
        headers["Expires"] = email.utils.formatdate(time.time() + max_age_seconds, usegmt=True)
    span = request.headers.get("range")
    if span is not None and content.size and _range_holds(request, content, etag):
        return _part(span, content, headers)
    if _unchanged(request, content, etag):
        left = {"Content-Type", "Last-Modified"}
        return Response(304, {key: headers[key] for key in headers if key not in left})
    return Response(200, headers, content)


def _part(span: str, content: Content, headers: dict[str, str]) -> Response:
    part = _range(span, content.size)
    if part is None:
        return page(416, Content_Range=f"bytes */{content.size}")
    start, length = part
    headers["Content-Range"] = f"bytes {start}-{start + length - 1}/{content.size}"
    headers["Accept-Ranges"] = "bytes"
    return Response(206, headers, content, start, length)


def _disposition(name: str) -> str:
    if name.isascii():
        return f"inline; filename={_quoted(name)}"
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    encoded = quote(name, safe="$!'()*+,;", errors="replace")
    return f"inline; filename={_quoted(plain)}; filename*=UTF-8''{encoded}"


def _quoted(value: str) -> str:
    if value and _TOKEN.issuperset(value):
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _unchanged(request: Request, content: Content, etag: str | None) -> bool:
    known = request.headers.get("if-none-match")
    if known is not None and etag is not None:
        return f'"{etag}"' in known or known.strip() == "*"
    since = _seconds(request.headers.get("if-modified-since"))
    return since is not None and int(content.modified) <= since


def _range_holds(request: Request, content: Content, etag: str | None) -> bool:
    condition = request.headers.get("if-range")
    if condition is None:
        return True
    if condition.startswith('"'):
        return condition == f'"{etag}"'
    since = _seconds(condition)
    return since is not None and int(content.modified) <= since


def _seconds(date: str | None) -> int | None:
    if date is None:
        return None
    with contextlib.suppress(ValueError, TypeError, IndexError):
        return int(email.utils.parsedate_to_datetime(date).timestamp())
    return None


def _range(span: str, size: int) -> tuple[int, int] | None:
    """Return start and length of the one `bytes=` range; None where it can not be satisfied."""
    unit, equals, wanted = span.partition("=")
    first, dash, last = (part.strip() for part in wanted.strip().partition("-"))
    if unit.strip().lower() != "bytes" or not equals or not dash or "," in wanted:
        return None
    try:
        start = int(first) if first else -int(last)
        end = int(last) + 1 if first and last else size
    except ValueError:
        return None
    if start < 0:
        start += size
    return (start, min(end, size) - start) if 0 <= start < min(end, size) else None


# -- forms -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Upload:
    """A file of a form; filename: as the client gave it."""

    filename: str
    data: bytes


@dataclass(frozen=True)
class Form:
    """A multipart/form-data body: texts and files by field."""

    fields: dict[str, str] = field(default_factory=dict)
    files: dict[str, Upload] = field(default_factory=dict)

    @classmethod
    def of(cls, request: Request) -> Self:
        """Read a request's form; another body is an empty form."""
        form = cls()
        kind = request.headers.get("content-type", "")
        boundary = re.search(r'boundary="?([^";]+)"?', kind)
        if not kind.startswith("multipart/form-data") or boundary is None:
            return form
        mark = b"\r\n--" + boundary[1].encode()
        for part in (b"\r\n" + request.body).split(mark)[1:]:
            head, _, data = part.partition(b"\r\n\r\n")
            form._add(head.decode("utf-8", "replace"), data)
        return form

    def _add(self, head: str, data: bytes) -> None:
        name = re.search(r';\s*name="([^"]*)"', head)
        filename = re.search(r';\s*filename="([^"]*)"', head)
        if name is None:
            return
        if filename is None:
            self.fields[name[1]] = data.decode("utf-8", "replace")
        else:
            self.files[name[1]] = Upload(filename[1], data)


def secure_filename(name: str) -> str:
    """Return a name as Werkzeug makes it safe: ASCII, no separators, no leading dots."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    joined = "_".join(plain.replace("/", " ").split())
    return re.sub(r"[^A-Za-z0-9_.-]", "", joined).strip("._")


def cookie(request: Request, name: str) -> str | None:
    """Return a cookie's value."""
    for pair in request.headers.get("cookie", "").split(";"):
        key, _, value = pair.strip().partition("=")
        if key == name:
            return value
    return None
