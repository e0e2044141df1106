"""Walk the kernels on disk against the record and the master; mend what is wrong."""

import time
import zlib
from collections.abc import Iterator
from dataclasses import replace
from urllib.parse import quote

from sync.agent.file_digest import file_digest
from sync.agent.job import (
    Directories,
    Problem,
    RunControl,
    VerifyOptions,
    VerifyReport,
    one_at_a_time,
)
from sync.agent.kernels import listing
from sync.agent.kernels.folder import KernelFolder, master_of
from sync.agent.kernels.plan import is_net, wanted
from sync.agent.kernels.state_db import KernelRow, KernelStateDb
from sync.agent.master.client import HttpMissingError, Master
from sync.agent.supervisor import by_any_name, repair_pass
from sync.contract.spec import KernelsSpec


class _Walk:
    """One walk over the part of the kernels that the options name."""

    def __init__(self, spec: KernelsSpec, directories: Directories, options: VerifyOptions) -> None:
        self._spec = spec
        self._options = options
        self._folder = KernelFolder(directories.kernels, empty_staging=False)
        self.checked = 0

    def problems(self, db: KernelStateDb) -> Iterator[Problem]:
        known = {name: one for name, one in db.kernels().items() if self._mine(name)}
        for kernel in known.values():
            self.checked += 1
            yield from self._file(kernel)
        for name in sorted(self._folder.names() - db.kernels().keys()):
            if self._mine(name):
                self.checked += 1
                yield Problem(name, "is served and was not published by this job")
        yield from self._links(db)
        if not self._options.offline:
            linked = {link.target for link in db.links().values() if link.target is not None}
            yield from self._against_master(known, linked)

    def _mine(self, name: str) -> bool:
        return zlib.crc32(name.encode()) % self._options.parts == self._options.part - 1

    def _file(self, kernel: KernelRow) -> Iterator[Problem]:
        if not self._folder.holds(kernel):
            yield Problem(kernel.name, "is not there, or has another size")
        elif file_digest(self._folder.root / kernel.name)[1] != kernel.md5:
            yield Problem(kernel.name, "is not the file that was published")

    def _links(self, db: KernelStateDb) -> Iterator[Problem]:
        for link in db.links().values():
            # At the top, what is none of the master's kernels is not served.
            if not self._mine(link.path) or (link.target is None and not is_net(link.path)):
                continue
            self.checked += 1
            place = self._folder.root / link.path
            if link.target is not None and not self._folder.leads(link.path, link.target):
                yield Problem(link.path, f"does not lead to {link.target}")
            elif not place.exists():
                yield Problem(link.path, "is not there, or dangles")
            elif link.md5 is not None and file_digest(place)[1] != link.md5:
                yield Problem(link.path, "is not the file that was published")

    def _against_master(self, known: dict[str, KernelRow], linked: set[str]) -> Iterator[Problem]:
        master = master_of(self._spec, RunControl())
        try:
            yield from by_any_name(lambda: [*self._compared(master, known, linked)])
        finally:
            master.close()

    def _compared(
        self, master: Master, known: dict[str, KernelRow], linked: set[str]
    ) -> Iterator[Problem]:
        master.begin_pass()
        kernels = listing.fetch(master).kernels
        for kernel in wanted(kernels, self._spec, linked, time.time()):
            if self._mine(kernel.name) and kernel.name not in known:
                yield Problem(kernel.name, "is on the master and not here")
        listed = {kernel.name for kernel in kernels}
        for name, here in known.items():
            if name in listed and self._differs(master, here):
                yield Problem(name, "has another size or date on the master")

    def _differs(self, master: Master, kernel: KernelRow) -> bool:
        try:
            page = master.head(f"/kernel/{quote(kernel.name)}")
        except HttpMissingError:
            return True
        return (page.length, page.modified_seconds) != (kernel.size_bytes, kernel.modified_seconds)


def verify(spec: KernelsSpec, directories: Directories, options: VerifyOptions) -> VerifyReport:
    """Compare the kernels on disk with the record and the master; changes nothing."""
    walk = _Walk(spec, directories, options)
    with one_at_a_time(directories.state), KernelStateDb(directories.state) as db:
        problems = tuple(walk.problems(db))
    return VerifyReport(walk.checked, problems)


def repair(spec: KernelsSpec, directories: Directories, options: VerifyOptions) -> VerifyReport:
    """Verify, and fetch or link anew just what is wrong.

    `repaired` counts the problems that a second walk does not find any more.
    """
    report = verify(spec, directories, options)
    if not report.problems or options.offline:
        return report
    with one_at_a_time(directories.state), KernelStateDb(directories.state) as db:
        known = db.kernels()
        for problem in report.problems:
            if problem.name in known:
                db.put(replace(known[problem.name], updated_seconds=None, md5=None))
        wrong = {problem.name for problem in report.problems}
        for path in db.links():
            if path in wrong:
                db.delete_link(path)
    repair_pass(spec, directories, RunControl())
    left = set(verify(spec, directories, options).problems)
    gone = sum(1 for problem in report.problems if problem not in left)
    return VerifyReport(report.checked, report.problems, gone)
