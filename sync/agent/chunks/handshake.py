"""The start of a session: who are the two servers, and where does copying go on."""

from dataclasses import dataclass

from sync.agent.chunks.checkpoint import Checkpoint
from sync.agent.chunks.reconcile.crash_recovery import after_restart
from sync.agent.chunks.scan.cut_points import known_keys, plan
from sync.agent.chunks.scan.spans import Span
from sync.agent.job import Directories, JobFailed
from sync.agent.zdb.connection import ZdbConnection
from sync.agent.zdb.namespace_info import NamespaceInfo
from sync.contract.spec import FlistsSpec


@dataclass(frozen=True)
class Handshake:
    """What both servers said at the start of a session, and where it goes on.

    slave_keys: of all its namespaces.
    """

    master: NamespaceInfo
    slave: NamespaceInfo
    slave_keys: int
    checkpoint: Checkpoint
    spans: list[Span]


def shake_hands(
    spec: FlistsSpec, directories: Directories, password: str | None, checkpoint: Checkpoint
) -> Handshake:
    """Check both servers against the checkpoint and decide where to go on.

    Raises ZdbError, and JobFailed for a master that is another one, went backwards, or lost what it
    had.
    """
    timeout = spec.io_timeout_seconds
    with ZdbConnection.open(spec.local_zdb, password, timeout) as slave:
        slave_info = slave.nsinfo()
        slave_keys = slave.count_keys()
        checkpoint = after_restart(slave, checkpoint)
    if slave_info.entries * 2 < checkpoint.done_items:
        # So much is lost that listing anew, asking the slave first, is quicker than refetching.
        checkpoint = checkpoint.anew()
    with ZdbConnection.open(spec.source, None, timeout) as master:
        master_info = master.nsinfo()
        checkpoint = _identified(spec, master, master_info, checkpoint)
        spans = [span.span() for span in checkpoint.spans]
        if not spans:
            keys = known_keys(directories.users_state, spec.scanners)
            spans = plan(master, spec.scanners, keys, master_info.entries)
        if not checkpoint.anchors and spans[-1].up.asked.cursor:
            checkpoint = checkpoint.changed(anchors=(spans[-1].up.asked.cursor,))
    return Handshake(master_info, slave_info, slave_keys, checkpoint, spans)


def _identified(
    spec: FlistsSpec, master: ZdbConnection, info: NamespaceInfo, checkpoint: Checkpoint
) -> Checkpoint:
    """Return the checkpoint to go on from with this master. Raises JobFailed, ZdbError."""
    trouble = _trouble(str(spec.source), master, info, checkpoint, spec.removal_floor_items)
    names = tuple(str(endpoint) for endpoint in spec.sources)
    # None of the old names is left: then the operator chose another master; what came from the old
    # one stays in the ledger.
    chosen = bool(checkpoint.sources) and set(checkpoint.sources).isdisjoint(names)
    checkpoint = checkpoint.changed(sources=names)
    if trouble is None:
        return checkpoint
    if chosen:
        return checkpoint.anew().changed(anchors=())
    if spec.removal_confirmation > checkpoint.confirmation:
        return checkpoint.anew().changed(anchors=(), confirmation=spec.removal_confirmation)
    raise JobFailed(
        f"{trouble}; nothing is changed here. If this master is right, raise "
        "removalConfirmation by one: then it is compared anew and nothing is copied twice"
    )


def _trouble(
    source: str, master: ZdbConnection, info: NamespaceInfo, checkpoint: Checkpoint, floor: int
) -> str | None:
    """Say what is wrong with the master, None if nothing is."""
    # A cursor stays valid for ever, also when its key is deleted: the index is append-only, and
    # zdbd compares length and CRC of the entry it points at (libzdb/index.c,
    # index_entry_deserialize). So a master that refuses one has another history.
    for anchor in checkpoint.anchors:
        if not master.accepts(anchor):
            if info.entries == 0:
                return f"the master {source} lists nothing any more"
            return f"the master {source} is another one than was followed until now"
    if info.entries == 0 and checkpoint.done_items > floor:
        return f"the master {source} lists nothing any more"
    for span in checkpoint.spans:
        for edge in (span.low, span.high):
            if edge and edge.cursor and not master.accepts(edge.cursor):
                return f"the master {source} has gone backwards"
    return None
