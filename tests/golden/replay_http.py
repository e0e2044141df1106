"""Replays the recorded requests of hub.json.gz and bootstrap.json.gz and says what differs.

The recordings' format is described in tests/golden/services/README.md. A request is made byte for
byte as it was recorded; of its answer the recorded headers, JSON, texts and digests are compared,
of an HTML page only that there is one.
"""

import base64
import calendar
import email.utils
import gzip
import hashlib
import http.client
import json
import os
import re
import shutil
import time
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

SERVICES: Final = Path(__file__).parent / "services"
_HEADERS: Final = (
    "content-type",
    "content-length",
    "last-modified",
    "content-range",
    "accept-ranges",
    "etag",
    "cache-control",
    "expires",
    "content-disposition",
    "location",
    "access-control-allow-origin",
    "content-encoding",
    "allow",
    "set-cookie",
    "vary",
    "transfer-encoding",
)
_BOUNDARY: Final = "golden-boundary-7f3a"
_ROOT: Final = "/public"  # where the recorded hub kept its folder; a link of it is absolute
_ECHOED: Final = ("echo Release", "echo Farm", "echo Param")
_EXPIRES_SECONDS: Final = 43200
_SHOWN_BYTES: Final = 3000

Json = dict[str, Any]


@dataclass(frozen=True)
class Recording:
    """A file of recordings: its document, and its groups of requests by name."""

    document: Json

    @classmethod
    def of(cls, service: str) -> "Recording":
        """Read the recording of a service."""
        return cls(json.loads(gzip.decompress((SERVICES / f"{service}.json.gz").read_bytes())))

    def group(self, name: str) -> Json:
        """Return a group."""
        found: Json = next(group for group in self.document["groups"] if group["name"] == name)
        return found

    def content(self, described: Json) -> bytes:
        """Return the bytes that a request or a file is described to hold."""
        if "flist" in described:
            return (SERVICES / "flists" / f"{described['flist']}.flist").read_bytes()
        if "text" in described:
            return str(described["text"]).encode("latin-1")
        if "payload" in described:
            seed, size = described["payload"]
            blocks = (f"{seed}:{number}".encode() for number in range((size + 31) // 32))
            return b"".join(hashlib.sha256(block).digest() for block in blocks)[:size]
        return base64.b64decode(self.document["archives"][described["archive"]])

    def prepare(self, group: Json, folder: Path) -> None:
        """Make the folder that a group starts with, with the recorded times."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for item in group["tree"]:
            place = folder / item["path"]
            if item["type"] == "directory":
                place.mkdir(exist_ok=True)
            elif item["type"] == "link":
                absolute = item["target"].startswith(f"{_ROOT}/")
                target = str(folder) + item["target"][len(_ROOT) :] if absolute else item["target"]
                place.symlink_to(target)
            else:
                place.write_bytes(self.content(item["content"]))
        for item in reversed(group["tree"]):
            when = item.get("mtime", 1600000000)
            os.utime(folder / item["path"], (when, when), follow_symlinks=False)


@dataclass(frozen=True)
class Difference:
    """A request whose answer is not the recorded one."""

    number: int
    request: Json
    wanted: Json
    got: Json

    def __str__(self) -> str:
        request = self.request
        headers = json.dumps(request.get("headers", {}))
        lines = [f"{self.number} {request['method']} {request['path']} {headers}"]
        for key in sorted({*self.wanted, *self.got}):
            wanted, got = self.wanted.get(key), self.got.get(key)
            if not same(wanted, got):
                lines += [f"   {key}: recorded {_cut(wanted)}", f"   {key}: received {_cut(got)}"]
        return "\n".join(lines)


def _cut(value: object) -> str:
    return json.dumps(value)[:500]


@dataclass
class Replay:
    """What a replay found: how many answers were compared, and which differ."""

    compared: int = 0
    differences: list[Difference] = field(default_factory=list)


def replay(
    recording: Recording,
    group: Json,
    url: str,
    folder: Path,
    skipped: Callable[[Json], bool] = lambda _: False,
) -> Replay:
    """Ask a server for everything that a group asked; its folder was prepared.

    skipped: tells of a recorded request that it is not to be made.
    """
    result = Replay()
    for number, exchange, got in answers(recording, group, url, folder, skipped):
        result.compared += 1
        if not same(exchange["answer"], got):
            result.differences.append(
                Difference(number, exchange["request"], exchange["answer"], got)
            )
    if "tree at the end" in group:
        result.compared += 1
        wanted, left = group["tree at the end"], tree_of(folder)
        if left != wanted:
            end = ({"tree": wanted}, {"tree": left})
            request = {"method": "", "path": "the tree at the end"}
            result.differences.append(Difference(-1, request, *end))
    return result


def answers(
    recording: Recording,
    group: Json,
    url: str,
    folder: Path,
    skipped: Callable[[Json], bool] = lambda _: False,
) -> Iterator[tuple[int, Json, Json]]:
    """Yield number and exchange of each request of a group, and what a server answers now."""
    client = _Client(recording, url, folder, group)
    for number, exchange in enumerate(group["exchanges"]):
        if not skipped(exchange["request"]):
            yield number, exchange, client.answer(exchange)


def same(wanted: Any, got: Any) -> bool:
    """Return whether a recorded value allows what was received."""
    if isinstance(wanted, dict) and "any" in wanted:
        return got is not None
    if isinstance(wanted, dict) and isinstance(got, dict):
        return set(wanted) == set(got) and all(same(wanted[key], got[key]) for key in wanted)
    if isinstance(wanted, list) and isinstance(got, list):
        pairs = zip(wanted, got, strict=False)
        return len(wanted) == len(got) and all(same(a, b) for a, b in pairs)
    return bool(wanted == got)


def tree_of(folder: Path) -> dict[str, str]:
    """Return what a folder holds: names, and of links the targets."""
    return dict(_walked(folder, "", str(folder)))


def _walked(folder: Path, shown: str, root: str) -> Iterator[tuple[str, str]]:
    for place in sorted(folder.iterdir()):
        label = shown + place.name
        if place.is_symlink():
            yield label, f"-> {place.readlink()}".replace(root, _ROOT)
        elif place.is_dir():
            yield f"{label}/", "directory"
            yield from _walked(place, f"{label}/", root)
        else:
            yield label, "file"


@cache
def _known() -> frozenset[object]:
    """Return sizes and digests that are certain; those of a flist packed just now vary."""
    known: set[object] = {0, "0.00 KB", "0 KB", "4.00 KB", None}
    for path in (SERVICES / "flists").glob("*.flist"):
        data = path.read_bytes()
        digest = hashlib.md5(data, usedforsecurity=False).hexdigest()
        known |= {len(data), f"{len(data) / 1024:.2f} KB", digest}
    return frozenset(known)


class _Client:
    """Asks a server and shows its answers as they were recorded."""

    def __init__(self, recording: Recording, url: str, folder: Path, group: Json) -> None:
        self._recording, self._folder = recording, folder
        self._url, self._place = url, urllib.parse.urlsplit(url)
        self._begin = int(time.time())
        self._watch, self._listing = bool(group.get("watch")), group.get("listing")
        self._tree: dict[str, str] = tree_of(folder)
        self._listed: Json = {}

    def answer(self, exchange: Json) -> Json:
        """Make a request; return its answer and what it changed."""
        if self._watch:
            _tick(self._folder)
        shown = self._shown(*self._ask(exchange["request"]), exchange.get("facts", ()))
        if self._watch:
            shown |= self._changes()
        return shown

    # -- the request -------------------------------------------------------------------------

    def _ask(self, request: Json) -> tuple[int, dict[str, str], bytes]:
        host = str(self._place.hostname)
        connection = http.client.HTTPConnection(host, self._place.port, timeout=120)
        body, headers = self._body(request)
        path, method = request["path"], request["method"]
        own_host = "Host" in headers
        connection.putrequest(method, path, skip_host=own_host, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name, value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        try:
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return self._at_root(answer.status, found, answer.read())
        finally:
            connection.close()

    def _at_root(
        self, status: int, headers: dict[str, str], data: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        """Show the absolute link as it was recorded."""
        folder = str(self._folder).encode()
        if folder in data and "json" in headers.get("content-type", ""):
            data = data.replace(folder, _ROOT.encode())
            headers["content-length"] = str(len(data))
        return status, headers, data

    def _body(self, request: Json) -> tuple[bytes | None, dict[str, str]]:
        body, headers = request.get("body"), dict(request.get("headers", {}))
        if body is None:
            return None, headers
        if "json" in body:
            return json.dumps(body["json"]).encode(), headers
        if "form" not in body:
            return self._recording.content(body), headers
        headers.setdefault("Content-Type", f"multipart/form-data; boundary={_BOUNDARY}")
        parts = b"".join(self._part(part) for part in body["form"])
        return parts + f"--{_BOUNDARY}--\r\n".encode(), headers

    def _part(self, part: Json) -> bytes:
        head = f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{part["name"]}"'
        if "filename" in part:
            head += f'; filename="{part["filename"]}"\r\nContent-Type: application/octet-stream'
        return f"{head}\r\n\r\n".encode() + self._recording.content(part["content"]) + b"\r\n"

    # -- the answer --------------------------------------------------------------------------

    def _shown(
        self, status: int, headers: dict[str, str], data: bytes, facts: Sequence[str]
    ) -> Json:
        kept: Json = {name: headers[name] for name in _HEADERS if name in headers}
        self._neutral(kept)
        answer: Json = {"status": status, "headers": kept}
        kind = headers.get("content-type", "")
        if "html" in kind:
            kept.pop("content-length", None)
            answer["page"] = {"empty": not data}
            if facts:
                found = {fact: bool(re.search(fact.encode(), data)) for fact in facts}
                answer["page"]["contains"] = found
        elif "json" in kind and data:
            answer["json"] = self._times(json.loads(data))
            if '"any"' in json.dumps(answer["json"]):
                kept["content-length"] = {"any": "length"}
        elif data.startswith(b"#!ipxe"):
            kept.pop("content-length", None)
            answer["script"] = self._script(data)
        elif "json" in kind or (kind.startswith("text/plain") and len(data) < _SHOWN_BYTES):
            answer |= _text(data)
        elif data:
            answer["file"] = _digested(data)
        return answer

    def _neutral(self, kept: Json) -> None:
        """Take out of headers what differs from run to run."""
        if "allow" in kept:
            kept["allow"] = ", ".join(sorted(kept["allow"].split(", ")))
        if kept.get("location", "").startswith(self._url):
            kept["location"] = "<url>" + kept["location"][len(self._url) :]
        for name, later in (("last-modified", 0), ("expires", _EXPIRES_SECONDS)):
            if name in kept:
                moment = email.utils.parsedate_to_datetime(kept[name]).timestamp()
                if self._is_now(moment - later) or self._is_now(moment):
                    kept[name] = {"any": "time"}
        if "etag" in kept:
            kept["etag"] = re.sub(r'^"(-?[0-9.]+-[0-9]+)-[0-9]+"$', r'"\1-<path>"', kept["etag"])
        if "set-cookie" in kept:
            kept["set-cookie"] = {"any": "session"}

    def _script(self, data: bytes) -> Json:
        text = data.decode("utf-8", "surrogateescape")
        lines = text.replace(self._url.partition("://")[2], "<host>").split("\n")
        return {
            "fetches": [line.strip() for line in lines if "://" in line],
            "echoes": [line for line in lines if line.startswith(_ECHOED)],
        }

    def _is_now(self, moment: float) -> bool:
        return self._begin - 3 <= moment <= time.time() + 3

    def _times(self, value: Any) -> Any:
        """Take times of this run, and sizes and digests of what it packed, out of a document."""
        if isinstance(value, dict):
            shown = {key: self._times(one) for key, one in value.items()}
            if shown.get("updated") == {"any": "time"}:
                packed = [key for key in ("size", "md5") if key in shown]
                shown |= {key: {"any": key} for key in packed if shown[key] not in _known()}
            return shown
        if isinstance(value, list):
            return [self._times(one) for one in value]
        if isinstance(value, str) and re.fullmatch(r"[-\d]{10}, [:\d]{8} \(UTC\)", value):
            moment = calendar.timegm(time.strptime(value[:20], "%Y-%m-%d, %H:%M:%S"))
            return {"any": "time"} if self._is_now(moment) else value
        is_number = isinstance(value, int) and not isinstance(value, bool)
        return {"any": "time"} if is_number and self._is_now(value) else value

    def _changes(self) -> Json:
        before, self._tree = self._tree, tree_of(self._folder)
        if self._tree == before:
            return {}
        found: Json = {"changes": _changed(before, self._tree)}
        if self._listing:
            listed, self._listed = self._listed, self._read_listing()
            found["listing changes"] = _changed(listed, self._listed)
        return found

    def _read_listing(self) -> Json:
        _, _, data = self._ask({"method": "GET", "path": self._listing})
        named = ("name", "type")
        return {
            f"{repository}/{entry['name']} ({entry['type']})": {
                key: value for key, value in self._times(entry).items() if key not in named
            }
            for repository, entries in json.loads(data).items()
            for entry in entries
        }


def _tick(folder: Path) -> None:
    """Wait until what is written next is later than what is there: its clock ticks in some ms."""
    probe = folder.with_name("tick")
    probe.touch()
    first = probe.stat().st_mtime_ns
    while probe.stat().st_mtime_ns == first:
        probe.touch()


def _changed(before: Json, after: Json) -> Json:
    keys = sorted({*before, *after})
    return {key: after.get(key) for key in keys if before.get(key) != after.get(key)}


def _text(data: bytes) -> Json:
    try:
        return {"text": data.decode()}
    except UnicodeDecodeError:
        return {"file": _digested(data)}


def _digested(data: bytes) -> Json:
    return {"length": len(data), "sha256": hashlib.sha256(data).hexdigest()}
