"""0-db's memory: what was measured fits, and a limit never promises more keys than it can hold."""

import pytest

from sync.agent.job import JobPaused
from sync.agent.zdb.errors import ZdbError
from sync.agent.zdb.key_room import KeyRoom, require_key_room
from sync.agent.zdb.namespace_info import NamespaceInfo
from sync.contract.zdb_memory import LEAST_MIB, MIB, bytes_for, keys_within, mib_for

MEASURED_KEYS, MEASURED_BYTES = 2_038_397, 399_000_000
MOST_KEYS = 2**64 - 1
NSINFO = "name: default\nentries: {}\ndata_size_bytes: {}\n"


def test_what_was_measured_fits_with_a_tenth_to_spare() -> None:
    assert 0.89 < MEASURED_BYTES / bytes_for(MEASURED_KEYS) <= 0.9


@pytest.mark.parametrize(
    "keys", [0, 1, 1000, MEASURED_KEYS, 10**9, MOST_KEYS, pytest.param(10**400, id="huge")]
)
def test_the_limit_for_so_many_keys_has_room_for_them_and_not_for_a_fifth_more(keys: int) -> None:
    assert keys <= keys_within(bytes_for(keys)) <= keys + 1
    assert keys <= keys_within(mib_for(keys) * MIB) <= keys * 6 // 5 + MIB // 100


def test_a_limit_under_the_table_itself_has_room_for_none() -> None:
    assert keys_within(128 * MIB) == 0
    assert keys_within((LEAST_MIB - 1) * MIB) == 0


def test_a_terabyte_of_chunks_fits_the_default_limit() -> None:
    assert mib_for(10**12 // 38_000) < 4096


def test_the_pause_names_keys_limit_and_remedy() -> None:
    with pytest.raises(JobPaused) as paused:
        require_key_room(1_000_001, bytes_for(1_000_000), wanted_keys=26_000_000)
    message = str(paused.value)
    assert "1000001" in message
    assert f"limits.zdb.memoryMb to {mib_for(26_000_000)} or more" in message
    require_key_room(1_000_000, bytes_for(1_000_000))
    require_key_room(10**12, None)


def test_the_most_keys_that_a_master_can_count_pause_the_job() -> None:
    keys = NamespaceInfo.of(NSINFO.format(MOST_KEYS, MOST_KEYS).encode()).entries
    with pytest.raises(JobPaused, match=f"would hold {MOST_KEYS}"):
        require_key_room(keys, bytes_for(1000), wanted_keys=keys)


@pytest.mark.parametrize(
    "number", [str(MOST_KEYS + 1), "9" * 400, "9" * 5000, "-1", "", "1_0", "٣"]
)
def test_a_number_that_no_0_db_counts_to_is_named_in_short(number: str) -> None:
    for numbers, field in (((number, 1), "entries"), ((1, number), "data_size_bytes")):
        with pytest.raises(ZdbError, match=f"NSINFO: {field} is no unsigned 64-bit") as refused:
            NamespaceInfo.of(NSINFO.format(*numbers).encode())
        assert len(str(refused.value)) < 100


def test_keys_that_several_threads_take_count_before_they_are_stored() -> None:
    counted: list[int] = []

    def count() -> int:
        counted.append(1)
        return 990

    room = KeyRoom(bytes_for(1000), count)
    room.take(5)
    room.take(5)
    with pytest.raises(JobPaused):
        room.take(2)
    assert len(counted) == 1, "0-db is not asked for each few keys"
    KeyRoom(None, count).take(10**12)
    assert len(counted) == 2, "without a limit its disk is looked at all the same"
