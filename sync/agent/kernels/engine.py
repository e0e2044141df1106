"""One pass of the kernels job: list, decide, fetch, link, remove."""

import time
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from typing import Final
from urllib.parse import quote

from sync.agent.absences import Absences
from sync.agent.http import HttpError, HttpMissingError, HttpStoppedError, Master
from sync.agent.kernels import listing
from sync.agent.kernels.choosing import NetFile, candidates, link_name, wanted
from sync.agent.kernels.listing import Kernel, Listing
from sync.agent.kernels.publishing import Fetched, Fetcher, KernelFolder
from sync.agent.kernels.record import KernelRecord, NetRecord, Record
from sync.agent.passes import PassIncompleteError, one_at_a_time, seen_master
from sync.agent.removals import Vanished, guard
from sync.agent.reporter import Reporter, name_list, utc_now
from sync.agent.runtime import Control, Directories
from sync.contract import names
from sync.contract.spec import KernelsSpec
from sync.contract.status import Amount, Lag

_DAY_SECONDS: Final = 86_400.0
# A file that changed so shortly before the listing may have changed again within that second.
_RECHECK_SECONDS: Final = 2.0
_CONFIRMED: Final = "removal_confirmation"


@dataclass
class _Pass:
    """What one pass learned so far."""

    listing: Listing
    known: dict[str, KernelRecord]
    nets: dict[str, NetRecord]
    targets: dict[str, str] = field(default_factory=dict)
    unresolved: dict[str, NetFile] = field(default_factory=dict)
    heads: dict[str, NetFile] = field(default_factory=dict)
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
        reporter: Reporter,
        control: Control,
        record: Record,
        master: Master,
    ) -> None:
        self._spec = spec
        self._state = directories.state
        self._reporter = reporter
        self._control = control
        self._record = record
        self._master = master
        with one_at_a_time(directories.state):
            self._folder = KernelFolder(directories.kernels)
            self._adopt()
        self._fetcher = Fetcher(master, spec, self._folder, control)
        self._absences: Absences[str] = Absences(
            master, spec.http.connections, lambda name: f"/kernel/{quote(name)}"
        )

    def one_pass(self) -> None:
        """Bring the folder up to the master's state.

        Raises HttpError when the master can not be listed, PassIncompleteError when some kernel
        could not be had, JobPaused when too much vanished.
        """
        with one_at_a_time(self._state):
            self._one_pass()

    def _one_pass(self) -> None:
        found = listing.fetch(self._master)
        seen_master(self._reporter, self._spec.source)
        work = _Pass(found, self._record.kernels(), self._record.net())
        self._resolve_nets(work)
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

    def _adopt(self) -> None:
        """Take files that an earlier mirror left into the record, and drop records of lost ones."""
        known = self._record.kernels()
        on_disk = self._folder.names()
        for name in on_disk - known.keys():
            self._record.put(KernelRecord(name, None, None, None, None))
        for name, kernel in known.items():
            if not self._folder.holds(kernel):
                self._record.forget(name)

    def _wanted(self, work: _Pass) -> list[Kernel]:
        named = set(work.targets.values())
        for net in work.unresolved.values():
            named |= {kernel.name for kernel in candidates(net, work.listing.kernels)}
        return wanted(work.listing.kernels, self._spec, named, time.time())

    # Net links

    def _resolve_nets(self, work: _Pass) -> None:
        with ThreadPoolExecutor(self._spec.http.connections) as pool:
            for _ in pool.map(lambda mode: self._resolve_checked(work, mode), self._spec.run_modes):
                pass

    def _resolve_checked(self, work: _Pass, mode: str) -> None:
        try:
            link_name(mode)
            self._resolve_net(work, mode)
        except names.RefusedNameError as error:
            work.broken.append(str(error))
        except HttpStoppedError:
            raise
        except HttpError as error:
            work.failed.append(f"net link {mode}: {error}")

    def _resolve_net(self, work: _Pass, mode: str) -> None:
        fixed = self._spec.net_links.get(mode)
        if fixed is not None:
            if fixed in work.listed or fixed in work.known:
                work.targets[mode] = fixed
            else:
                work.broken.append(f"net link {mode}: the master has no kernel {fixed}")
            return
        try:
            page = self._fetcher.head(f"/kernel/net/{quote(link_name(mode))}")
        except HttpMissingError:
            kept = ", the mirror keeps its own" if mode in work.nets else ""
            work.broken.append(f"net link {mode}: the master has none{kept}")
            return
        net = NetFile(mode, page.length, page.modified_seconds)
        work.heads[mode] = net
        target = self._remembered(work, net) or self._by_head(work, net)
        if target is None:
            work.unresolved[mode] = net
        else:
            work.targets[mode] = target

    def _remembered(self, work: _Pass, net: NetFile) -> str | None:
        """Return the target of an earlier pass where neither the link nor the kernel moved."""
        known = work.nets.get(net.mode)
        if known is None or known.target is None:
            return None
        kernel, record = work.listed.get(known.target), work.known.get(known.target)
        if kernel is None or record is None or record.updated_seconds != kernel.updated_seconds:
            return None
        same = (known.size_bytes, known.modified_seconds) == (net.size_bytes, net.modified_seconds)
        return known.target if same else None

    def _by_head(self, work: _Pass, net: NetFile) -> str | None:
        """Return the one kernel with the size and date of the net file, else None."""
        if net.size_bytes is None or net.modified_seconds is None:
            return None
        same: list[str] = []
        for kernel in candidates(net, work.listing.kernels):
            try:
                page = self._fetcher.head(f"/kernel/{quote(kernel.name)}")
            except HttpError:
                return None
            if (page.length, page.modified_seconds) == (net.size_bytes, net.modified_seconds):
                same.append(kernel.name)
        return same[0] if len(same) == 1 else None

    def _resolve_by_content(self, work: _Pass) -> None:
        """Find the rest by their bytes: the net file is fetched and compared by MD5."""
        for mode, net in work.unresolved.items():
            if self._control.stopping():
                return
            try:
                self._resolve_one_by_content(work, mode, net)
            except HttpError as error:
                work.failed.append(f"net link {mode}: {error}")

    def _resolve_one_by_content(self, work: _Pass, mode: str, net: NetFile) -> None:
        known = work.nets.get(mode)
        if known is not None and known.md5 is not None and self._holds(known, net):
            self._link_to_content(work, mode, known.md5, None)
            return
        fetched = self._fetcher.net_file(mode)
        try:
            self._link_to_content(work, mode, fetched.record.md5 or "", fetched)
        finally:
            fetched.path.unlink(missing_ok=True)

    def _holds(self, known: NetRecord, net: NetFile) -> bool:
        """Tell whether a net file of its own is here as the master has it."""
        here = (known.size_bytes, known.modified_seconds)
        return here == (net.size_bytes, net.modified_seconds) and self._folder.holds_net_file(known)

    def _link_to_content(self, work: _Pass, mode: str, md5: str, fetched: Fetched | None) -> None:
        same = sorted(name for name, kernel in work.known.items() if kernel.md5 == md5)
        if same:
            work.targets[mode] = same[0]
            return
        not_had = [
            kernel.name
            for kernel in candidates(work.heads[mode], work.listing.kernels)
            if work.known.get(kernel.name) is None or work.known[kernel.name].md5 is None
        ]
        if not_had:
            work.failed.append(f"net link {mode}: may be {not_had[0]}, which is not here yet")
            return
        if fetched is not None:
            # No kernel of that content is listed: the master keeps a file of its own there.
            self._folder.publish_net_file(mode, fetched)
        net = work.heads[mode]
        work.nets[mode] = NetRecord(mode, net.size_bytes, net.modified_seconds, None, md5)
        self._record.put_net(work.nets[mode])

    def _apply_links(self, work: _Pass) -> None:
        """Point every net link whose kernel is served at it."""
        on_disk = self._folder.names()
        links = self._folder.linked()
        for mode, target in work.targets.items():
            if target not in on_disk:
                continue
            if links.get(link_name(mode)) != target:
                self._folder.link(mode, target)
            net = work.heads.get(mode, NetFile(mode, None, None))
            self._record.put_net(NetRecord(mode, net.size_bytes, net.modified_seconds, target))
            if self._reporter.record.bootable_at is None:
                self._reporter.update(bootable_at=utc_now())

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
        self._record.put(replace(known, recheck=False))
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
        self._record.put(record)
        work.known[kernel.name] = record
        self._apply_links(work)

    def _remove(self, work: _Pass, keep: set[str]) -> None:
        """Remove what the master dropped (guarded, retained) or the operator deselected."""
        nets_gone = [mode for mode in work.nets if mode not in self._spec.run_modes]
        names_gone = {link_name(mode) for mode in nets_gone}
        linked = self._folder.linked().items()
        keep |= {target for name, target in linked if name not in names_gone}
        keep |= set(work.targets.values())
        listed = work.listed.keys()
        dropped = [name for name in work.known if name not in listed and name not in keep]
        deselected = [name for name in work.known if name in listed and name not in keep]
        self._guard(work, dropped)
        doubts = self._absences.doubted(
            [name for name in dropped if work.known[name].missing_since is None]
        )
        work.broken += [f"{name}: {doubt}" for name, doubt in doubts.items()]
        dropped = [name for name in dropped if name not in doubts]
        for mode in nets_gone:
            self._folder.unlink(mode)
            self._record.forget_net(mode)
        for name in [*deselected, *self._expired(work, dropped)]:
            self._folder.remove(name)
            self._record.forget(name)
            work.known.pop(name)

    def _guard(self, work: _Pass, dropped: list[str]) -> None:
        gone = sum(1 for name in dropped if work.known[name].missing_since is None)
        vanished = Vanished(gone, len(work.known), len(work.listing.kernels))
        if guard(self._spec, vanished, int(self._record.number(_CONFIRMED))):
            self._record.set_number(_CONFIRMED, self._spec.removal_confirmation)

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
                self._record.put(work.known[name])
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
        self._reporter.update(
            done=Amount(items=len(done), bytes=done_bytes),
            total=Amount(items=len(chosen), bytes=None if missing else done_bytes),
            lag=Lag(items=missing, bytes=0 if not missing else None, seconds=self._lag(missing)),
            refused=name_list(work.listing.refused),
            broken=name_list(work.broken),
            details={
                "master_requests": self._master.requests_sent,
                "net_links": len(self._folder.linked()),
                "received_bytes": self._master.bytes_received,
                "retained": sum(1 for known in work.known.values() if known.missing_since),
            },
        )

    def _lag(self, missing: int) -> float | None:
        if not missing:
            return 0.0
        last = self._reporter.record.last_success_at
        return None if last is None else (utc_now() - last).total_seconds()

    def _finish(self, work: _Pass) -> None:
        if not work.failed:
            return
        for message in work.failed[:10]:
            self._reporter.error(message)
        raise PassIncompleteError(f"{len(work.failed)} failed, the first: {work.failed[0]}")
