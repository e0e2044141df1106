"""The mirror's kernel folder: fetch into staging, publish whole, link, remove."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

from sync.agent import durable
from sync.agent.job import Control
from sync.agent.kernels.listing import NET
from sync.agent.kernels.plan import LinkedFile, is_net
from sync.agent.kernels.state_db import KernelRow
from sync.agent.master.client import Downloaded, Expected, HttpError, Master
from sync.agent.master.endpoints import EndpointReport, no_report
from sync.agent.rate_limit import bandwidth
from sync.contract.spec import KernelsSpec

# 0-bootstrap writes an uploaded kernel in place (api_kernel: file.save), and without a lock: one
# that is younger than this may be half there.
SETTLE_SECONDS: Final = 2.0


@dataclass(frozen=True)
class Fetched:
    """A whole file in staging, and what its row is to be."""

    path: Path
    row: KernelRow


class KernelFolder:
    """The folder that 0-bootstrap serves as kernel-path, with net/ below it.

    empty_staging: remove what a killed process left there (the one that publishes does).
    """

    def __init__(self, root: Path, *, empty_staging: bool = True) -> None:
        self.root = root
        self.net = root / NET
        self.net.mkdir(exist_ok=True)
        self.staging = durable.staging_directory(root) if empty_staging else root / durable.STAGING

    def names(self) -> set[str]:
        """Return the names of the regular files that are served as kernels."""
        with os.scandir(self.root) as entries:
            return {
                entry.name
                for entry in entries
                if entry.is_file(follow_symlinks=False) and not entry.name.startswith(".")
            }

    def linked(self) -> dict[str, str]:
        """Return, for each link by its path, the kernel that it names now."""
        links: dict[str, str] = {}
        for folder, prefix in ((self.root, ""), (self.net, f"{NET}/")):
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_symlink():
                        links[prefix + entry.name] = Path(entry.path).readlink().name
        return links

    def points_to(self, path: str, kernel: str) -> bool:
        """Return whether a link is there and names that kernel, relative to its own folder."""
        link = self.root / path
        return link.is_symlink() and str(link.readlink()) == _text(path, kernel)

    def holds(self, path: str, size_bytes: int | None) -> bool:
        """Return whether a regular file of that size is there."""
        try:
            status = (self.root / path).lstat()
        except OSError:
            return False
        return stat.S_ISREG(status.st_mode) and status.st_size == size_bytes

    def publish(self, path: str, fetched: Fetched) -> None:
        """Serve a fetched file, with the master's mtime (a chained mirror lists it)."""
        times = (fetched.row.modified_seconds, fetched.row.updated_seconds)
        mtime = next((seconds for seconds in times if seconds is not None), None)
        durable.publish(fetched.path, self.root / path, mtime_seconds=mtime)

    def link(self, path: str, kernel: str) -> None:
        """Point a link at a kernel that is served already, whatever was served there before."""
        durable.publish_link(_text(path, kernel), self.root / path, self.staging)

    def unlink(self, path: str) -> None:
        """Remove a link, or a net kernel of its own; never a kernel at the top."""
        if is_net(path) or (self.root / path).is_symlink():
            durable.remove(self.root / path)


def _text(path: str, kernel: str) -> str:
    return f"../{kernel}" if is_net(path) else kernel


def master_of(spec: KernelsSpec, control: Control, report: EndpointReport = no_report) -> Master:
    """Return the master's bootstrap service, within the limits of the spec."""
    return Master(
        spec.sources,
        spec.http,
        control,
        bandwidth=bandwidth(spec.bandwidth_bytes_per_second),
        backoff=spec.backoff,
        service="bootstrap",
        report=report,
    )


def head(master: Master, path: str) -> LinkedFile:
    """Ask for the size and date of a kernel, or of the file at a link. Raises HttpError."""
    page = master.head(f"/kernel/{quote(path)}")
    return LinkedFile(page.length, page.modified_seconds)


class Fetcher:
    """Fetches files from the master's /kernel/ into staging; its threads share it."""

    def __init__(
        self, master: Master, spec: KernelsSpec, folder: KernelFolder, control: Control
    ) -> None:
        self.master = master
        self._spec = spec
        self._folder = folder
        self._control = control

    def fetch(self, path: str, updated_seconds: float | None = None) -> Fetched:
        """Fetch a kernel, or the file at a link. Raises HttpError, NoSpaceError."""
        durable.require_free_space(self._folder.root, self._spec.free_space_floor_bytes)
        url, target = f"/kernel/{quote(path)}", durable.temporary_in(self._folder.staging)
        done = self.master.download(url, target, self._spec.max_kernel_bytes, Expected())
        try:
            durable.sync(target)
            self._require_whole(path, done)
        except BaseException:
            target.unlink(missing_ok=True)
            raise
        modified = done.page.modified_seconds
        row = KernelRow(path, updated_seconds, modified, done.size_bytes, done.md5)
        return Fetched(target, row)

    def _require_whole(self, path: str, done: Downloaded) -> None:
        """Raise HttpError when the master is still writing what was just fetched."""
        if done.size_bytes == 0:
            raise HttpError(f"/kernel/{path}: empty", retry=False)
        modified, now = done.page.modified_seconds, done.page.date_seconds
        if modified is None or now is None or now - modified >= SETTLE_SECONDS:
            return
        self._control.wait(SETTLE_SECONDS)
        if head(self.master, path) != LinkedFile(done.page.length, modified):
            raise HttpError(f"/kernel/{path}: changed while it was fetched", retry=True)
