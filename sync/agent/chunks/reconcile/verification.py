"""verify and repair: the slave read from end to end, every payload proven, every key looked for."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from sync.agent.chunks.failover import answering
from sync.agent.chunks.reconcile.partitions import Partitions
from sync.agent.chunks.reconcile.refetch import bad_keys, mend
from sync.agent.chunks.scan.full_scan import full_scan
from sync.agent.chunks.scan.pages import Entry as Listed
from sync.agent.job import Directories, JobFailed, Problem, VerifyOptions, VerifyReport
from sync.agent.zdb import Entry, ZdbConnection, ZdbError
from sync.contract.spec import FlistsSpec

BAD: Final = "its payload does not have this hash"
MISSING: Final = "the master has it, the local 0-db has not"


def verify(spec: FlistsSpec, directories: Directories, options: VerifyOptions) -> VerifyReport:
    """Walk one part of the slave: prove each payload, and name what the master has more.

    A part is the keys whose last two bytes leave `part - 1` when divided by `parts`. Payloads are
    always read, with or without `chunks`: they are all that this job has. Raises JobFailed.
    """
    return _checked(spec, directories, options, mending=False)


def repair(spec: FlistsSpec, directories: Directories, options: VerifyOptions) -> VerifyReport:
    """As verify, and fetch just what is bad or missing from the master. Raises JobFailed."""
    return _checked(spec, directories, options, mending=True)


def _checked(
    spec: FlistsSpec, directories: Directories, options: VerifyOptions, *, mending: bool
) -> VerifyReport:
    try:
        asked = spec if options.offline else answering(spec)
        return _check(asked, directories, options, mending=mending)
    except ZdbError as error:
        raise JobFailed(str(error)) from error


def in_part(key: bytes, options: VerifyOptions) -> bool:
    """Tell whether a key belongs to the part that is asked for."""
    return int.from_bytes(key[-2:], "big") % options.parts == options.part - 1


def _check(
    spec: FlistsSpec, directories: Directories, options: VerifyOptions, *, mending: bool
) -> VerifyReport:
    password = directories.zdb_admin_password()
    timeout = spec.io_timeout_seconds
    problems: list[Problem] = []
    with (
        tempfile.TemporaryDirectory(dir=directories.state, prefix="verify-") as work,
        ZdbConnection.open(spec.local_zdb, password, timeout) as slave,
        Partitions(Path(work) / "slave", slave.dbsize()) as here,
    ):
        checked = 0
        for entries in _part_of(spec, password, options):
            checked += len(entries)
            here.add([entry.key for entry in entries])
            problems += [Problem(key.hex(), BAD) for key in bad_keys(slave, entries)]
        if not options.offline:
            missing = _missing(spec, options, here, Path(work))
            problems += [Problem(key.hex(), MISSING) for key in missing]
        repaired = _mend(spec, slave, problems) if mending and not options.offline else 0
    return VerifyReport(checked, tuple(problems), repaired)


def _part_of(
    spec: FlistsSpec, password: str | None, options: VerifyOptions
) -> Iterator[list[Entry]]:
    for page in full_scan(spec.local_zdb, password, spec.io_timeout_seconds):
        entries = [_entry(listed) for listed in page if in_part(listed[0], options)]
        if entries:
            yield entries


def _entry(listed: Listed) -> Entry:
    return Entry(listed[0], int(listed[1]), int(listed[2]))


def _missing(spec: FlistsSpec, options: VerifyOptions, here: Partitions, work: Path) -> list[bytes]:
    missing: list[bytes] = []
    with Partitions(work / "master", 0 if here.count == 1 else 1 << 30) as there:
        for page in full_scan(spec.source, None, spec.io_timeout_seconds):
            there.add([listed[0] for listed in page if in_part(listed[0], options)])
        for number in range(here.count):
            missing += sorted(there.part(number) - here.part(number))
    return missing


def _mend(spec: FlistsSpec, slave: ZdbConnection, problems: list[Problem]) -> int:
    if not problems:
        return 0
    with ZdbConnection.open(spec.source, None, spec.io_timeout_seconds) as master:
        return mend(master, slave, [bytes.fromhex(problem.name) for problem in problems]).stored
