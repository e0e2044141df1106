"""The start of a session: who are the two servers, and where does copying go on."""

import time
from dataclasses import dataclass

from sync.agent.chunks.checkpoint import FlistsState
from sync.agent.chunks.reconcile.crash_recovery import earlier, newest
from sync.agent.chunks.scan.cut_points import accepts, plan, sample_size
from sync.agent.chunks.scan.spans import Span
from sync.agent.job import Directories, JobFailed
from sync.agent.zdb import Cursor, NamespaceInfo, ZdbConnection
from sync.contract.pinned_chunks import PinnedChunksReader
from sync.contract.spec import FlistsSpec


@dataclass(frozen=True)
class Meeting:
    """What both servers said at the start of a session. slave_keys: of all its namespaces."""

    master: NamespaceInfo
    slave: NamespaceInfo
    slave_keys: int
    identity: str | None
    spans: list[Span]


def meet(
    spec: FlistsSpec, directories: Directories, password: str | None, state: FlistsState
) -> Meeting:
    """Check both servers against what `state` remembers and decide where to go on.

    Changes `state` where it has to start anew. Raises ZdbError, and JobFailed for a master that
    is another one, went backwards, or lost what it had.
    """
    timeout = spec.io_timeout_seconds
    with ZdbConnection.open(spec.local_zdb, password, timeout) as slave:
        slave_info = slave.nsinfo()
        slave_keys = slave.count_keys()
        boot = _boot(slave)
        if state.slave_boot not in ("", boot):
            _distrust_newest(state)
        if not state.marks:
            state.marks = [(time.time(), newest(slave))]
    if slave_info.entries * 2 < state.done_items:
        # So much is lost that listing anew, asking the slave first, is quicker than mending.
        _start_anew(state)
    with ZdbConnection.open(spec.source, None, timeout) as master:
        master_info = master.nsinfo()
        _check_identity(spec, master, master_info, state)
        spans = [span.span() for span in state.spans]
        if not spans:
            pinned = PinnedChunksReader(directories.users_state)
            keys = pinned.sample(sample_size(spec.scanners))
            spans = plan(master, spec.scanners, keys, master_info.entries)
        if not state.anchors and spans[-1].up.asked.cursor:
            state.anchors = [spans[-1].up.asked.cursor.hex]
    state.slave_boot = boot
    identity = state.anchors[0] if state.anchors else None
    return Meeting(master_info, slave_info, slave_keys, identity, spans)


def _boot(slave: ZdbConnection) -> str:
    facts = slave.info()
    return f"{facts.get('instance_id', '')} {facts.get('boot_time', '')}"


def _distrust_newest(state: FlistsState) -> None:
    """Note that what the slave got last may not have reached its disk."""
    safe = state.safe_cursor()
    if safe is not None:
        state.unproven = safe if state.unproven is None else earlier(safe, state.unproven)
    state.marks = []


def _start_anew(state: FlistsState) -> None:
    state.spans = []
    state.done_items = state.done_bytes = state.stored_items = state.extra_items = 0
    state.snapshot_done = False


def _check_identity(
    spec: FlistsSpec, master: ZdbConnection, info: NamespaceInfo, state: FlistsState
) -> None:
    source = str(spec.source)
    trouble = _trouble(source, master, info, state, spec.removal_floor_items)
    names = [str(endpoint) for endpoint in spec.sources]
    chosen = bool(state.sources) and set(state.sources).isdisjoint(names)
    state.sources = names
    if trouble is None:
        return
    if chosen:
        # None of the old names is left, so the operator chose another master; what came from the
        # old one stays in the ledger.
        _start_anew(state)
        state.anchors = []
    elif spec.removal_confirmation > state.confirmation:
        state.confirmation = spec.removal_confirmation
        _start_anew(state)
        state.anchors = []
    else:
        raise JobFailed(
            f"{trouble}; nothing is changed here. If this master is right, raise "
            "removalConfirmation by one: then it is compared anew and nothing is copied twice"
        )


def _trouble(
    source: str, master: ZdbConnection, info: NamespaceInfo, state: FlistsState, floor: int
) -> str | None:
    """Say what is wrong with the master, None if nothing is."""
    for anchor in state.anchors:
        if not accepts(master, Cursor.from_hex(anchor)):
            if info.entries == 0:
                return f"the master {source} lists nothing any more"
            return f"the master {source} is another one than was followed until now"
    if info.entries == 0 and state.done_items > floor:
        return f"the master {source} lists nothing any more"
    for span in state.spans:
        for edge in (span.low, span.high):
            if edge and edge.cursor and not accepts(master, Cursor.from_hex(edge.cursor)):
                return f"the master {source} has gone backwards"
    return None
