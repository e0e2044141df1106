"""The two key sets compared: what the slave lacks, and what only the slave has."""

import tempfile
import time
from pathlib import Path
from typing import Final

from sync.agent import durable
from sync.agent.chunks.checkpoint import REFUSED_KEPT
from sync.agent.chunks.key_files import KeyFile, KeyPartitions, matching, read_keys
from sync.agent.chunks.reconcile.deletes import WORK_DIRECTORY, Deletes
from sync.agent.chunks.reconcile.refetch import grouped, refetch
from sync.agent.chunks.reconcile.tasks import Finding, TaskContext

# A comparison takes no more than a tenth of the time.
_COMPARE_SHARE: Final = 10
_GROUP: Final = 10_000


def compare_keys(context: TaskContext, deletes: Deletes) -> None:
    """Compare all keys of both sides; fetch what is missing, let wait what was dropped.

    Raises ZdbError, OSError, Stopped.
    """
    started = time.monotonic()
    work = context.directories.state / WORK_DIRECTORY
    durable.discard(work)
    durable.own_directory(work)
    # missing: on the master only. dropped: on the slave only, and listed by the master once.
    missing, dropped = KeyFile(work / "missing"), KeyFile(work / "dropped")
    extra_items = 0
    with tempfile.TemporaryDirectory(dir=work) as folder:
        sets = [KeyPartitions(Path(folder) / name) for name in ("slave", "master", "ledger")]
        observed_at = _list(context, *sets)
        for here, there, listed in matching(*sets):
            missing.add(sorted(there - here))
            extra = here - there
            extra_items += len(extra)
            dropped.add(sorted(extra & listed))
    context.report(Finding(counts={"compared": 1}))
    _fetch(context, missing)
    deletes.observe(dropped, extra_items, observed_at)
    took_seconds = time.monotonic() - started
    wait_seconds = max(context.spec.delete_check_seconds, took_seconds * _COMPARE_SHARE)
    context.report(Finding(look_in_seconds=wait_seconds))


def _list(
    context: TaskContext, slave: KeyPartitions, master: KeyPartitions, ledger: KeyPartitions
) -> float:
    """Fill the key sets; returns when (unix seconds) the listing of the master began.

    A users pass that began later has seen what the master dropped.
    """
    spec, password = context.spec, context.directories.zdb_admin_password()
    # 0-db has no snapshots, so the slave is listed first: what appears on the master meanwhile is
    # "missing" and is asked for again, while what is dropped was really there and is gone.
    with context.connect(spec.local_zdb, password) as connection:
        for page in connection.pages():
            context.check_stop()
            slave.add([entry[0] for entry in page])
    began_at = time.time()
    with context.connect(spec.source) as connection:
        for page in connection.pages():
            context.check_stop()
            master.add([entry[0] for entry in page])
    for keys in grouped(read_keys(context.ledger.path), _GROUP):
        ledger.add(keys)
    return began_at


def _fetch(context: TaskContext, missing: KeyFile) -> None:
    # The slave was listed first: some of these were copied meanwhile.
    lacking_items = missing.count
    refused: list[str] = []
    with context.connections() as (master, slave):
        for keys in grouped(missing.read(), _GROUP):
            there = slave.exists(keys)
            lacking = [key for key, known in zip(keys, there, strict=True) if not known]
            context.ledger.write(lacking)
            refetched = refetch(master, slave, lacking)
            context.report(Finding(counts={"mended_items": refetched.stored}))
            lacking_items -= refetched.stored + refetched.gone + len(keys) - len(lacking)
            refused = sorted([*refused, *(key.hex() for key in refetched.refused)])[:REFUSED_KEPT]
            context.check_stop()
    context.report(Finding({"refused": tuple(refused), "lacking_items": lacking_items}))
