"""The two key sets compared: what the slave lacks, and what only the slave has."""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sync.agent.chunks.reconcile.partitions import KeyFile, Partitions
from sync.agent.chunks.scan.full_scan import full_scan
from sync.agent.chunks.scan.ledger import Ledger
from sync.contract.spec import FlistsSpec

WORK_DIRECTORY: Final = "compare"


@dataclass
class Comparison:
    """missing: on the master only. dropped: on the slave only, and listed by the master once.

    extra_items: on the slave only, wherever from. observed_at: unix seconds, before the master was
    listed: a users pass that began later has seen what the master dropped.
    """

    missing: KeyFile
    dropped: KeyFile
    extra_items: int
    observed_at: float


def compare(
    spec: FlistsSpec,
    password: str | None,
    state_directory: Path,
    ledger: Ledger,
    expected: int,
    stopping: Callable[[], bool],
) -> Comparison:
    """List both namespaces and the ledger, and compare them part by part.

    The slave is listed first: what appears on the master meanwhile is "missing" and is looked at
    again, while what is dropped was really there and is no more. expected: about how many entries
    there are. Raises ZdbError, OSError, Stopped.
    """
    work = state_directory / WORK_DIRECTORY
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    result = Comparison(KeyFile(work / "missing"), KeyFile(work / "dropped"), 0, 0.0)
    timeout = spec.io_timeout_seconds
    with (
        Partitions(work / "slave", expected) as slave,
        Partitions(work / "master", expected) as master,
        Partitions(work / "ledger", expected) as listed,
    ):
        for page in full_scan(spec.local_zdb, password, timeout, stopping):
            slave.add([entry[0] for entry in page])
        result.observed_at = time.time()
        for page in full_scan(spec.source, None, timeout, stopping):
            master.add([entry[0] for entry in page])
        for keys in ledger.read():
            listed.add(keys)
        for number in range(slave.count):
            _compare_part(number, slave, master, listed, result)
    return result


def _compare_part(
    number: int, slave: Partitions, master: Partitions, listed: Partitions, result: Comparison
) -> None:
    here = slave.part(number)
    there = master.part(number)
    result.missing.add(sorted(there - here))
    extra = here - there
    result.extra_items += len(extra)
    if extra:
        result.dropped.add(sorted(extra & listed.part(number)))
