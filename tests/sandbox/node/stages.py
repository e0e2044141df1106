"""From the kernel to a system: the check for a network, and ZOS' bootstrap in its two stages.

Sources: zos, cmds/internet/main.go, bootstrap/bootstrap/src/bootstrap.rs.
"""

from typing import Final
from urllib.parse import urlsplit

from tests.sandbox.node.hub import Flist, StageHub, tag_of
from tests.sandbox.node.reading import Reader, check_md5
from tests.sandbox.node.report import NodeError, Phase
from tests.sandbox.node.web import Web

BOOTSTRAP: Final = ("tf-autobuilder", "bootstrap:latest.flist")
ZOS: Final = "tf-zos"
TAGLINKS: Final = {
    "prod": "production",
    "test": "testing",
    "qa": "qa",
    "dev": "development",
}


def taglink(mode: str, *, light: bool) -> str:
    """Return the name of a run mode's taglink. light: for `version=v3light`."""
    return f"{TAGLINKS[mode]}-v3light" if light else TAGLINKS[mode]


def internet(reader: Reader) -> Phase:
    """Connect, and say nothing: hub and bootstrap on port 80."""
    phase = Phase("internet check", reader.network.family)
    mirror = reader.mirror
    plain_bootstrap = mirror.unsecure and mirror.unsecure.replace("//unsecure.", "//", 1)
    for base in (plain_bootstrap, mirror.plain_hub):
        if base is None:
            continue
        parts = urlsplit(base)
        with phase.trying():
            reader.network.connect(str(parts.hostname), parts.port or 80).close()
            phase.note(f"connect to {parts.netloc}", "connected")
    return phase


class Bootstrap:
    """ZOS' bootstrap program on a starting node."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def _hub(self, phase: Phase) -> StageHub:
        mirror = self._reader.mirror
        return StageHub(mirror.hub, Web(self._reader.network, mirror.tls, phase))

    def first(self) -> Phase:
        """Stage 1: the newest bootstrap program."""
        phase = Phase("stage 1", self._reader.network.family)
        hub = self._hub(phase)
        repository, name = BOOTSTRAP
        with phase.trying():
            info = hub.flist(repository, name)
            if info.kind not in ("regular", "symlink"):
                raise NodeError(f"{repository}/{name} is a {info.kind}, which is no flist")
            data = hub.download(f"{repository}/{name}")
            self._reader.read(f"{repository}/{name}", data, phase)
            check_md5(f"{repository}/{name}", data, info.md5)
        return phase

    def second(self, mode: str, *, light: bool = False) -> Phase:
        """Stage 2: every flist of the tag that the run mode's taglink leads to."""
        phase = Phase(f"stage 2 ({taglink(mode, light=light)})", self._reader.network.family)
        hub = self._hub(phase)
        with phase.trying():
            wanted = taglink(mode, light=light)
            found = [e for e in hub.entries(ZOS) if e.kind == "taglink" and e.name == wanted]
            if not found:
                raise NodeError(f"no taglink {wanted} in {ZOS}")
            repository, tag = tag_of(wanted, found[0].target)
            entries = hub.tag(repository, tag)
            self._complete(phase, f"{repository}/tags/{tag}", {entry.name for entry in entries})
            for entry in entries:
                self._install(phase, hub, entry)
        return phase

    def _install(self, phase: Phase, hub: StageHub, entry: Flist) -> None:
        """Copy one flist's files; what fails leaves the node hanging, and so ends the stage."""
        if entry.kind != "symlink" or entry.target is None:
            raise NodeError(f"{entry.name} is a {entry.kind} to {entry.target}, no link to a flist")
        self._reader.read(entry.target, hub.download(entry.target), phase)

    def _complete(self, phase: Phase, tag: str, listed: set[str]) -> None:
        """Compare a tag with what the caller knows of the master's."""
        known = {path for path in self._reader.sources if path.startswith(f"{tag}/")}
        for path in sorted(known - {f"{tag}/{name}" for name in listed}):
            phase.fail(f"tag {tag} lacks {path.removeprefix(f'{tag}/')}", unseen=True)
