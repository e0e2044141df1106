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
from sync.agent.kernels.plan import is_net
from sync.agent.kernels.state_db import KernelRow, LinkRow
from sync.agent.master.client import Expected, HttpError, Master, Page
from sync.agent.master.endpoints import EndpointReport, no_report
from sync.agent.rate_limit import bandwidth
from sync.contract.spec import KernelsSpec

# 0-bootstrap writes an uploaded kernel in place: one that is younger than this may be half there.
SETTLE_SECONDS: Final = 2.0


@dataclass(frozen=True)
class Fetched:
    """A whole kernel in staging, and its record to be."""

    path: Path
    record: KernelRow


class KernelFolder:
    """The folder that 0-bootstrap serves as kernel-path, with net/ below it.

    empty_staging: remove what a killed process left there (the one that publishes does).
    """

    def __init__(self, root: Path, *, empty_staging: bool = True) -> None:
        self.root = root
        self.net = root / NET
        self.net.mkdir(exist_ok=True)
        self.staging = root / durable.STAGING
        if empty_staging:
            self.staging = durable.staging_directory(root)

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

    def leads(self, path: str, kernel: str) -> bool:
        """Tell whether a link is there and names that kernel, relative to its own folder."""
        place = self.root / path
        return place.is_symlink() and str(place.readlink()) == _text(path, kernel)

    def holds(self, record: KernelRow) -> bool:
        """Tell whether the recorded kernel is on disk with its size."""
        try:
            status = (self.root / record.name).lstat()
        except OSError:
            return False
        return stat.S_ISREG(status.st_mode) and status.st_size == record.size_bytes

    def holds_net_file(self, net: LinkRow) -> bool:
        """Tell whether a net kernel of its own is on disk with its size."""
        try:
            status = (self.root / net.path).lstat()
        except OSError:
            return False
        return stat.S_ISREG(status.st_mode) and status.st_size == net.size_bytes

    def publish(self, fetched: Fetched) -> None:
        """Serve a fetched kernel, with the master's mtime (a chained mirror lists it)."""
        times = (fetched.record.modified_seconds, fetched.record.updated_seconds)
        mtime = next((seconds for seconds in times if seconds is not None), None)
        durable.publish(fetched.path, self.root / fetched.record.name, mtime_seconds=mtime)

    def link(self, path: str, kernel: str) -> None:
        """Point a link at a kernel that is served already, whatever was served there before."""
        durable.publish_link(_text(path, kernel), self.root / path, self.staging)

    def publish_net_file(self, path: str, fetched: Fetched) -> None:
        """Serve a net kernel that is none of the listed ones as a file of its own."""
        modified = fetched.record.modified_seconds
        durable.publish(fetched.path, self.root / path, mtime_seconds=modified)

    def unlink(self, path: str) -> None:
        """Remove a link, or a net kernel of its own; never a kernel at the top."""
        if is_net(path) or (self.root / path).is_symlink():
            durable.remove(self.root / path)

    def remove(self, name: str) -> None:
        """Remove a kernel."""
        durable.remove(self.root / name)


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


class Fetcher:
    """Brings kernels from the master into staging; its threads share it."""

    def __init__(
        self, master: Master, spec: KernelsSpec, folder: KernelFolder, control: Control
    ) -> None:
        self._master = master
        self._spec = spec
        self._folder = folder
        self._control = control

    def head(self, path: str) -> Page:
        """Ask for a file's size and date."""
        return self._master.head(path)

    def kernel(self, name: str, updated_seconds: float | None) -> Fetched:
        """Fetch one kernel. Raises HttpError, NoSpaceError."""
        path = f"/kernel/{quote(name)}"
        target = durable.temporary_in(self._folder.staging)
        page, record = self._file(path, target, name, updated_seconds)
        try:
            self._settled(path, page)
        except BaseException:
            target.unlink(missing_ok=True)
            raise
        return Fetched(target, record)

    def linked_file(self, path: str) -> Fetched:
        """Fetch what the master serves at a link."""
        target = durable.temporary_in(self._folder.staging)
        _, record = self._file(f"/kernel/{quote(path)}", target, path, None)
        return Fetched(target, record)

    def _file(
        self, path: str, target: Path, name: str, updated_seconds: float | None
    ) -> tuple[Page, KernelRow]:
        durable.require_free_space(self._folder.root, self._spec.free_space_floor_bytes)
        done = self._master.download(path, target, self._spec.max_kernel_bytes, Expected())
        if done.size_bytes == 0:
            target.unlink(missing_ok=True)
            raise HttpError(f"{path}: empty", retry=False)
        durable.sync_file(target)
        page = done.page
        modified = page.modified_seconds
        record = KernelRow(name, updated_seconds, modified, done.size_bytes, done.md5)
        return page, record

    def _settled(self, path: str, page: Page) -> None:
        """Raise HttpError when the master is still writing what was just fetched."""
        modified, now = page.modified_seconds, page.date_seconds
        if modified is None or now is None or now - modified >= SETTLE_SECONDS:
            return
        self._control.wait(SETTLE_SECONDS)
        again = self._master.head(path)
        if (again.length, again.last_modified) != (page.length, page.last_modified):
            raise HttpError(f"{path}: changed while it was fetched", retry=True)
