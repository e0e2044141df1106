"""Long JSON pages are read row by row: as json.loads reads them, at the cost of a row."""

import json
import tracemalloc
from collections.abc import Iterator
from itertools import chain, repeat

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sync.agent.master.http1 import HttpError
from sync.agent.master.json_rows import ROW_CHARACTERS, JsonRows, LeftOut

MIB = 1 << 20
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
PAGES = st.dictionaries(st.text(), st.lists(VALUES, max_size=5), max_size=5)
CUTS = st.lists(st.integers(1, 7), min_size=1)


def pieces(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    at = 0
    for size in chain(cuts, repeat(max(1, len(data)))):
        if at >= len(data):
            return
        yield data[at : at + size]
        at += size


def read(came: Iterator[bytes]) -> dict[str, list[object]]:
    rows = JsonRows(came)
    found = {key: [*rows.rows()] for key in rows.members()}
    rows.end()
    return found


@settings(max_examples=40)
@given(PAGES, CUTS, st.booleans(), st.sampled_from([None, 1]))
def test_page_in_any_pieces_reads_as_the_whole_does(
    page: dict[str, list[object]], cuts: list[int], ascii_only: bool, indent: int | None
) -> None:
    text = json.dumps(page, ensure_ascii=ascii_only, indent=indent)
    data = text.encode("utf-8", "surrogatepass")
    assert read(pieces(data, cuts)) == json.loads(data)


@settings(max_examples=40)
@given(PAGES, st.data())
def test_page_that_is_cut_off_anywhere_is_no_page(
    page: dict[str, list[object]], data: st.DataObject
) -> None:
    whole = json.dumps(page).encode()
    end = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(HttpError, match="not JSON"):
        read(iter([whole[:end]]))


@settings(max_examples=40)
@given(PAGES, st.data())
def test_damaged_page_is_read_as_json_or_refused(
    page: dict[str, list[object]], data: st.DataObject
) -> None:
    damaged = bytearray(json.dumps(page).encode())
    damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = read(iter([bytes(damaged)]))
    except HttpError:
        return
    # A key that is there twice has its rows read twice, and its last ones kept.
    assert found == json.loads(damaged.decode("utf-8", "surrogateescape"))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"  ",
        b"<html>",
        b"{1: []}",
        b'{"a" []}',
        b'{"a": [] "b": []}',
        b'{"a": [1 2]}',
        b'{"a": [1,]}',
        b'{"a": []} x',
        b'{"a": [tru]}',
    ],
)
def test_what_is_no_json_is_refused(text: bytes) -> None:
    with pytest.raises(HttpError, match="not JSON"):
        read(iter([text]))


LONG = {
    "text": b'"' + b"x" * 4 * ROW_CHARACTERS + b'"',
    "list": b"[" + b"{}," * ROW_CHARACTERS + b"{}]",
    "digits": b"1" * 4 * ROW_CHARACTERS,
    "escapes": b'{"name":"' + b"\\u0000" * ROW_CHARACTERS + b'"}',
    "quotes": b'{"a": "' + b'\\"]}' * ROW_CHARACTERS + b'", "b": ["}"]}',
    "deep": b"[" * 3000 + b'"]"' + b"]" * 3000,
    "deep and long": b'{"a":' * ROW_CHARACTERS + b"1" + b"}" * ROW_CHARACTERS,
    "digits of a float": b"-" + b"7" * 5000,
}


@pytest.mark.parametrize("kind", LONG)
def test_row_longer_than_any_that_a_master_has_costs_neither_memory_nor_another_row(
    kind: str,
) -> None:
    tracemalloc.start()
    page = b'{"a": [1, ' + LONG[kind] + b' , "next"], "b": [' + LONG[kind] + b"]}"
    found = read(pieces(page, [ROW_CHARACTERS] * 100))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [found["a"][0], found["a"][2]] == [1, "next"]
    assert [type(found["a"][1]), type(found["b"][0])] == [LeftOut, LeftOut]
    assert peak < 8 * MIB


@pytest.mark.parametrize(
    "row", [b"[" * 4 * ROW_CHARACTERS, b'{"a":' * ROW_CHARACTERS, b'"' + b"x" * 200_000]
)
def test_row_that_never_ends_is_refused(row: bytes) -> None:
    tracemalloc.start()
    with pytest.raises(HttpError, match="not JSON"):
        read(pieces(b'{"a": [' + row, [ROW_CHARACTERS] * 100))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * MIB


def test_page_that_is_no_json_is_refused_however_much_follows() -> None:
    """Not taken for a long row: a flipped byte must not make rows vanish."""
    rows = b'{"name": "f"}, ' * 20_000
    for damage in (b'{"name" "f"}, ', b'{"name": tru}, ', b'{name: "f"}, ', b"x, "):
        with pytest.raises(HttpError, match="not JSON"):
            read(iter([b'{"a": [', damage, rows, b"1]}"]))


def test_page_costs_a_row_however_long_it_is() -> None:
    rows = repeat(b"{}," * 1000, 100)
    tracemalloc.start()
    reading = JsonRows(chain([b"["], rows, [b"{}]"]))
    count = sum(1 for _ in reading.rows())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 100_001
    # All rows at once are 6 MB; what threads of other tests do is traced, too.
    assert peak < 4 * MIB
