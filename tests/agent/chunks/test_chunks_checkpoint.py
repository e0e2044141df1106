"""The checkpoint: one owner, whole findings, and a file that releases before and after can read."""

import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from sync.agent.chunks.checkpoint import Checkpoint
from sync.agent.chunks.reconcile.reconciler import Reconciler
from sync.agent.chunks.reconcile.tasks import Finding
from sync.agent.chunks.scan.ledger import Ledger
from sync.agent.chunks.scan.spans import Edge, Page
from sync.agent.chunks.session import open_session
from sync.agent.master.endpoints import MasterEndpoints
from tests.agent.chunks.chunks_mirror import FlistsMirror, chunks
from tests.agent.mirrors import make_status

CURSOR = "10" + "00" * 16
RELEASE_BEFORE = {
    "version": 1,
    "sources": ["hub.example:9900/default"],
    "anchors": [CURSOR],
    "spans": [
        {
            "low": {"cursor": None, "key": ""},
            "high": {"cursor": CURSOR, "key": "ab"},
            "top": ["ab", "5", "1600000000"],
        },
        {"low": {"cursor": CURSOR, "key": "ab"}, "high": None, "top": None},
    ],
    "done_items": 7,
    "done_bytes": 70,
    "stored_items": 6,
    "master_items": 0,
    "extra_items": 2,
    "lacking_items": 1,
    "refused": ["cd"],
    "confirmation": 3,
    "compared_at": 12.5,
    "snapshot_done": True,
    "ledger_bytes": 17,
    "slave_boot": "1 2",
    "marks": [[1.0, ""], [11.0, CURSOR]],
    "unproven": "",
    "named": ["6e616d65"],
}


def test_the_file_of_the_release_before_is_read_and_can_be_read_by_it(tmp_path: Path) -> None:
    (tmp_path / "flists.json").write_text(json.dumps(RELEASE_BEFORE))
    checkpoint = Checkpoint.load(tmp_path)
    assert checkpoint.slave_ends == ((1.0, ""), (11.0, CURSOR))
    checkpoint.save(tmp_path)
    dropped = ("master_items", "compared_at", "snapshot_done")
    kept = {name: value for name, value in RELEASE_BEFORE.items() if name not in dropped}
    assert json.loads((tmp_path / "flists.json").read_text()) == kept


def test_a_checkpoint_is_a_value_that_nobody_changes_in_place() -> None:
    checkpoint = Checkpoint()
    with pytest.raises(ValidationError, match="frozen"):
        checkpoint.done_items = 5  # type: ignore[misc]
    with pytest.raises(TypeError, match="done_itmes"):
        checkpoint.changed(done_itmes=5)


@pytest.fixture
def often_switching() -> Iterator[None]:
    """Let threads take turns so often that what they share is seen half changed."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


def reconciler_of(mirror: FlistsMirror) -> Reconciler:
    return Reconciler(mirror.spec(), mirror.directories, Ledger(mirror.directories.state))


@pytest.mark.usefixtures("often_switching")
def test_the_owner_sees_findings_whole_and_loses_nothing_that_it_counts_meanwhile(
    tmp_path: Path,
) -> None:
    """A task that changed a shared state field by field showed half of what it had found."""
    reconciler = reconciler_of(FlistsMirror(tmp_path))
    began = threading.Event()

    def task() -> None:
        began.wait(10)
        for number in range(3000):
            refused = tuple(f"{key:x}" for key in range(number % 50))
            reconciler._findings.put(Finding({"refused": refused, "lacking_items": number % 50}))

    reconciler._start(task)
    checkpoint, counted = Checkpoint(), 0
    began.set()
    while reconciler._task is not None:
        checkpoint = reconciler.take(checkpoint)
        assert len(checkpoint.refused) == checkpoint.lacking_items
        checkpoint = checkpoint.counting([Page(Edge(), [(b"k" * 16, b"1", b"1")])])
        counted += 1
    reconciler.close()
    assert (checkpoint.done_items, checkpoint.lacking_items) == (counted, 2999 % 50)


@settings(deadline=None)
@given(st.lists(st.one_of(st.integers(0, 9), st.none()), max_size=30))
def test_findings_are_applied_in_their_order_between_what_the_owner_does(
    events: list[int | None],
) -> None:
    """A number: a task found so many extra keys. None: the owner takes, counts a page, saves."""
    with TemporaryDirectory() as folder:
        _apply_in_order(reconciler_of(FlistsMirror(Path(folder))), events)


def _apply_in_order(reconciler: Reconciler, events: list[int | None]) -> None:
    checkpoint, extra_items, counted = Checkpoint(), 0, 0
    for event in [*events, None]:
        if event is not None:
            reconciler._findings.put(Finding({"extra_items": event}))
            extra_items = event
            continue
        checkpoint = reconciler.take(checkpoint)
        checkpoint = checkpoint.counting([Page(Edge(), [(b"k" * 16, b"1", b"1")])])
        counted += 1
        assert (checkpoint.extra_items, checkpoint.done_items) == (extra_items, counted)
    reconciler.close()


def test_what_a_task_finds_until_it_ends_is_saved_with_the_session(mirror: FlistsMirror) -> None:
    """As how many keys it deleted, or that a confirmation is used up."""
    with mirror.master.connect() as master:
        master.set_many(chunks(10, 1))
    spec = mirror.spec()
    status = make_status("flists", mirror.directories, str(spec.source))
    sources = MasterEndpoints("zdb", spec.sources, spec.backoff)
    with open_session(spec, mirror.directories, status, sources) as session:
        reconciler = session.reconciler

        def task() -> None:
            reconciler._context._stopping.wait(10)
            reconciler._findings.put(Finding({"confirmation": 7}))

        reconciler._start(task)
    status.close()
    assert Checkpoint.load(mirror.directories.state).confirmation == 7
