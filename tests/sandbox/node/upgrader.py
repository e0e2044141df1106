"""A running node's hourly upgrade (zosbase, pkg/upgrade/upgrade.go and hub/hub.go).

The first hub only, on kept connections; chunks from zos-config's `hub_storage`, whatever the
flists say; packages that the running tag has by the same name are passed over.
"""

from typing import Final

from pydantic import TypeAdapter

from tests.sandbox.node.hub import Package, parsed, tag_of
from tests.sandbox.node.reading import Reader, check_md5
from tests.sandbox.node.report import NodeError, Phase
from tests.sandbox.node.stages import ZOS, taglink
from tests.sandbox.node.web import Web, quoted

_LAST: Final = "zos.flist"
_PACKAGES = TypeAdapter(list[Package] | None)
_PACKAGE = TypeAdapter(Package)


class Upgrader:
    """The upgrader of one node."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._hub = reader.mirror.hub

    def upgrade(self, mode: str, running: str | None = None, *, light: bool = False) -> Phase:
        """Do what an hour brings to a node that runs `running` (`REPO/tags/TAG`).

        None: to one node of every other tag of tf-zos that is listed, or that the caller knows.
        """
        wanted = taglink(mode, light=light)
        phase = Phase(f"upgrader ({wanted})", self._reader.network.family)
        web = Web(self._reader.network, self._reader.mirror.tls, phase, keep=True)
        try:
            with phase.trying():
                entries = self._list(web, ZOS)
                target = _target(entries, wanted)
                for tag in [running] if running else self._others(entries, target):
                    with phase.trying():
                        self._hour(web, wanted, target, tag)
        finally:
            web.close()
        return phase

    def _others(self, entries: list[Package], target: str) -> list[str]:
        tags = {f"{ZOS}/tags/{entry.name}" for entry in entries if entry.kind == "tag"}
        known = {path.rpartition("/")[0] for path in self._reader.sources if "/tags/" in path}
        return sorted((tags | {tag for tag in known if tag.startswith(f"{ZOS}/")}) - {target})

    def _hour(self, web: Web, wanted: str, target: str, running: str) -> None:
        if target == running:
            web.phase.note(wanted, f"{target} is what runs: nothing to do")
        else:
            self._update(web, target, running)

    def _list(self, web: Web, place: str) -> list[Package]:
        answer = web.get(f"{self._hub}/api/flist/{quoted(place)}").ok()
        return parsed(answer, _PACKAGES) or []

    def _tag(self, web: Web, link: str) -> tuple[str, list[Package]]:
        repository, tag = tag_of("that runs or is to run", link)
        return repository, self._list(web, f"{repository}/tags/{tag}")

    def _update(self, web: Web, target: str, running: str) -> None:
        repository, packages = self._tag(web, target)
        try:
            source, old = self._tag(web, running)
        except NodeError as error:
            raise NodeError(f"the running tag {running} is not listed: {error}") from error
        present = {package.destination(source)[1] for package in old}
        later = []
        for package in packages:
            place = package.destination(repository)
            if place[1] in present:
                continue
            if package.name == _LAST:
                later.append(place)
            else:
                self._install(web, *place)
        for place in later:
            self._install(web, *place)

    def _install(self, web: Web, repository: str, name: str) -> None:
        path = f"{repository}/{name}"
        info = parsed(web.get(f"{self._hub}/api/flist/{quoted(path)}/light").ok(), _PACKAGE)
        if not info.md5:
            raise NodeError(f"{path}: the hub tells no md5")
        data = web.get(f"{self._hub}/{quoted(path)}").ok().body
        storage = self._reader.mirror.storage
        if storage is None:
            raise NodeError(f"{path}: zos-config names no hub_storage")
        self._reader.read(path, data, web.phase, storage)
        check_md5(path, data, info.md5)


def _target(entries: list[Package], wanted: str) -> str:
    found = [entry for entry in entries if entry.kind == "taglink" and entry.name == wanted]
    if len(found) != 1:
        raise NodeError(f"{len(found)} taglinks {wanted} in {ZOS}, not one")
    tag_of(wanted, found[0].target)
    return found[0].target
