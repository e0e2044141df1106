"""One pass of the kernels job: list, resolve links, fetch, link, remove."""

from collections.abc import Container, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from functools import partial
from random import SystemRandom
from typing import Final

from sync.agent import durable
from sync.agent.deletion_guard import Absences, Vanished, guard
from sync.agent.disk_room import DiskRoom
from sync.agent.job import Control, Directories, Engine, one_at_a_time
from sync.agent.kernels import folder, listing
from sync.agent.kernels.fetcher import Fetched, Fetcher, Head, head, master_of, url_of
from sync.agent.kernels.links import Links, Pass, is_net, linked, named, net_link
from sync.agent.kernels.listing import NET, Kernel, Listing
from sync.agent.kernels.state_db import KernelRow, KernelStateDb
from sync.agent.master.client import HttpError, HttpStoppedError
from sync.agent.master.identity import follow
from sync.agent.quarantine import Quarantine
from sync.agent.status_writer import StatusWriter, name_list, utc_now
from sync.contract.spec import KernelsSpec
from sync.contract.status import Amount, Lag

# A file that changed so shortly before the listing may have changed again within that second:
# bootstrap.py (kernel_list) gives times in whole seconds.
_RECHECK_SECONDS: Final = 2.0
_CONFIRMED: Final = "removal_confirmation"
# Before a kernel's name in reports, as "link" and "net link" before those of links.
_KERNEL: Final = "kernel "
# Kernels asked for to see whether the master itself is well.
_SAMPLE: Final = 3


class KernelsEngine(Engine[KernelsSpec]):
    """The kernels job of one spec; `one_pass` is called again and again by one thread."""

    def __init__(
        self, spec: KernelsSpec, directories: Directories, status: StatusWriter, control: Control
    ) -> None:
        super().__init__(spec, directories, status, control)
        self._root = directories.kernels
        self._db = self._stack.enter_context(KernelStateDb(directories.state))
        self._master = master_of(spec, control, status.sources)
        self._stack.callback(self._master.close)
        self._quarantine = Quarantine(spec, self._db, self._master)
        with one_at_a_time(directories.state):
            durable.require_directory(self._root / NET)
            staging = durable.staging_directory(self._root)
            self._adopt()
        room = DiskRoom(staging, spec.free_space_floor_bytes)
        self._fetcher = Fetcher(self._master, spec, staging, control, room)
        self._links = Links(self._fetcher, self._root, self._db)
        self._absences: Absences[str] = Absences(self._master, spec.http.connections, url_of)

    def _adopt(self) -> None:
        """Take over the files that an earlier mirror left, and drop the rows of lost ones."""
        names, rows = folder.names(self._root), self._db.kernels()
        for name, row in rows.items():
            # The row of a file that was taken over earlier has no size: it stays with the file.
            taken_over = row.size_bytes is None and name in names
            if not taken_over and not folder.holds(self._root / name, row.size_bytes):
                self._db.delete(name)
        for name in names - rows.keys():
            # A careful umask kept it from the bootstrap server, another uid.
            (self._root / name).chmod(durable.PUBLIC_MODE)
            self._db.put(KernelRow(name, None, None, None, None))

    def one_pass(self) -> None:
        """Copy into the folder what the master has by now.

        Raises HttpError when the master cannot be listed, PassIncompleteError when some kernel
        could not be had, JobPaused when too much vanished.
        """
        with one_at_a_time(self._directories.state):
            self._master.begin_pass()
            work = self._listed()
            self._links.ask(work)
            self._links.find(work)
            chosen = self._wanted(work)
            self._report(work, chosen)
            self._fetch(work, chosen)
            self._links.find(work)
            self._links.find_by_content(work)
            self._apply_links(work)
            self._report(work, chosen)
            if self._control.stopping():
                raise HttpStoppedError
            self._remove(work, {kernel.name for kernel in chosen} | self._spares(work, chosen))
            self._report(work, chosen)
            self._finish(work, chosen)

    def next_try_seconds(self) -> float | None:
        """Return in how many seconds a quarantined name is to be tried again."""
        return self._quarantine.next_try_seconds()

    def _listed(self) -> Pass:
        """Begin a pass with the listing of a master that is the one that was followed before.

        Raises HttpError, JobFailed.
        """
        found = listing.fetch(self._master, self._spec)
        work = Pass(found, self._quarantine, self._db.kernels(), self._db.links())
        served = {name: row for name, row in work.known.items() if row.missing_since is None}
        mirrored = {
            name: row.updated_seconds for name, row in served.items() if row.md5 is not None
        }
        listed = {name: kernel.updated_seconds for name, kernel in work.listed.items()}
        source = self._master.source
        identity = follow(self._spec, self._directories.state, source, mirrored, listed)
        self._status.seen_master(source, identity)
        if not served.keys() <= work.listed.keys():
            work = replace(work, listing=self._listed_in_either(found, served))
        self._quarantine.begin(lambda name: self._listed_as(work, name))
        return work

    def _listed_in_either(self, found: Listing, served: Container[str]) -> Listing:
        """Read the list once more: what is served goes only where neither reading has it.

        They need not agree in anything else: a file that is being written has another date each
        time, and must not keep the rest from being complete.
        """
        again = listing.fetch(self._master, self._spec)
        there = {kernel.name for kernel in again.kernels}
        more = [one for one in found.kernels if one.name in served and one.name not in there]
        return replace(again, kernels=(*again.kernels, *more))

    def _listed_as(self, work: Pass, name: str) -> str | None:
        """Return what the master lists of a name that may fail; None where nobody asks for it."""
        if name in self._asked_links():
            return ""
        kernel = work.listed.get(name.removeprefix(_KERNEL))
        return str(kernel.updated_seconds) if kernel and name.startswith(_KERNEL) else None

    def _asked_links(self) -> set[str]:
        modes = set(self._spec.run_modes) - self._spec.net_links.keys()
        return {*(named(net_link(mode)) for mode in modes), *map(named, self._spec.links)}

    def _finish(self, work: Pass, chosen: list[Kernel]) -> None:
        listed = len(work.listed) + len(self._asked_links())
        try:
            self._quarantine.settle(
                self._status, work.failures, listed, partial(self._is_well, work)
            )
        finally:
            self._report(work, chosen)

    def _is_well(self, work: Pass) -> bool:
        """Return whether the master still delivers something that it delivered before."""
        served = [kernel.name for kernel in work.listing.kernels if work.current(kernel)]
        return any(map(self._delivers, SystemRandom().sample(served, min(_SAMPLE, len(served)))))

    def _delivers(self, name: str) -> bool:
        try:
            head(self._master, name)
        except HttpError:
            return False
        return True

    def _wanted(self, work: Pass) -> list[Kernel]:
        may_be = {kernel.name for path in work.unresolved for kernel in work.candidates(path)}
        needed = may_be.union(work.targets.values())
        return listing.wanted(work.listing, self._spec, needed)

    def _spares(self, work: Pass, chosen: list[Kernel]) -> set[str]:
        """Return the next newest kernels that are here, one for each chosen one that is not yet.

        `newest` limits how many there are: what the master does not deliver pushes nothing out.
        """
        names, on_disk = {kernel.name for kernel in chosen}, folder.names(self._root)
        unlimited = self._spec.model_copy(update={"newest": None})
        older = [kernel.name for kernel in listing.wanted(work.listing, unlimited, set())]
        here = [name for name in older if name in on_disk and name not in names]
        return set(here[: len(names - on_disk)])

    def _apply_links(self, work: Pass) -> None:
        if self._links.apply(work) and self._status.record.bootable_at is None:
            self._status.update(bootable_at=utc_now())

    # Kernels

    def _fetch(self, work: Pass, chosen: list[Kernel]) -> None:
        todo = [kernel for kernel in chosen if self._is_due(work, kernel)]
        # So that one that failed before keeps no other waiting.
        todo.sort(key=lambda kernel: f"{_KERNEL}{kernel.name}" in self._quarantine)
        workers = self._spec.http.connections
        with ThreadPoolExecutor(workers, thread_name_prefix="kernel") as pool:
            futures = {pool.submit(self._fetched, kernel): kernel for kernel in todo}
            try:
                for future in as_completed(futures):
                    with work.noting(f"{_KERNEL}{futures[future].name}"):
                        self._publish(work, futures[future], future.result())
                    self._report(work, chosen)
            finally:
                pool.shutdown(cancel_futures=True)

    def _fetched(self, kernel: Kernel) -> Fetched:
        with self._quarantine.trying(f"{_KERNEL}{kernel.name}"):
            return self._fetcher.fetch_kernel(kernel.name, kernel.updated_seconds)

    def _is_due(self, work: Pass, kernel: Kernel) -> bool:
        """Return whether a kernel is to be fetched; where its date does not say, it is asked for.

        False where asking fails.
        """
        row, name = work.current(kernel), f"{_KERNEL}{kernel.name}"
        if self._quarantine.leaves_out(name):
            return False
        if row is None:
            return True
        if not row.recheck and kernel.updated_seconds is not None:
            return False
        with work.noting(name), self._quarantine.trying(name):
            if head(self._master, kernel.name) != Head.of(row):
                return True
            self._db.put(replace(row, recheck=False))
        return False

    def _publish(self, work: Pass, kernel: Kernel, fetched: Fetched) -> None:
        date, updated = work.listing.clocks.master_seconds, kernel.updated_seconds
        recheck = date is not None and updated is not None and date - updated < _RECHECK_SECONDS
        folder.publish(fetched, self._root / kernel.name)
        work.known[kernel.name] = replace(fetched.row, recheck=recheck)
        self._db.put(work.known[kernel.name])
        self._links.find(work)
        self._apply_links(work)

    # Removals

    def _remove(self, work: Pass, keep: set[str]) -> None:
        """Remove what the master dropped, what is too old (guarded both), and the deselected."""
        self._note_retained(work)
        if work.listing.clocks.fault:
            work.broken.append(work.listing.clocks.fault)
            return
        on_disk, listed = folder.names(self._root), work.listed.keys()
        # A kernel that takes a link's name and could not be had yet leaves the link served.
        links_gone = (work.gone & work.links.keys()) - (keep - on_disk)
        lost = {path for path in links_gone if path in self._spec.links and path not in listed}
        served = linked(self._root).items()
        keep |= {target for path, target in served if path not in links_gone}
        keep |= set(work.targets.values())
        dropped = [name for name in work.known if name not in listed and name not in keep]
        newly = {name for name in dropped if work.known[name].missing_since is None}
        retained = [name for name in dropped if name not in newly]
        expired = [name for name in retained if self._is_expired(work, name)]
        unwanted = [name for name in work.known if name in listed and name not in keep]
        aged = self._aged(work, unwanted)
        self._guard(work, len(newly) + len(lost), len(aged) + len(expired))
        replaced = [name for name in dropped if work.targets.get(name) in on_disk]
        # bootstrap.py (api_symlink) removes a link before it makes it anew: 404 for a moment.
        unconfirmed = self._absences.unconfirmed(lost | newly.difference(replaced))
        work.broken += [f"{path}: {reason}" for path, reason in unconfirmed.items()]
        self._links.remove(links_gone - unconfirmed.keys())
        for name in replaced:
            # A link at the top takes the name that a kernel had.
            self._links.link(work, name)
            self._delete_row(work, name)
        gone = newly.difference(replaced, unconfirmed)
        if self._spec.retention_days:
            self._retain(work, gone)
            gone = set()
        stay = {name for name in aged if not self._is_old(work, name)}
        for name in [*set(unwanted).difference(stay), *set(expired).difference(replaced), *gone]:
            durable.remove(self._root / name)
            self._delete_row(work, name)
        for path in work.targets.keys() & folder.names(self._root):
            work.broken.append(f"{named(path)}: the kernel of that name is still needed here")

    def _delete_row(self, work: Pass, name: str) -> None:
        self._db.delete(name)
        work.known.pop(name)

    def _guard(self, work: Pass, gone: int, outlived: int) -> None:
        known = len(work.known) + sum(1 for path in work.links if not is_net(path))
        vanished = Vanished(gone, known, len(work.listing.kernels), outlived=outlived)
        used = int(self._db.number(_CONFIRMED))
        if guard(self._spec, vanished, used, self._spec.schedule.interval_seconds):
            self._db.set_number(_CONFIRMED, self._spec.removal_confirmation)

    # Age and retention

    def _aged(self, work: Pass, unwanted: Iterable[str]) -> list[str]:
        """Return those unwanted kernels that only their listed age speaks against."""
        ageless = self._spec.model_copy(update={"max_age_days": None})
        kept = {kernel.name for kernel in listing.wanted(work.listing, ageless, set())}
        return [name for name in unwanted if name in kept]

    def _is_old(self, work: Pass, name: str) -> bool:
        """Return whether a kernel is too old by its own page, too: a listing has no digest."""
        days = self._spec.max_age_days
        try:
            modified = head(self._master, name).modified_seconds
        except HttpError:
            modified = None
        old = modified is not None and days is not None
        if old and work.listing.clocks.is_older(modified or 0.0, days or 0.0):
            return True
        work.broken.append(f"{name}: listed as too old, which its own page does not say: it stays")
        return False

    def _is_expired(self, work: Pass, name: str) -> bool:
        since, days = work.known[name].missing_since, self._spec.retention_days
        return since is not None and work.listing.clocks.is_older(since, days)

    def _note_retained(self, work: Pass) -> None:
        """Have those retained no more that are listed again, and none by a time to come."""
        for name, row in [*work.known.items()]:
            listed = name in work.listed
            since = None if listed else work.listing.clocks.started(row.missing_since)
            if row.missing_since is not None and since != row.missing_since:
                self._set_missing(work, name, since)

    def _retain(self, work: Pass, names: Iterable[str]) -> None:
        for name in names:
            self._set_missing(work, name, work.listing.clocks.started(None))

    def _set_missing(self, work: Pass, name: str, since_seconds: float | None) -> None:
        work.known[name] = replace(work.known[name], missing_since=since_seconds)
        self._db.put(work.known[name])

    # Status

    def _report(self, work: Pass, chosen: list[Kernel]) -> None:
        done = [row for kernel in chosen if (row := work.current(kernel)) is not None]
        done_bytes = sum(row.size_bytes or 0 for row in done)
        held = self._quarantine.reasons()
        here = {row.name for row in done}
        # What the master does not deliver is waited for by nobody.
        given_up = sum(
            kernel.name not in here and f"{_KERNEL}{kernel.name}" in held for kernel in chosen
        )
        missing = len(chosen) - len(done) - given_up
        last = self._status.record.last_success_at
        behind = None if last is None else (utc_now() - last).total_seconds()
        net = [is_net(path) for path in linked(self._root)]
        self._status.update(
            done=Amount(items=len(done), bytes=done_bytes),
            total=Amount(items=len(chosen), bytes=None if missing or given_up else done_bytes),
            lag=Lag(items=missing, seconds=behind) if missing else Lag(items=0, bytes=0, seconds=0),
            refused=name_list(work.listing.refused),
            broken=name_list([*work.broken, *(f"{name}: {held[name]}" for name in held)]),
            details={
                "master_requests": self._master.requests_sent,
                "links": net.count(False),
                "net_links": net.count(True),
                "quarantined": len(held),
                "received_bytes": self._master.bytes_received,
                "retained": sum(1 for row in work.known.values() if row.missing_since),
            },
        )
