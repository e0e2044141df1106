"""Which kernel each link of the master names, and the links that are served here.

A link is named by its path below the kernel folder, which is also its path below `/kernel/`:
`net/MODE.efi` for a run mode's net link, `NAME` for one at the top (0-bootstrap: api_symlink).
Nothing on a bootstrap server says where a link points. So each is asked for by its name, and the
kernel behind it is the one with the same size and date, else the one with the same content.
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from sync.agent import durable
from sync.agent.kernels import folder
from sync.agent.kernels.fetcher import Fetched, Fetcher, Head, head, require_kernel
from sync.agent.kernels.listing import NET, Kernel, Listing, checked_kernel
from sync.agent.kernels.state_db import KernelRow, KernelStateDb, LinkRow
from sync.agent.master.client import HttpError, HttpMissingError
from sync.agent.quarantine import Quarantine
from sync.contract.names import RefusedNameError, checked_plain


@dataclass
class Pass:
    """What one pass learned so far; links by their paths, kernels by name.

    known, links: the rows. heads: the files at links, as the master has them. targets: the kernels
    that links name. gone: links that are to go: deselected, none on the master any more, or the
    master has a kernel of that name. failures: what could not be had, with the error.
    """

    listing: Listing
    quarantine: Quarantine
    known: dict[str, KernelRow]
    links: dict[str, LinkRow]
    heads: dict[str, Head] = field(default_factory=dict)
    targets: dict[str, str] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    broken: list[str] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.listed = {kernel.name: kernel for kernel in self.listing.kernels}

    def current(self, kernel: Kernel) -> KernelRow | None:
        """Return the row of a kernel that is here as it is listed, else None."""
        row = self.known.get(kernel.name)
        is_current = row and row.md5 is not None and row.updated_seconds == kernel.updated_seconds
        return row if is_current else None

    def candidates(self, path: str) -> list[Kernel]:
        """Return the kernels that a link may name, judged by time alone.

        The listing and Last-Modified both come from the file's mtime (0-bootstrap: kernel_list,
        and send_from_directory), so they agree to the second; an unknown one agrees with all.
        """
        modified = self.heads[path].modified_seconds
        return [
            kernel
            for kernel in self.listing.kernels
            if modified is None
            or kernel.updated_seconds is None
            or int(kernel.updated_seconds) == int(modified)
        ]

    @property
    def unresolved(self) -> list[str]:
        """The links whose kernel is not known yet."""
        return [path for path in self.heads if path not in self.targets]

    @contextlib.contextmanager
    def noting(self, what: str) -> Iterator[None]:
        """Let the block fail without the pass: one kernel or link hinders no other."""
        try:
            yield
        except HttpError as error:
            self.failures[what] = str(error)


@dataclass(frozen=True)
class Links:
    """Resolves the links of a pass and serves them; `ask`, `find`, `find_by_content`, `apply`."""

    fetcher: Fetcher
    root: Path
    db: KernelStateDb

    def ask(self, work: Pass) -> None:
        """Ask for every link by its name; one that is as it was names what it named."""
        fixed = self.fetcher.spec.net_links
        modes = _paths(work, net_link, self.fetcher.spec.run_modes)
        asked = [path for mode, path in modes.items() if mode not in fixed]
        asked += _paths(work, checked_kernel, self.fetcher.spec.links).values()
        work.gone = work.links.keys() - {*modes.values(), *asked}
        for mode, path in modes.items():
            if kernel := fixed.get(mode):
                if kernel in work.listed or kernel in work.known:
                    work.targets[path] = kernel
                else:
                    work.broken.append(f"{named(path)}: the master has no kernel {kernel}")
        with ThreadPoolExecutor(self.fetcher.spec.http.connections) as pool:
            for _ in pool.map(lambda path: self._ask(work, path), asked):
                pass

    def _ask(self, work: Pass, path: str) -> None:
        # What is listed is a regular file: kernel_list of bootstrap.py leaves links out.
        if path in work.listed:
            work.gone.add(path)
            work.broken.append(f"{named(path)}: the master has a kernel of that name, which wins")
            return
        if work.quarantine.leaves_out(named(path)):
            return
        with work.noting(named(path)), work.quarantine.trying(named(path)):
            try:
                file = head(self.fetcher.master, path)
            except HttpMissingError:
                kept = ", the mirror keeps its own" if is_net(path) and path in work.links else ""
                work.broken.append(f"{named(path)}: the master has none{kept}")
                if not is_net(path):  # nodes boot from a net link: it stays
                    work.gone.add(path)
                return
            # The headers are those of the kernel behind the link (send_from_directory opens it),
            # and have no digest: one flipped byte must not move what nodes boot from.
            row = work.links.get(path)
            as_before = row is not None and Head.of(row) == file
            if row and not as_before and head(self.fetcher.master, path) != file:
                raise HttpError("two answers of the master differ: it stays as it is", retry=True)
            work.heads[path] = file
            kernel = work.listed.get(row.target) if row and row.target is not None else None
            if kernel and as_before and work.current(kernel):
                work.targets[path] = kernel.name

    def find(self, work: Pass) -> None:
        """Find the kernels that are here and alone have the size and date of the file at a link."""
        for path in work.unresolved:
            file = work.heads[path]
            rows = [work.current(kernel) for kernel in work.candidates(path)]
            # Without a date, kernels of one size look alike.
            if file.modified_seconds is None or None in rows:
                continue  # it may be one that is not here yet
            same = [row.name for row in rows if row and Head.of(row) == file]
            if len(same) == 1:
                work.targets[path] = same[0]

    def find_by_content(self, work: Pass) -> None:
        """Find the rest by their bytes: what is at the link is fetched and compared by MD5."""
        # So that one that failed before keeps no other waiting.
        for path in sorted(work.unresolved, key=lambda one: named(one) in work.quarantine):
            if self.fetcher.control.stopping():
                return
            row, file = work.links.get(path), work.heads[path]
            # A net file of its own must be here still; at the top nothing is kept.
            served = row and (not is_net(path) or folder.holds(self.root / path, row.size_bytes))
            with work.noting(named(path)), work.quarantine.trying(named(path)):
                if row and row.md5 and served and Head.of(row) == file:
                    self._take_content(work, path, row.md5, None)
                    continue
                fetched = self.fetcher.fetch(path)
                try:
                    self._take_content(work, path, fetched.row.md5 or "", fetched)
                finally:
                    fetched.path.unlink(missing_ok=True)

    def _take_content(self, work: Pass, path: str, md5: str, fetched: Fetched | None) -> None:
        same = sorted(name for name, row in work.known.items() if row.md5 == md5 and name != path)
        if same:
            work.targets[path] = same[0]
            return
        for kernel in work.candidates(path):
            row = work.known.get(kernel.name)
            if row is None or row.md5 is None:
                raise HttpError(f"may be {kernel.name}, which is not here yet", retry=True)
        if not is_net(path):
            # A file at the top would be listed as a kernel (0-bootstrap: kernel_list takes every
            # regular file there), which it is not on the master.
            work.broken.append(f"{named(path)}: leads to no kernel that the master lists")
        elif fetched is not None:
            # No kernel of that content is listed: the master keeps a file of its own there.
            require_kernel(fetched.path, path)
            folder.publish(fetched, self.root / path)
        self._put(work, path, None, md5)

    def _put(self, work: Pass, path: str, target: str | None, md5: str | None = None) -> None:
        file = work.heads.get(path, Head())
        self.db.put(LinkRow(path, file.size_bytes, file.modified_seconds, target, md5))

    def apply(self, work: Pass) -> bool:
        """Point every link whose kernel is served at it; returns whether a net link leads to one.

        A kernel that the master had under the name of a link stays until the removals.
        """
        on_disk = folder.names(self.root)
        ready = [
            path
            for path, target in work.targets.items()
            if target in on_disk and path not in on_disk
        ]
        for path in ready:
            self.link(work, path)
        return any(map(is_net, ready))

    def link(self, work: Pass, path: str) -> None:
        """Point a link at the kernel that it names."""
        target = work.targets[path]
        if not points_to(self.root, path, target):
            durable.publish_link(_text(path, target), self.root / path, self.fetcher.staging)
        self._put(work, path, target)

    def remove(self, paths: Iterable[str]) -> None:
        """Remove links, and net files of their own; never a kernel at the top."""
        for path in paths:
            served = self.root / path
            if is_net(path) or served.is_symlink():
                durable.remove(served)
            self.db.delete_link(path)


def net_link(mode: str) -> str:
    """Path of a run mode's net link. Raises RefusedNameError for a bad mode."""
    return f"{NET}/{checked_plain(mode, 'run mode')}.efi"


def is_net(path: str) -> bool:
    """Return whether a link is a net link, not one at the top."""
    return path.startswith(f"{NET}/")


def named(path: str) -> str:
    """Name a link in messages: `net link prod`, `link zos.efi`."""
    return f"net link {path[len(NET) + 1 : -len('.efi')]}" if is_net(path) else f"link {path}"


def _text(path: str, kernel: str) -> str:
    """Return the text of a link to a kernel: relative to the link's own folder."""
    return f"../{kernel}" if is_net(path) else kernel


def points_to(root: Path, path: str, kernel: str) -> bool:
    """Return whether a link is in the kernel folder and names that kernel."""
    link = root / path
    return link.is_symlink() and str(link.readlink()) == _text(path, kernel)


def linked(root: Path) -> dict[str, str]:
    """Return, for each link in the kernel folder by its path, the kernel that it names now."""
    links: dict[str, str] = {}
    for prefix in ("", f"{NET}/"):
        with os.scandir(root / prefix) as entries:
            for entry in entries:
                if entry.is_symlink():
                    links[prefix + entry.name] = Path(entry.path).readlink().name
    return links


def _paths(work: Pass, path_of: Callable[[str], str], of_names: Iterable[str]) -> dict[str, str]:
    paths: dict[str, str] = {}
    for name in of_names:
        try:
            paths[name] = path_of(name)
        except RefusedNameError as error:
            work.broken.append(str(error))
    return paths
