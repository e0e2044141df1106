"""Edits of a running master over HTTP: one POST per edit, for a person at a sandbox."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.sandbox.services.http import Request, Response, text
from tests.sandbox.services.web import not_found
from tests.sandbox.upstream.faults import Fault
from tests.sandbox.upstream.servers import Upstream

Fields = dict[str, Any]


class EditError(ValueError):
    """An edit that can not be made; str() says why."""


@dataclass(frozen=True)
class Edit:
    """One edit: its parameters by name with their meaning (a trailing `?`: may be left out)."""

    does: str
    parameters: dict[str, str]
    make: Callable[[Upstream, Fields], str]


class Control:
    """The control API: GET / describes the master, POST /NAME makes an edit."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream

    def __call__(self, request: Request) -> Response:
        """Answer a request."""
        if request.method == "GET" and request.path == "/":
            return _json(200, summary(self._upstream))
        edit = EDITS.get(request.path.strip("/"))
        if request.method != "POST" or edit is None:
            return not_found()
        try:
            fields = json.loads(request.body or b"{}")
            done = edit.make(self._upstream, _checked(edit, fields))
        except (EditError, OSError, ValueError, TypeError) as error:
            return _json(400, {"error": str(error)})
        except KeyError as error:
            return _json(400, {"error": f"there is no {error}"})
        return _json(200, {"done": done})


def _json(status: int, document: Fields) -> Response:
    return text(json.dumps(document, indent=2) + "\n", status, "application/json")


def _checked(edit: Edit, fields: Fields) -> Fields:
    known = {name.rstrip("?") for name in edit.parameters}
    needed = {name for name in edit.parameters if not name.endswith("?")}
    if unknown := set(fields) - known:
        raise EditError(f"unknown: {', '.join(sorted(unknown))}")
    if missing := needed - set(fields):
        raise EditError(f"missing: {', '.join(sorted(missing))}")
    return fields


def summary(upstream: Upstream) -> Fields:
    """Describe the master."""
    model = upstream.model
    with model.lock:
        return {
            "flists": model.flists(),
            "sources": {name: str(path) for name, path in sorted(model.boot_sources().items())},
            "kernels": sorted(model.kernels),
            "net_links": {m: k for m, k in model.net_links.items() if isinstance(k, str)},
            "chunks": len(model.store.default),
            "chunk_bytes": model.store.default.payload_bytes,
            "requests": {
                "hub": dict(upstream.hub.requests),
                "bootstrap": dict(upstream.bootstrap.requests),
                "zdb": dict(upstream.zdb.requests),
            },
        }


def _add_flist(upstream: Upstream, fields: Fields) -> str:
    source = Path(fields.get("source") or os.path.dirname(json.__file__))  # noqa: PTH120
    upstream.model.add_flist(fields["repository"], fields["name"], source.resolve(strict=True))
    return f"{fields['repository']}/{fields['name']} is packed from {source}"


def _change_flist(upstream: Upstream, fields: Fields) -> str:
    source = Path(fields["source"]).resolve(strict=True)
    in_place = not fields.get("by_rename")
    upstream.model.change_flist(fields["repository"], fields["name"], source, in_place=in_place)
    return f"{fields['repository']}/{fields['name']} is now packed from {source}"


def _delete_flist(upstream: Upstream, fields: Fields) -> str:
    upstream.model.delete_flist(fields["repository"], fields["name"])
    return f"{fields['repository']}/{fields['name']} is gone"


def _rename_repository(upstream: Upstream, fields: Fields) -> str:
    upstream.model.rename_repository(fields["repository"], fields["to"])
    return f"{fields['repository']} is now {fields['to']}"


def _retarget_tag(upstream: Upstream, fields: Fields) -> str:
    upstream.model.retarget_tag(
        fields["repository"], fields["tag"], fields["name"], fields["target"]
    )
    return f"{fields['repository']}/tags/{fields['tag']}/{fields['name']} -> {fields['target']}"


def _set_link(upstream: Upstream, fields: Fields) -> str:
    upstream.model.set_link(fields["repository"], fields["name"], fields["target"])
    return f"{fields['repository']}/{fields['name']} -> {fields['target']}"


def _add_kernel(upstream: Upstream, fields: Fields) -> str:
    size = int(fields.get("bytes") or 1 << 20)
    upstream.model.add_kernel(fields["name"], b"MZ" + os.urandom(size - 2))
    return f"kernel {fields['name']} has {size} bytes"


def _delete_kernel(upstream: Upstream, fields: Fields) -> str:
    upstream.model.delete_kernel(fields["name"])
    return f"kernel {fields['name']} is gone"


def _set_net_link(upstream: Upstream, fields: Fields) -> str:
    if fields["kernel"] not in upstream.model.kernels:
        raise EditError(f"there is no kernel {fields['kernel']}")
    upstream.model.set_net_link(fields["mode"], fields["kernel"])
    return f"{fields['mode']} -> {fields['kernel']}"


def _drop_chunk(upstream: Upstream, fields: Fields) -> str:
    upstream.model.drop_chunk(bytes.fromhex(fields["key"]))
    return f"chunk {fields['key']} is gone"


def _corrupt_chunk(upstream: Upstream, fields: Fields) -> str:
    upstream.model.corrupt_chunk(bytes.fromhex(fields["key"]))
    return f"chunk {fields['key']} is damaged"


def _fault(upstream: Upstream, fields: Fields) -> str:
    faults = upstream.bootstrap_faults if fields.get("server") == "bootstrap" else None
    faults = faults or upstream.hub_faults
    if fields["kind"] == "none":
        faults.clear()
        return "no faults"
    times = int(fields["times"]) if fields.get("times") else None
    faults.add(Fault(fields["kind"], path=fields.get("path") or ".*", times=times))
    return f"from now on: {fields['kind']}"


_REPOSITORY: Final = {"repository": "name of the repository"}
_FLIST: Final = {**_REPOSITORY, "name": "file name, with .flist"}
EDITS: Final[dict[str, Edit]] = {
    "add-flist": Edit(
        "publish a new flist",
        {**_FLIST, "source?": "directory to pack (else one of Python's library)"},
        _add_flist,
    ),
    "change-flist": Edit(
        "overwrite a flist",
        {**_FLIST, "source": "directory to pack", "by_rename?": "1: put a new file in its place"},
        _change_flist,
    ),
    "delete-flist": Edit("remove a flist or link", _FLIST, _delete_flist),
    "rename-repository": Edit(
        "give a repository another name", {**_REPOSITORY, "to": "new name"}, _rename_repository
    ),
    "retarget-tag": Edit(
        "point a tag's link elsewhere",
        {**_REPOSITORY, "tag": "tag", "name": "link, with .flist", "target": "REPO/F.flist"},
        _retarget_tag,
    ),
    "set-link": Edit(
        "make or retarget a link", {**_FLIST, "target": "F.flist or REPO/F.flist"}, _set_link
    ),
    "add-kernel": Edit(
        "publish or republish a kernel",
        {"name": "file name, with .efi", "bytes?": "size"},
        _add_kernel,
    ),
    "delete-kernel": Edit("remove a kernel", {"name": "file name"}, _delete_kernel),
    "set-net-link": Edit(
        "point a run mode at a kernel",
        {"mode": "prod, test, dev or qa", "kernel": "file name"},
        _set_net_link,
    ),
    "drop-chunk": Edit("delete a chunk", {"key": "in hex"}, _drop_chunk),
    "corrupt-chunk": Edit("damage a chunk", {"key": "in hex"}, _corrupt_chunk),
    "fault": Edit(
        "let something go wrong",
        {
            "kind": "status, truncate, flip, reset, hang, html, redirect-loop, endless, slow; none",
            "server?": "hub (default) or bootstrap",
            "path?": "pattern of the paths it hits",
            "times?": "how often",
        },
        _fault,
    ),
}
