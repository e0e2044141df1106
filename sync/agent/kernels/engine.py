"""One pass of the kernels job: list, decide, fetch, link, remove."""

import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Final, Self
from urllib.parse import quote

from sync.agent.deletion_guard import Absences, Vanished, confirm_listing, guard
from sync.agent.job import Control, Directories, PassIncompleteError, one_at_a_time
from sync.agent.kernels import listing
from sync.agent.kernels.folder import Fetched, Fetcher, KernelFolder, master_of
from sync.agent.kernels.listing import Kernel, Listing
from sync.agent.kernels.plan import (
    LinkedFile,
    candidates,
    is_net,
    named,
    net_link,
    top_link,
    wanted,
)
from sync.agent.kernels.state_db import KernelRow, KernelStateDb, LinkRow
from sync.agent.master.client import HttpError, HttpMissingError, HttpStoppedError
from sync.agent.master.identity import Evidence, follow
from sync.agent.status_writer import StatusWriter, name_list, utc_now
from sync.contract import names
from sync.contract.spec import KernelsSpec
from sync.contract.status import Amount, Lag

_DAY_SECONDS: Final = 86_400.0
# A file that changed so shortly before the listing may have changed again within that second.
_RECHECK_SECONDS: Final = 2.0
_CONFIRMED: Final = "removal_confirmation"


@dataclass
class _Pass:
    """What one pass learned so far; links by their paths.

    gone: links at the top that the master has no more, or has a kernel under their name.
    """

    listing: Listing
    known: dict[str, KernelRow]
    links: dict[str, LinkRow]
    targets: dict[str, str] = field(default_factory=dict)
    unresolved: dict[str, LinkedFile] = field(default_factory=dict)
    heads: dict[str, LinkedFile] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    broken: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    @property
    def listed(self) -> dict[str, Kernel]:
        return {kernel.name: kernel for kernel in self.listing.kernels}


class KernelsEngine:
    """The kernels job of one spec; `one_pass` is called again and again by one thread."""

    def __init__(
        self,
        spec: KernelsSpec,
        directories: Directories,
        status: StatusWriter,
        control: Control,
    ) -> None:
        self._spec = spec
        self._state = directories.state
        self._status = status
        self._control = control
        self._stack = ExitStack()
        self._db = self._stack.enter_context(KernelStateDb(directories.state))
        self._master = master = master_of(spec, control, status.sources)
        self._stack.callback(master.close)
        with one_at_a_time(directories.state):
            self._folder = KernelFolder(directories.kernels)
            self._adopt()
        self._fetcher = Fetcher(master, spec, self._folder, control)
        self._absences: Absences[str] = Absences(
            master, spec.http.connections, lambda name: f"/kernel/{quote(name)}"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def requests_sent(self) -> int:
        """How many HTTP requests the master was asked so far."""
        return self._master.requests_sent

    def one_pass(self) -> None:
        """Bring the folder up to the master's state.

        Raises HttpError when the master can not be listed, PassIncompleteError when some kernel
        could not be had, JobPaused when too much vanished.
        """
        with one_at_a_time(self._state):
            self._one_pass()

    def _one_pass(self) -> None:
        self._master.begin_pass()
        found = listing.fetch(self._master)
        self._follow(found)
        work = _Pass(found, self._db.kernels(), self._db.links())
        served = {name for name, kernel in work.known.items() if kernel.missing_since is None}
        removes = not served <= work.listed.keys()
        confirm_listing(found, lambda: listing.fetch(self._master), removes=removes)
        self._resolve_links(work)
        chosen = self._wanted(work)
        self._report(work, chosen)
        self._fetch(work, chosen)
        self._resolve_by_content(work)
        self._apply_links(work)
        self._report(work, chosen)
        if self._control.stopping():
            raise HttpStoppedError
        self._remove(work, {kernel.name for kernel in chosen})
        self._report(work, chosen)
        self._finish(work)

    def _follow(self, found: Listing) -> None:
        """Make sure that the name in use is the master's. Raises JobFailed."""
        source = self._master.source
        evidence = Evidence(
            {
                name: kernel.updated_seconds
                for name, kernel in self._db.kernels().items()
                if kernel.md5 is not None and kernel.missing_since is None
            },
            {kernel.name: kernel.updated_seconds for kernel in found.kernels},
        )
        identity = follow(self._spec, self._state, source, evidence)
        self._status.seen_master(source, identity)

    def _adopt(self) -> None:
        """Take files that an earlier mirror left into the record, and drop records of lost ones."""
        known = self._db.kernels()
        on_disk = self._folder.names()
        for name in on_disk - known.keys():
            self._db.put(KernelRow(name, None, None, None, None))
        for name, kernel in known.items():
            if not self._folder.holds(kernel):
                self._db.delete(name)

    def _wanted(self, work: _Pass) -> list[Kernel]:
        linked = set(work.targets.values())
        for file in work.unresolved.values():
            linked |= {kernel.name for kernel in candidates(file, work.listing.kernels)}
        return wanted(work.listing.kernels, self._spec, linked, time.time())

    # Links

    def _resolve_links(self, work: _Pass) -> None:
        fixed = self._spec.net_links
        modes = self._paths(work, net_link, self._spec.run_modes)
        asked = [
            *(path for mode, path in modes.items() if mode not in fixed),
            *self._paths(work, top_link, self._spec.links).values(),
        ]
        work.gone = work.links.keys() - {*modes.values(), *asked}
        for mode, path in modes.items():
            if mode in fixed:
                self._set_by_hand(work, path, fixed[mode])
        with ThreadPoolExecutor(self._spec.http.connections) as pool:
            for _ in pool.map(lambda path: self._resolve_counted(work, path), asked):
                pass

    @staticmethod
    def _paths(
        work: _Pass, path_of: Callable[[str], str], of_names: Iterable[str]
    ) -> dict[str, str]:
        paths: dict[str, str] = {}
        for name in of_names:
            try:
                paths[name] = path_of(name)
            except names.RefusedNameError as error:
                work.broken.append(str(error))
        return paths

    @staticmethod
    def _set_by_hand(work: _Pass, path: str, kernel: str) -> None:
        if kernel in work.listed or kernel in work.known:
            work.targets[path] = kernel
        else:
            work.broken.append(f"{named(path)}: the master has no kernel {kernel}")

    def _resolve_counted(self, work: _Pass, path: str) -> None:
        try:
            self._resolve_link(work, path)
        except HttpStoppedError:
            raise
        except HttpError as error:
            work.failed.append(f"{named(path)}: {error}")

    def _resolve_link(self, work: _Pass, path: str) -> None:
        if path in work.listed:
            work.gone.add(path)
            work.broken.append(f"{named(path)}: the master has a kernel of that name, which wins")
            return
        try:
            page = self._fetcher.head(f"/kernel/{quote(path)}")
        except HttpMissingError:
            self._missing_link(work, path)
            return
        file = LinkedFile(path, page.length, page.modified_seconds)
        work.heads[path] = file
        target = self._remembered(work, file) or self._by_head(work, file)
        if target is None:
            work.unresolved[path] = file
        else:
            work.targets[path] = target

    @staticmethod
    def _missing_link(work: _Pass, path: str) -> None:
        """Keep a net link that the master lost, as nodes boot from it; let one at the top go."""
        kept = ", the mirror keeps its own" if is_net(path) and path in work.links else ""
        work.broken.append(f"{named(path)}: the master has none{kept}")
        if not is_net(path):
            work.gone.add(path)

    def _remembered(self, work: _Pass, file: LinkedFile) -> str | None:
        """Return the target of an earlier pass where neither the link nor the kernel moved."""
        known = work.links.get(file.path)
        if known is None or known.target is None:
            return None
        kernel, record = work.listed.get(known.target), work.known.get(known.target)
        if kernel is None or record is None or record.updated_seconds != kernel.updated_seconds:
            return None
        return known.target if _alike(known, file) else None

    def _by_head(self, work: _Pass, file: LinkedFile) -> str | None:
        """Return the one kernel with the size and date of the file at a link, else None."""
        if file.size_bytes is None or file.modified_seconds is None:
            return None
        same: list[str] = []
        for kernel in candidates(file, work.listing.kernels):
            try:
                page = self._fetcher.head(f"/kernel/{quote(kernel.name)}")
            except HttpError:
                return None
            if (page.length, page.modified_seconds) == (file.size_bytes, file.modified_seconds):
                same.append(kernel.name)
        return same[0] if len(same) == 1 else None

    def _resolve_by_content(self, work: _Pass) -> None:
        """Find the rest by their bytes: what is at the link is fetched and compared by MD5."""
        for path, file in work.unresolved.items():
            if self._control.stopping():
                return
            try:
                self._resolve_one_by_content(work, path, file)
            except HttpStoppedError:
                raise
            except HttpError as error:
                work.failed.append(f"{named(path)}: {error}")

    def _resolve_one_by_content(self, work: _Pass, path: str, file: LinkedFile) -> None:
        known = work.links.get(path)
        if known is not None and known.md5 is not None and self._holds(known, file):
            self._link_to_content(work, path, known.md5, None)
            return
        fetched = self._fetcher.linked_file(path)
        try:
            self._link_to_content(work, path, fetched.record.md5 or "", fetched)
        finally:
            fetched.path.unlink(missing_ok=True)

    def _holds(self, known: LinkRow, file: LinkedFile) -> bool:
        """Tell whether the MD5 of an earlier pass is still that of the master's file at a link.

        And a net file of its own is here.
        """
        return _alike(known, file) and (
            not is_net(known.path) or self._folder.holds_net_file(known)
        )

    def _link_to_content(self, work: _Pass, path: str, md5: str, fetched: Fetched | None) -> None:
        same = sorted(
            name for name, kernel in work.known.items() if kernel.md5 == md5 and name != path
        )
        if same:
            work.targets[path] = same[0]
            return
        not_had = [
            kernel.name
            for kernel in candidates(work.heads[path], work.listing.kernels)
            if work.known.get(kernel.name) is None or work.known[kernel.name].md5 is None
        ]
        if not_had:
            work.failed.append(f"{named(path)}: may be {not_had[0]}, which is not here yet")
            return
        if not is_net(path):
            # A file at the top would be listed as a kernel, which it is not on the master.
            work.broken.append(f"{named(path)}: leads to no kernel that the master lists")
        elif fetched is not None:
            # No kernel of that content is listed: the master keeps a file of its own there.
            self._folder.publish_net_file(path, fetched)
        file = work.heads[path]
        work.links[path] = LinkRow(path, file.size_bytes, file.modified_seconds, None, md5)
        self._db.put_link(work.links[path])

    def _apply_links(self, work: _Pass) -> None:
        """Point every link whose kernel is served at it."""
        on_disk = self._folder.names()
        for path, target in work.targets.items():
            # A kernel that the master had under the name of a link gives way in _remove.
            if target in on_disk and path not in on_disk:
                self._link(work, path, target)
                if is_net(path) and self._status.record.bootable_at is None:
                    self._status.update(bootable_at=utc_now())

    def _link(self, work: _Pass, path: str, target: str) -> None:
        if not self._folder.leads(path, target):
            self._folder.link(path, target)
        file = work.heads.get(path, LinkedFile(path, None, None))
        self._db.put_link(LinkRow(path, file.size_bytes, file.modified_seconds, target))

    # Kernels

    def _changed(self, work: _Pass, kernel: Kernel) -> bool:
        known = work.known.get(kernel.name)
        if known is None or known.md5 is None or known.updated_seconds != kernel.updated_seconds:
            return True
        if not known.recheck and kernel.updated_seconds is not None:
            return False
        page = self._fetcher.head(f"/kernel/{quote(kernel.name)}")
        if (page.length, page.modified_seconds) != (known.size_bytes, known.modified_seconds):
            return True
        self._db.put(replace(known, recheck=False))
        return False

    def _fetch(self, work: _Pass, chosen: list[Kernel]) -> None:
        todo = [kernel for kernel in chosen if self._counted_changed(work, kernel)]
        workers = self._spec.http.connections
        with ThreadPoolExecutor(workers, thread_name_prefix="kernel") as pool:
            futures = {
                pool.submit(self._fetcher.kernel, kernel.name, kernel.updated_seconds): kernel
                for kernel in todo
            }
            try:
                for future in as_completed(futures):
                    self._publish(work, futures[future], future)
                    self._report(work, chosen)
            except BaseException:
                for future in futures:
                    future.cancel()
                raise

    def _counted_changed(self, work: _Pass, kernel: Kernel) -> bool:
        try:
            return self._changed(work, kernel)
        except HttpStoppedError:
            raise
        except HttpError as error:
            work.failed.append(f"kernel {kernel.name}: {error}")
            return False

    def _publish(self, work: _Pass, kernel: Kernel, future: Future[Fetched]) -> None:
        try:
            fetched = future.result()
        except HttpStoppedError:
            raise
        except HttpError as error:
            work.failed.append(f"kernel {kernel.name}: {error}")
            return
        date, updated = work.listing.date_seconds, kernel.updated_seconds
        recheck = date is not None and updated is not None and date - updated < _RECHECK_SECONDS
        self._folder.publish(fetched)
        record = replace(fetched.record, recheck=recheck)
        self._db.put(record)
        work.known[kernel.name] = record
        self._apply_links(work)

    def _remove(self, work: _Pass, keep: set[str]) -> None:
        """Remove what the master dropped (guarded, retained) or the operator deselected."""
        # A kernel that takes a link's name and could not be had yet leaves the link served.
        links_gone = (work.gone & work.links.keys()) - (keep - self._folder.names())
        linked = self._folder.linked().items()
        keep |= {target for path, target in linked if path not in links_gone}
        keep |= set(work.targets.values())
        listed = work.listed.keys()
        dropped = [name for name in work.known if name not in listed and name not in keep]
        deselected = [name for name in work.known if name in listed and name not in keep]
        lost = [path for path in links_gone if path in self._spec.links and path not in listed]
        self._guard(work, dropped, len(lost))
        replaced = [name for name in dropped if work.targets.get(name) in self._folder.names()]
        dropped = [name for name in dropped if name not in replaced]
        doubts = self._absences.unconfirmed(
            [name for name in dropped if work.known[name].missing_since is None]
        )
        work.broken += [f"{name}: {doubt}" for name, doubt in doubts.items()]
        dropped = [name for name in dropped if name not in doubts]
        self._unlink(links_gone)
        self._replace(work, replaced)
        for name in [*deselected, *self._expired(work, dropped)]:
            self._folder.remove(name)
            self._forget(work, name)
        self._name_hidden_links(work)

    def _unlink(self, paths: Iterable[str]) -> None:
        for path in paths:
            self._folder.unlink(path)
            self._db.delete_link(path)

    def _replace(self, work: _Pass, kernels: Iterable[str]) -> None:
        """Let links at the top take the names that kernels had."""
        for name in kernels:
            self._link(work, name, work.targets[name])
            self._forget(work, name)

    def _forget(self, work: _Pass, name: str) -> None:
        self._db.delete(name)
        work.known.pop(name)

    def _name_hidden_links(self, work: _Pass) -> None:
        """Name the links whose place a kernel still has that the master does not list any more."""
        on_disk = self._folder.names()
        for path in work.targets:
            if path in on_disk:
                work.broken.append(f"{named(path)}: the kernel of that name is still needed here")

    def _guard(self, work: _Pass, dropped: list[str], lost_links: int) -> None:
        gone = sum(1 for name in dropped if work.known[name].missing_since is None)
        known = len(work.known) + sum(1 for path in work.links if not is_net(path))
        vanished = Vanished(gone + lost_links, known, len(work.listing.kernels))
        used = int(self._db.number(_CONFIRMED))
        if guard(self._spec, vanished, used, self._spec.schedule.interval_seconds):
            self._db.set_number(_CONFIRMED, self._spec.removal_confirmation)

    def _expired(self, work: _Pass, dropped: Iterable[str]) -> list[str]:
        now = time.time()
        expired: list[str] = []
        for name in dropped:
            known = work.known[name]
            since = known.missing_since if known.missing_since is not None else now
            if now - since >= self._spec.retention_days * _DAY_SECONDS:
                expired.append(name)
            elif known.missing_since is None:
                work.known[name] = replace(known, missing_since=now)
                self._db.put(work.known[name])
        return expired

    # Status

    def _report(self, work: _Pass, chosen: list[Kernel]) -> None:
        done = [
            known
            for kernel in chosen
            if (known := work.known.get(kernel.name)) is not None
            and known.md5 is not None
            and known.updated_seconds == kernel.updated_seconds
        ]
        done_bytes = sum(known.size_bytes or 0 for known in done)
        missing = len(chosen) - len(done)
        linked = self._folder.linked()
        self._status.update(
            done=Amount(items=len(done), bytes=done_bytes),
            total=Amount(items=len(chosen), bytes=None if missing else done_bytes),
            lag=Lag(items=missing, bytes=0 if not missing else None, seconds=self._lag(missing)),
            refused=name_list(work.listing.refused),
            broken=name_list(work.broken),
            details={
                "master_requests": self._master.requests_sent,
                "links": sum(1 for path in linked if not is_net(path)),
                "net_links": sum(1 for path in linked if is_net(path)),
                "received_bytes": self._master.bytes_received,
                "retained": sum(1 for known in work.known.values() if known.missing_since),
            },
        )

    def _lag(self, missing: int) -> float | None:
        if not missing:
            return 0.0
        last = self._status.record.last_success_at
        return None if last is None else (utc_now() - last).total_seconds()

    def _finish(self, work: _Pass) -> None:
        if not work.failed:
            return
        for message in work.failed[:10]:
            self._status.error(message)
        raise PassIncompleteError(f"{len(work.failed)} failed, the first: {work.failed[0]}")


def _alike(known: LinkRow, file: LinkedFile) -> bool:
    """Tell whether the master's file at a link is as it was in an earlier pass."""
    return (known.size_bytes, known.modified_seconds) == (file.size_bytes, file.modified_seconds)
