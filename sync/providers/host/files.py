"""Configuration and secret files on the host, written atomically, never repeated in outputs."""

import base64
import hashlib
from collections.abc import Mapping
from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, DiffResult, ReadResult, UpdateResult

from sync.providers.base import HostProvider, decided
from sync.providers.host import facts
from sync.providers.host.host import DataRootGoneError, connect
from sync.providers.props import changed_inputs, integer, unknown


def _written(props: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "path": file["path"],
            "uid": integer(file["uid"]),
            "mode": integer(file.get("mode", 0o600)),
        }
        for file in props["files"]
    ]


def _digests(props: Mapping[str, Any]) -> dict[str, str]:
    return {
        file["path"]: hashlib.sha256(file["content"].encode()).hexdigest()
        for file in props["files"]
    }


def _record(
    props: Mapping[str, Any], digests: Mapping[str, str], drift: list[str]
) -> dict[str, Any]:
    written = props["written"] if props.get("written") else _written(props)
    return {
        "host": props["host"],
        "root": props["root"],
        "written": written,
        "digests": dict(digests),
        "drift": drift,
    }


def _difference(
    file: Mapping[str, Any], digest: str, paths: Mapping[str, facts.PathState]
) -> str | None:
    state = paths.get(file["path"])
    if state is None:
        return f"{file['path']}: missing"
    if state.kind != "file" or state.sha256 != digest:
        return f"{file['path']}: changed on the host"
    uid, mode = integer(file["uid"]), integer(file["mode"])
    if (state.uid, state.mode) != (uid, mode):
        return (
            f"{file['path']}: belongs to {state.uid}, mode {state.mode:o} instead of "
            f"{uid}, {mode:o}"
        )
    return None


class HostFilesProvider(HostProvider):
    """Writes small files; outputs hold paths, owners and (secret) digests, never contents."""

    def create(self, props: dict[str, Any]) -> CreateResult:
        """Write every file; safe to repeat. The id is of the first path: one resource, one set."""
        first = min(file["path"] for file in props["files"])
        return CreateResult(f"{props['root']}#{first}", self._write(props))

    def update(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> UpdateResult:
        """Write every file, and remove those that are no longer listed."""
        record = self._write(_news)
        listed = {file["path"] for file in record["written"]}
        former = [file["path"] for file in _olds.get("written") or []]
        self._remove(_news, [path for path in former if path not in listed])
        return UpdateResult(record)

    def _write(self, props: dict[str, Any]) -> dict[str, Any]:
        contents = {file["path"]: file["content"].encode() for file in props["files"]}
        written = _written(props)
        files = [
            {**file, "content": base64.b64encode(contents[file["path"]]).decode()}
            for file in written
        ]
        connect(props["host"]).as_root("write_files", props["root"], {"files": files})
        facts.forget()
        return _record({**props, "written": written}, _digests(props), [])

    def _remove(self, props: Mapping[str, Any], paths: list[str]) -> None:
        if paths:
            connect(props["host"]).as_root("remove_files", props["root"], {"paths": paths})
            facts.forget()

    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:
        """Tell which files are gone, changed or owned otherwise."""
        written = props.get("written") or _written(props)
        digests = props.get("digests") or _digests(props)
        seen = facts.survey(props, [file["path"] for file in written])
        if not any(file["path"] in seen.paths for file in written):
            return ReadResult(None, {})
        differences = (
            _difference(file, digests.get(file["path"], ""), seen.paths) for file in written
        )
        drift = [words for words in differences if words is not None]
        return ReadResult(id_, _record({**props, "written": written}, digests, drift))

    def diff(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> DiffResult:
        """Tell changed contents, owners, modes and drift; another root is another resource."""
        if drift := _olds.get("drift"):
            pulumi.log.info(f"files on the host drifted: {'; '.join(drift)}")
        replaces = ["root"] if _olds.get("root") != _news.get("root") else []
        changed = bool(changed_inputs(("host", "root"), _olds, _news)) or _files_changed(
            _olds, _news
        )
        return decided(_olds, changed=changed, repair=bool(drift), replaces=replaces)

    def delete(self, _id: str, _props: dict[str, Any]) -> None:
        """Remove the files; a data root that is gone has none."""
        try:
            self._remove(_props, [file["path"] for file in _props.get("written") or []])
        except DataRootGoneError:
            return


def _files_changed(olds: Mapping[str, Any], news: Mapping[str, Any]) -> bool:
    if unknown(news.get("files")):
        return True
    digests = _digests(news)
    written = {"written": sorted(_written(news), key=lambda file: file["path"])}
    former = {"written": sorted(olds.get("written") or [], key=lambda file: file["path"])}
    return digests != olds.get("digests") or bool(changed_inputs(["written"], former, written))
