"""The data root and its directories on the host."""

from collections.abc import Mapping
from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, DiffResult, ReadResult, UpdateResult

from sync.providers.base import HostProvider, decided, refreshed
from sync.providers.host import facts
from sync.providers.host.connection import Command, HostError
from sync.providers.host.host import DataRootGoneError, connect
from sync.providers.props import changed_inputs, integer

_INPUTS = ("host", "root", "directories", "mustBeMount", "purge")


def _mountpoint(root: str) -> Command:
    # Storage that is not mounted must not be replaced by empty directories on the system's disk.
    return Command(["mountpoint", "-q", root])


def _entries(props: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "path": entry["path"],
            "uid": integer(entry["uid"]),
            "mode": integer(entry.get("mode", 0o755)),
        }
        for entry in props["directories"]
    ]


def _record(props: Mapping[str, Any], drift: list[str]) -> dict[str, Any]:
    return {**{key: props.get(key) for key in _INPUTS}, "drift": drift}


def _drift(props: Mapping[str, Any], seen: facts.Survey) -> list[str]:
    return [
        words for entry in _entries(props) if (words := _difference(entry, seen.paths)) is not None
    ]


def _difference(entry: Mapping[str, Any], paths: Mapping[str, facts.PathState]) -> str | None:
    state = paths.get(entry["path"])
    if state is None:
        return f"{entry['path']}: missing"
    if state.kind != "directory":
        return f"{entry['path']}: not a directory"
    if (state.uid, state.mode) != (entry["uid"], entry["mode"]):
        return (
            f"{entry['path']}: belongs to {state.uid}, mode {state.mode:o} instead of "
            f"{entry['uid']}, {entry['mode']:o}"
        )
    return None


class HostDirectoriesProvider(HostProvider):
    """Makes and owns directories; adopts those that exist, with their contents."""

    def create(self, props: dict[str, Any]) -> CreateResult:
        """Make what is missing; safe to repeat."""
        return CreateResult(f"{props['root']}#directories", self._apply(props))

    def update(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> UpdateResult:
        """Make what is missing or owned wrongly; directories no longer listed stay."""
        return UpdateResult(self._apply(_news))

    def _apply(self, props: dict[str, Any]) -> dict[str, Any]:
        host = connect(props["host"])
        if props.get("mustBeMount") and host.run(_mountpoint(props["root"])).status != 0:
            raise HostError(
                f"{props['root']} is no mount, as preflight.dataRootIsMount wants it: nothing was "
                "made there; mount the storage (see /etc/fstab)"
            )
        request = {"directories": _entries(props)}
        host.as_root("make_directories", props["root"], request, create_root=True)
        facts.forget()
        return _record(props, [])

    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:
        """Tell which directories are gone or owned otherwise."""
        seen = facts.survey(props, [entry["path"] for entry in _entries(props)])
        if not any(entry["path"] in seen.paths for entry in _entries(props)):
            return ReadResult(None, {})
        drift = _drift(props, seen)
        return refreshed(
            id_, {key: props.get(key) for key in _INPUTS}, _record(props, drift), drift
        )

    def diff(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> DiffResult:
        """Tell changed inputs and drift; another root is another resource."""
        if drift := _olds.get("drift"):
            pulumi.log.info(f"directories on the host drifted: {'; '.join(drift)}")
        replaces = ["root"] if _olds.get("root") != _news.get("root") else []
        changed = changed_inputs(_INPUTS, _olds, _news)
        return decided(_olds, changed=bool(changed), repair=bool(drift), replaces=replaces)

    def delete(self, _id: str, _props: dict[str, Any]) -> None:
        """Keep everything, unless the stack says purge."""
        if not _props.get("purge"):
            return
        paths = [entry["path"] for entry in _entries(_props)]
        host = connect(_props["host"])
        try:
            host.as_root("purge", _props["root"], {"paths": paths})
            # The root itself, where it is empty, no mount point, and ours to remove.
            host.run(Command(["rmdir", _props["root"]]))
        except DataRootGoneError:
            return
        finally:
            facts.forget()
