"""A node and its users at a mirror: each step by itself, or a whole visit with its report."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, Self

from pydantic import BaseModel, TypeAdapter

from tests.sandbox.node.flistd import Flistd
from tests.sandbox.node.hub import parsed
from tests.sandbox.node.ipxe import Medium
from tests.sandbox.node.mirror import Mirror
from tests.sandbox.node.network import Network
from tests.sandbox.node.reading import Booted, Reader
from tests.sandbox.node.report import NodeError, Phase, Report
from tests.sandbox.node.stages import TAGLINKS, Bootstrap, internet
from tests.sandbox.node.upgrader import Upgrader
from tests.sandbox.node.web import Answer, Web, quoted

RUN_MODES: Final = tuple(TAGLINKS)
_TIMEOUT_SECONDS: Final = 30.0


class _Entry(BaseModel):
    type: str
    name: str


class _Image(BaseModel):
    name: str


_FILES = TypeAdapter(dict[str, list[_Entry]])
_ENTRIES = TypeAdapter(list[_Entry])
_IMAGES = TypeAdapter(list[_Image])


class Node:
    """One node; a context manager, as it keeps connections.

    family: 4, 6, or None for whichever a name has. sources: by `REPO/F.flist` and
    `REPO/tags/T/F.flist` the directory that each was packed from, where the caller has them.
    """

    def __init__(
        self,
        mirror: Mirror,
        family: int | None = None,
        sources: Mapping[str, Path] | None = None,
        timeout_seconds: float = _TIMEOUT_SECONDS,
    ) -> None:
        self._mirror, self._timeout = mirror, timeout_seconds
        self._reader = Reader(
            mirror, Network(mirror.names, family, timeout_seconds), dict(sources or {})
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection."""
        self._reader.close()

    # -- steps -------------------------------------------------------------------------------

    def internet(self) -> Phase:
        """Check for a network."""
        return internet(self._reader)

    def medium(self, modes: Iterable[str] = RUN_MODES) -> Phase:
        """Start from a boot medium in each run mode; over IPv4 whatever the family."""
        medium = Medium(self._mirror, self._timeout)
        for mode in modes:
            medium.boot(mode)
        return medium.phase

    def stage_1(self) -> Phase:
        """Fetch ZOS' bootstrap."""
        return Bootstrap(self._reader).first()

    def stage_2(self, mode: str, *, light: bool = False) -> Phase:
        """Install a run mode's system. light: with `version=v3light`."""
        return Bootstrap(self._reader).second(mode, light=light)

    def upgrade(self, mode: str, running: str | None = None, *, light: bool = False) -> Phase:
        """Upgrade from the tag that runs (`REPO/tags/TAG`), or from every other of tf-zos."""
        return Upgrader(self._reader).upgrade(mode, running, light=light)

    def workloads(self, paths: Iterable[str] | None = None) -> Phase:
        """Mount each flist as a workload's, by default all that there are."""
        phase = Phase("flistd", self._reader.network.family)
        with phase.trying():
            wanted = sorted(self.bootable() if paths is None else paths)
            for path in wanted:
                with phase.trying():
                    self._flistd.mount(path, phase)
            self._flistd.strangers(wanted[0].split("/")[0] if wanted else "nobody", phase)
            for path in sorted(set(self._reader.sources) - set(wanted)) if paths is None else ():
                phase.fail(f"{path} is not listed", unseen=True)
        return phase

    def images(self) -> Phase:
        """Read every kernel that the bootstrap server lists."""
        phase = Phase("kernels", self._reader.network.family)
        with phase.trying():
            for name in self.kernels():
                with phase.trying():
                    self._get(f"{self._mirror.bootstrap}/kernel/{quoted(name)}", phase)
                    phase.done += 1
        return phase

    def visit(self, modes: Iterable[str] = RUN_MODES) -> Report:
        """Do all of it: the medium, then what follows over this node's family."""
        chosen = tuple(modes)
        phases = [self.medium(chosen)] if self._mirror.bootstrap else []
        phases += [self.internet(), self.stage_1()]
        phases += [self.stage_2(mode) for mode in chosen]
        phases += [self.upgrade(mode) for mode in chosen]
        phases.append(self.workloads())
        if self._mirror.bootstrap:
            phases.append(self.images())
        return Report(tuple(phases))

    # -- for one thing -----------------------------------------------------------------------

    def bootable(self) -> list[str]:
        """Return the path of every flist that a workload could name; raises NodeError.

        `REPO/F.flist` of flists and links, `REPO/tags/T/F.flist` of tags' content.
        """
        listed = parsed(self._get(f"{self._mirror.hub}/api/fileslist"), _FILES)
        paths = []
        for repository, entries in listed.items():
            for entry in entries:
                if entry.type in {"regular", "symlink"} and entry.name.endswith(".flist"):
                    paths.append(f"{repository}/{entry.name}")
                elif entry.type == "tag":
                    place = f"{repository}/tags/{entry.name}"
                    answer = self._get(f"{self._mirror.hub}/api/flist/{quoted(place)}")
                    paths += [f"{place}/{found.name}" for found in parsed(answer, _ENTRIES)]
        return sorted(paths)

    def boot(self, path: str, source: Path | None = None) -> Booted:
        """Mount one flist as a workload's, compared with `source` if given; raises NodeError."""
        if source is not None:
            self._reader.sources[path] = source
        return self._flistd.mount(path, Phase("flistd", self._reader.network.family))

    def kernels(self) -> list[str]:
        """Return the names of the kernels (/api/images); raises NodeError."""
        answer = self._get(f"{self._mirror.bootstrap}/api/images")
        return [image.name for image in parsed(answer, _IMAGES)]

    def kernel(self, name: str) -> bytes:
        """Fetch a kernel with the TLS of today; raises NodeError."""
        return self._get(f"{self._mirror.bootstrap}/kernel/{quoted(name)}").body

    @property
    def _flistd(self) -> Flistd:
        if self._mirror.plain_hub is None:
            raise NodeError("the mirror's plain port is not told")
        return Flistd(self._reader, self._mirror.plain_hub)

    def _get(self, url: str, phase: Phase | None = None) -> Answer:
        noted = phase or Phase("listing")
        return Web(self._reader.network, self._mirror.tls, noted).get(url).ok()
