"""Kernels on their way from the master's /kernel/: asked for, fetched into staging, whole."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self
from urllib.parse import quote

from sync.agent import durable
from sync.agent.disk_room import DiskRoom, ScratchError
from sync.agent.job import Control
from sync.agent.kernels.state_db import KernelRow, LinkRow
from sync.agent.master.client import Downloaded, HttpError, Master
from sync.agent.master.endpoints import EndpointReport, no_report
from sync.agent.rate_limit import bandwidth
from sync.contract.spec import KernelsSpec

# 0-bootstrap writes an uploaded kernel in place (api_kernel: file.save), and without a lock: one
# that is younger than this may be half there.
SETTLE_SECONDS: Final = 2.0
# How a kernel begins: as an EFI program or an ELF file, or it has a boot sector with the mark of
# Linux' boot protocol at this byte (Linux: arch/x86/boot/header.S).
_BEGINNINGS: Final = (b"MZ", b"\x7fELF")
_BOOT_MARK: Final = b"HdrS"
_BOOT_MARK_AT: Final = 0x202


@dataclass(frozen=True)
class Head:
    """A kernel, or the file at a link, as HEAD describes it: size, Last-Modified (unix seconds)."""

    size_bytes: int | None = None
    modified_seconds: float | None = None

    def __str__(self) -> str:
        return f"{self.size_bytes} bytes of {self.modified_seconds}"

    @classmethod
    def of(cls, row: KernelRow | LinkRow) -> Self:
        """Return what HEAD said of a file when its row was written."""
        return cls(row.size_bytes, row.modified_seconds)


@dataclass(frozen=True)
class Fetched:
    """A whole file in staging, and what its row is to be."""

    path: Path
    row: KernelRow


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


def url_of(path: str) -> str:
    """Return the master's path of a kernel or link."""
    return f"/kernel/{quote(path)}"


def head(master: Master, path: str) -> Head:
    """Ask for the size and date of a kernel, or of the file at a link. Raises HttpError."""
    page = master.head(url_of(path))
    return Head(page.length, page.modified_seconds)


@dataclass(frozen=True)
class Fetcher:
    """Fetches kernels, and the files at links; its threads share it.

    room: of the disk, where `staging` is.
    """

    master: Master
    spec: KernelsSpec
    staging: Path
    control: Control
    room: DiskRoom

    def fetch_kernel(self, name: str, updated_seconds: float | None) -> Fetched:
        """Fetch a listed kernel. Raises HttpError, also for what is none, and NoSpaceError."""
        fetched = self.fetch(name, updated_seconds)
        try:
            require_kernel(fetched.path, name)
        except BaseException:
            fetched.path.unlink(missing_ok=True)
            raise
        return fetched

    def fetch(self, path: str, updated_seconds: float | None = None) -> Fetched:
        """Fetch a file whole and durably. Raises HttpError, NoSpaceError."""
        durable.require_free_space(self.staging.parent, self.spec.free_space_floor_bytes)
        target = durable.temporary_in(self.staging)
        with ExitStack() as disk:
            done = self.master.download(
                url_of(path),
                target,
                self.spec.max_kernel_bytes,
                begins=lambda size: self._hold_disk(disk, path, size),
            )
        try:
            durable.sync(target)
            self._require_whole(path, done)
        except BaseException:
            target.unlink(missing_ok=True)
            raise
        modified = done.page.modified_seconds
        row = KernelRow(path, updated_seconds, modified, done.size_bytes, done.md5)
        return Fetched(target, row)

    def _hold_disk(self, disk: ExitStack, path: str, size_bytes: int) -> None:
        """Hold what a file takes of the disk, in place of what is held. Raises HttpError."""
        disk.close()
        try:
            disk.enter_context(self.room.on_disk(size_bytes, "it"))
        except ScratchError as error:
            raise HttpError(f"/kernel/{path}: {error}", retry=False) from error

    def _require_whole(self, path: str, done: Downloaded) -> None:
        """Raise HttpError for nothing at all, or where HEAD says another length or date.

        So it does where the master is still writing it, or a cache before it holds less.
        """
        if done.size_bytes == 0:
            raise HttpError(f"/kernel/{path}: empty", retry=False)
        modified, now = done.page.modified_seconds, done.page.date_seconds
        if modified is not None and now is not None and now - modified < SETTLE_SECONDS:
            self.control.wait(SETTLE_SECONDS)
        file = head(self.master, path)
        if file.modified_seconds != modified or file.size_bytes not in {None, done.size_bytes}:
            here = Head(done.size_bytes, modified)
            message = f"changed while it was fetched: HEAD says {file}, what came is {here}"
            raise HttpError(f"/kernel/{path}: {message}", retry=True)


def require_kernel(file: Path, path: str) -> None:
    """Raise HttpError where what came of a path is no kernel, but a page that says something."""
    with file.open("rb") as opened:
        head = opened.read(_BOOT_MARK_AT + len(_BOOT_MARK))
    if not head.startswith(_BEGINNINGS) and head[_BOOT_MARK_AT:] != _BOOT_MARK:
        message = "is no kernel, it begins with none of MZ, ELF, HdrS"
        raise HttpError(f"/kernel/{path}: {message}", retry=False)
