"""verify and repair: the kernels on disk against the rows and the master."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace

from sync.agent.digests import file_digest
from sync.agent.job import (
    Control,
    Directories,
    Problem,
    VerifyOptions,
    VerifyReport,
    one_at_a_time,
)
from sync.agent.kernels import folder, listing
from sync.agent.kernels.fetcher import Head, head, master_of
from sync.agent.kernels.links import is_net, points_to
from sync.agent.kernels.state_db import KernelRow, KernelStateDb, LinkRow
from sync.agent.master.client import HttpMissingError, Master
from sync.agent.master.endpoints import by_any_name
from sync.agent.supervisor import repair_pass
from sync.contract.spec import KernelsSpec


class _Scan:
    """One look at the part of the kernels that the options name."""

    def __init__(self, spec: KernelsSpec, directories: Directories, options: VerifyOptions) -> None:
        self._spec = spec
        self._options = options
        self._root = directories.kernels
        self.checked = 0

    def problems(self, db: KernelStateDb) -> Iterator[Problem]:
        rows, links = db.kernels(), db.links()
        known = {name: row for name, row in rows.items() if self._options.covers(name)}
        for row in known.values():
            self.checked += 1
            if not folder.holds(self._root / row.name, row.size_bytes):
                yield Problem(row.name, "is not there, or has another size")
            elif not self._has_md5(row.name, row.md5):
                yield Problem(row.name, "is not the file that was published")
        for name in filter(self._options.covers, sorted(folder.names(self._root) - rows.keys())):
            self.checked += 1
            yield Problem(name, "is served and was not published by this job")
        yield from self._links([link for link in links.values() if self._options.covers(link.path)])
        if not self._options.offline:
            linked = {link.target for link in links.values() if link.target is not None}
            with contextlib.closing(master_of(self._spec, Control())) as master:
                yield from by_any_name(lambda: [*self._against_master(master, known, linked)])

    def _has_md5(self, path: str, md5: str | None) -> bool:
        return file_digest(self._root / path)[1] == md5

    def _links(self, links: list[LinkRow]) -> Iterator[Problem]:
        for link in links:
            if link.target is None and not is_net(link.path):
                continue  # at the top, what is none of the master's kernels is not served
            self.checked += 1
            if link.target is not None and not points_to(self._root, link.path, link.target):
                yield Problem(link.path, f"does not lead to {link.target}")
            elif not (self._root / link.path).exists():
                yield Problem(link.path, "is not there, or dangles")
            elif link.md5 is not None and not self._has_md5(link.path, link.md5):
                yield Problem(link.path, "is not the file that was published")

    def _against_master(
        self, master: Master, known: dict[str, KernelRow], linked: set[str]
    ) -> Iterator[Problem]:
        master.begin_pass()
        found = listing.fetch(master, self._spec)
        for kernel in listing.wanted(found, self._spec, linked):
            if self._options.covers(kernel.name) and kernel.name not in known:
                yield Problem(kernel.name, "is on the master and not here")
        for name in known.keys() & {kernel.name for kernel in found.kernels}:
            if _differs(master, known[name]):
                yield Problem(name, "has another size or date on the master")


def _differs(master: Master, row: KernelRow) -> bool:
    try:
        return head(master, row.name) != Head.of(row)
    except HttpMissingError:
        return True


def verify(spec: KernelsSpec, directories: Directories, options: VerifyOptions) -> VerifyReport:
    """Compare the kernels on disk with the rows and the master; changes nothing."""
    scan = _Scan(spec, directories, options)
    with one_at_a_time(directories.state), KernelStateDb(directories.state) as db:
        problems = tuple(scan.problems(db))
    return VerifyReport(scan.checked, problems)


def repair(spec: KernelsSpec, directories: Directories, options: VerifyOptions) -> VerifyReport:
    """Verify, and fetch or link anew just what is wrong.

    `repaired` counts the problems that a second look does not find any more.
    """
    report = verify(spec, directories, options)
    if not report.problems or options.offline:
        return report
    with one_at_a_time(directories.state), KernelStateDb(directories.state) as db:
        wrong = {problem.name for problem in report.problems}
        for name, row in db.kernels().items():
            if name in wrong:
                db.put(replace(row, updated_seconds=None, md5=None))
        for path in db.links().keys() & wrong:
            db.delete_link(path)
        db.try_all_again()
    repair_pass(spec, directories, Control())
    return report.after_repair(verify(spec, directories, options))
