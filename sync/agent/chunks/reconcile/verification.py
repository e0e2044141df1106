"""verify and repair: the slave read from end to end, every payload checked, every key compared."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from sync.agent.chunks.failover import answering
from sync.agent.chunks.key_files import KeyFile, KeyPartitions, matching
from sync.agent.chunks.reconcile.refetch import bad_keys, refetch
from sync.agent.job import Directories, JobFailed, Problem, VerifyOptions, VerifyReport
from sync.agent.zdb.connection import ZdbConnection
from sync.agent.zdb.errors import ZdbError
from sync.contract.spec import FlistsSpec

BAD: Final = "its payload does not have this hash"
MISSING: Final = "the master has it, the local 0-db has not"
# More are of no use to anybody, and they are kept in memory.
_MOST_NAMED: Final = 10_000


def verify(spec: FlistsSpec, directories: Directories, options: VerifyOptions) -> VerifyReport:
    """Check one part of the slave: read each payload back, and name what the master has more.

    A part is the keys whose last two bytes leave `part - 1` when divided by `parts`. Payloads are
    always read, with or without `chunks`: they are all that this job has. Raises JobFailed.
    """
    return _checked(spec, directories, options, repairing=False)


def repair(spec: FlistsSpec, directories: Directories, options: VerifyOptions) -> VerifyReport:
    """As verify, and fetch just what is bad or missing from the master. Raises JobFailed."""
    return _checked(spec, directories, options, repairing=not options.offline)


def _checked(
    spec: FlistsSpec, directories: Directories, options: VerifyOptions, *, repairing: bool
) -> VerifyReport:
    try:
        asked = spec if options.offline else answering(spec)
        return _check(asked, directories, options, repairing=repairing)
    except ZdbError as error:
        raise JobFailed(str(error)) from error


def in_part(key: bytes, options: VerifyOptions) -> bool:
    """Return whether a key belongs to the part that is asked for."""
    return int.from_bytes(key[-2:], "big") % options.parts == options.part - 1


class _Problems:
    """What is wrong: the first keys by their names, the others by their number."""

    def __init__(self) -> None:
        self.named: list[Problem] = []
        self.unnamed = 0

    def add(self, keys: Sequence[bytes], what: str) -> None:
        room = max(0, _MOST_NAMED - len(self.named))
        self.named += [Problem(key.hex(), what) for key in keys[:room]]
        self.unnamed += len(keys[room:])


def _check(
    spec: FlistsSpec, directories: Directories, options: VerifyOptions, *, repairing: bool
) -> VerifyReport:
    password = directories.zdb_admin_password()
    timeout = spec.io_timeout_seconds
    problems = _Problems()
    checked = repaired = 0
    with (
        tempfile.TemporaryDirectory(dir=directories.state, prefix="verify-") as work,
        ZdbConnection.open(spec.local_zdb, password, timeout) as slave,
    ):
        folder = Path(work)
        wrong = KeyFile(folder / "wrong")
        here, there = KeyPartitions(folder / "slave"), KeyPartitions(folder / "master")
        for page in slave.pages():
            entries = [entry for entry in page if in_part(entry[0], options)]
            checked += len(entries)
            here.add([entry[0] for entry in entries])
            bad = bad_keys(slave, entries)
            problems.add(bad, BAD)
            wrong.add(bad)
        if not options.offline:
            with ZdbConnection.open(spec.source, None, timeout) as master:
                for page in master.pages():
                    there.add([entry[0] for entry in page if in_part(entry[0], options)])
            for ours, theirs in matching(here, there):
                missing = sorted(theirs - ours)
                problems.add(missing, MISSING)
                wrong.add(missing)
        if repairing and wrong.count:
            with ZdbConnection.open(spec.source, None, timeout) as master:
                repaired = refetch(master, slave, wrong.read()).stored
    return VerifyReport(checked, tuple(problems.named), repaired, problems.unnamed)
