"""verify and repair: the slave read from end to end, every payload checked, every key compared."""

import tempfile
from pathlib import Path
from typing import Final

from sync.agent.chunks.failover import answering
from sync.agent.chunks.key_files import KeyPartitions
from sync.agent.chunks.reconcile.refetch import bad_keys, refetch
from sync.agent.job import Directories, JobFailed, Problem, VerifyOptions, VerifyReport
from sync.agent.zdb.connection import ZdbConnection
from sync.agent.zdb.errors import ZdbError
from sync.contract.spec import FlistsSpec

BAD: Final = "its payload does not have this hash"
MISSING: Final = "the master has it, the local 0-db has not"


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


def _check(
    spec: FlistsSpec, directories: Directories, options: VerifyOptions, *, repairing: bool
) -> VerifyReport:
    password = directories.zdb_admin_password()
    timeout = spec.io_timeout_seconds
    problems: list[Problem] = []
    checked = repaired = 0
    with (
        tempfile.TemporaryDirectory(dir=directories.state, prefix="verify-") as work,
        ZdbConnection.open(spec.local_zdb, password, timeout) as slave,
    ):
        here, there = KeyPartitions(Path(work) / "slave"), KeyPartitions(Path(work) / "master")
        for page in slave.pages():
            entries = [entry for entry in page if in_part(entry[0], options)]
            checked += len(entries)
            here.add([entry[0] for entry in entries])
            problems += [Problem(key.hex(), BAD) for key in bad_keys(slave, entries)]
        if not options.offline:
            with ZdbConnection.open(spec.source, None, timeout) as master:
                for page in master.pages():
                    there.add([entry[0] for entry in page if in_part(entry[0], options)])
            for ours, theirs in zip(here.parts(), there.parts(), strict=True):
                problems += [Problem(key.hex(), MISSING) for key in sorted(theirs - ours)]
        if repairing and problems:
            keys = [bytes.fromhex(problem.name) for problem in problems]
            with ZdbConnection.open(spec.source, None, timeout) as master:
                repaired = refetch(master, slave, keys).stored
    return VerifyReport(checked, tuple(problems), repaired)
