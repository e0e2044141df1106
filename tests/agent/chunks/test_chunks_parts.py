"""The small parts of the flists job: ledger, partitions, throttle, rates, batches."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sync.agent.chunks import key_files
from sync.agent.chunks.checkpoint import Checkpoint
from sync.agent.chunks.copying.batches import cut
from sync.agent.chunks.key_files import (
    KeyFile,
    KeyPartitions,
    decode_keys,
    encode_keys,
    read_keys,
)
from sync.agent.chunks.progress import Rate, progress
from sync.agent.chunks.scan.ledger import Ledger
from sync.agent.chunks.scan.spans import Edge, Page
from sync.agent.rate_limit import batch_bandwidth
from sync.agent.zdb.namespace_info import NamespaceInfo
from sync.contract.status import Amount, Lag

KEYS = st.lists(st.binary(min_size=1, max_size=40), max_size=40)


@settings(deadline=None)
@given(KEYS, st.integers(1, 30))
def test_keys_are_read_back_whatever_the_pieces(keys: list[bytes], piece: int) -> None:
    encoded = encode_keys(keys)
    pieces = [encoded[at : at + piece] for at in range(0, len(encoded), piece)]
    assert [key for part in decode_keys(pieces) for key in part] == keys


def test_a_torn_ledger_is_cut_back_to_what_was_promised(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.write([b"a" * 16])
    promised = ledger.size_bytes
    ledger.write([b"odd"])
    ledger.sync()
    ledger.close()
    for known in (promised, None, 1 << 40):
        with ledger.path.open("ab") as file:
            file.write(b"\x10torn")
        repaired = Ledger(tmp_path)
        repaired.repair(known)
        assert list(read_keys(repaired.path)) == [b"a" * 16, b"odd"]
        assert repaired.size_bytes == repaired.path.stat().st_size


def test_zeros_that_a_power_loss_left_in_the_ledger_are_cut_off(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.write([b"a" * 16])
    promised = ledger.size_bytes
    ledger.close()
    with ledger.path.open("ab") as file:
        file.write(bytes(4096))
    repaired = Ledger(tmp_path)
    repaired.repair(promised)
    assert repaired.size_bytes == promised
    assert list(read_keys(repaired.path)) == [b"a" * 16]


@pytest.mark.parametrize("in_memory", [7, 100_000])
def test_partitions_have_every_key_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_memory: int
) -> None:
    monkeypatch.setattr(key_files, "_BUFFERED_KEYS", in_memory)
    keys = [bytes([number % 251, number % 256]) * 8 for number in range(5000)]
    partitions = KeyPartitions(tmp_path / "parts")
    for at in range(0, 5000, 10):
        partitions.add(keys[at : at + 10])
    parts = list(partitions.parts())
    assert len(parts) == 256
    assert sum(map(len, parts)) == len(set().union(*parts))
    assert set().union(*parts) == set(keys)
    assert any((tmp_path / "parts").iterdir()) == (in_memory < 5000)


ALIKE = {
    "hashes that end alike": lambda number: b"%015d" % number + b"\x07",
    "hashes that begin alike": lambda number: b"\0" * 8 + number.to_bytes(8, "big"),
    "names in order": lambda number: b"name-%06d" % number,
    "names with one end": lambda number: b"%d.txt" % number,
    "long names": lambda number: b"%06d" % number + b"x" * 249,
}


@pytest.mark.parametrize("key", ALIKE.values(), ids=ALIKE)
def test_no_part_of_a_set_is_large_whatever_the_keys_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: Callable[[int], bytes]
) -> None:
    monkeypatch.setattr(key_files, "_BUFFERED_KEYS", 1000)
    partitions = KeyPartitions(tmp_path / "parts")
    partitions.add([key(number) for number in range(25_600)])
    sizes = [len(part) for part in partitions.parts()]
    assert sum(sizes) == 25_600
    assert max(sizes) < 200


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.sets(st.binary(min_size=1, max_size=3)), min_size=1, max_size=3), st.integers(1, 5)
)
def test_sets_are_compared_slice_by_slice_as_if_they_were_whole(
    sets: list[set[bytes]], most_keys: int
) -> None:
    with (
        pytest.MonkeyPatch.context() as patched,
        tempfile.TemporaryDirectory() as folder,
    ):
        patched.setattr(key_files, "PARTITIONS", 4)
        patched.setattr(key_files, "_PART_KEYS", most_keys)
        partitions = [KeyPartitions(Path(folder) / str(number)) for number in range(len(sets))]
        for partition, keys in zip(partitions, sets, strict=True):
            partition.add(sorted(keys))
        parts = list(key_files.matching(*partitions))
    for number, keys in enumerate(sets):
        assert set().union(*(part[number] for part in parts)) == keys
    seen = [set().union(*part) for part in parts]
    assert sum(map(len, seen)) == len(set().union(*seen))


def test_a_key_file_counts_and_keeps_order(tmp_path: Path) -> None:
    keys = KeyFile(tmp_path / "keys")
    keys.add([b"b", b"a"])
    keys.add([])
    keys.add([b"c"])
    assert keys.count == 3
    assert list(keys.read()) == [b"b", b"a", b"c"]


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 5000), min_size=1, max_size=60),
    st.integers(1, 20),
    st.integers(1, 9000),
)
def test_batches_keep_order_and_limits(lengths: list[int], most: int, most_bytes: int) -> None:
    entries = [(b"%016d" % number, b"%d" % size, b"1") for number, size in enumerate(lengths)]
    page = Page(Edge(), entries)
    batches = cut(page, entries, most, most_bytes)
    assert [entry for batch in batches for entry in batch.entries] == entries
    for batch in batches:
        assert not page.done
        page.release()
        assert len(batch.entries) <= most
        assert batch.payload_bytes <= most_bytes or len(batch.entries) == 1
    assert page.done


def test_keys_that_prove_nothing_are_fetched_in_order_apart() -> None:
    entries = [(b"name", b"1", b"1"), (b"k" * 16, b"1", b"1"), (b"other", b"1", b"1")]
    batches = cut(Page(Edge(), entries), entries, 10, 1000)
    ordered = [batch for batch in batches if batch.ordered]
    assert [entry[0] for batch in ordered for entry in batch.entries] == [b"name", b"other"]


def test_a_throttle_admits_no_more_than_its_rate_and_none_admits_all() -> None:
    bucket = batch_bandwidth(1000)
    assert bucket is not None
    assert sum(bucket.admit(600) for _ in range(100)) <= 2
    assert batch_bandwidth(None) is None


def test_rates_eta_and_lag_are_unknown_before_they_are_known() -> None:
    rate = Rate()
    checkpoint = Checkpoint(done_items=40, done_bytes=1)
    master = NamespaceInfo(100, 10, None)
    assert progress(checkpoint, master, rate, None, following=False)["eta_seconds"] is None
    rate.add(1.0, 0, 0)
    rate.add(3.0, 100, 4000)
    assert rate.per_second() == (50.0, 2000.0)
    fields = progress(checkpoint, master, rate, None, following=False)
    assert fields["lag"] == Lag(items=60, bytes=9, seconds=None)
    assert fields["eta_seconds"] == 1.2


def test_a_master_that_shrinks_is_never_done_by_more_than_all() -> None:
    master = NamespaceInfo(10, 10, None)
    fields = progress(Checkpoint(done_items=40), master, Rate(), 0.0, following=False)
    assert fields["done"] == Amount(items=10, bytes=0)
    assert fields["total"] == Amount(items=10, bytes=10)
