"""Fields of a listing that are none: such a row is refused, and costs no other row anything."""

import json
import math
from functools import partial
from hashlib import md5
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sync.agent.budget import Budget
from sync.agent.hub.listing import Listing, TagName, parse_entry, printed_bytes
from sync.agent.hub.state_db import DATABASE, FlistRow, HubStateDb, TagRow, Withheld
from sync.agent.master.json_rows import JsonRows
from sync.agent.name_room import NameRoom
from sync.agent.status_writer import name_list
from tests.agent.hub.flists_of import small
from tests.agent.mirrors import users_mirror
from tests.agent.scripted import Answer, ScriptedServer
from tests.sandbox.host import run
from tests.sandbox.upstream import Upstream, UpstreamModel

OLD: Final = 1_700_000_000
ROWS: Final[dict[str, dict[str, Any]]] = {
    "regular": {"name": "f.flist", "type": "regular", "size": "1.00 KB", "updated": OLD},
    "symlink": {"name": "l.flist", "type": "symlink", "target": "r/f.flist", "linktime": OLD},
    "taglink": {"name": "latest", "type": "taglink", "target": "r/tags/1", "linktime": OLD},
    "tag": {"name": "1", "type": "tag", "updated": OLD},
}
DEEP: Final = "[" * 3000 + "]" * 3000
# As they stand in the page; null to numbers of thousands of digits.
WRONG: Final = (
    *("null", "true", "false", "{}", "[]", "NaN", "-Infinity", "1e999", "-1e999", "0", "-1"),
    *("1.5", "100000000000000000000", "3155760000000000000", "1" + "0" * 400, "9" * 6000),
    *('""', '"\\ud800"', '"\\u0000"', '"\\u001b]0;x\\u0007"', '"\\u202e"', '"/"', '".."'),
    *(f'"{"x" * 5000}"', '{"a": {"b": [1, {"c": null}]}}', f"{'[' * 900}{']' * 900}", DEEP),
)


def page(rows: list[str]) -> bytes:
    return f'{{"r": [{", ".join(rows)}]}}'.encode()


def with_field(kind: str, field: str, value: str) -> str:
    row = {name: json.dumps(text) for name, text in ROWS[kind].items()} | {field: value}
    return f"{{{', '.join(f'{json.dumps(name)}: {text}' for name, text in row.items())}}}"


fields = st.sampled_from([(kind, field) for kind, row in ROWS.items() for field in row])
bad_rows = st.builds(
    lambda one, value: with_field(one[0], one[1], value), fields, st.sampled_from(WRONG)
)
any_row = st.one_of(bad_rows, st.sampled_from(WRONG))


@settings(max_examples=400, deadline=None)
@given(rows=st.lists(any_row, max_size=4))
def test_whatever_a_row_holds_the_others_are_read_and_all_can_be_kept(rows: list[str]) -> None:
    good = json.dumps({"name": "good.flist", "type": "regular", "size": "2.00 KB", "updated": OLD})
    listing = Listing()
    reading = JsonRows(iter([page([*rows, good])]))
    with NameRoom.of(Budget(1 << 30), {}).page() as room:
        for repository in reading.members():
            listing.add(repository, reading, partial(parse_entry, repository), room)
    assert "r/good.flist" in map(str, listing.regulars)
    for seconds in (one.updated for one in listing.regulars.values()):
        assert math.isfinite(seconds)
    with run.in_memory() as folder, HubStateDb(Path(folder, DATABASE)) as db, db.transaction():
        for entry in listing.regulars.values():
            db.put_flist(FlistRow(entry.name, entry.updated, entry.size_text))
            db.put_withheld(Withheld(entry.name, entry.updated, entry.size_text, "", "no"))
        for link in listing.links.values():
            db.put_link(link)
        db.put_tag(TagRow(TagName("r", "1"), 0, due=True, refused=tuple(listing.refused)), ())
    assert name_list(listing.refused).model_dump_json().encode()


@pytest.mark.parametrize("field", ["name", "type", "size", "updated"])
def test_one_bad_row_never_keeps_the_rest_from_being_complete(field: str, tmp_path: Path) -> None:
    with Upstream(UpstreamModel()) as upstream, users_mirror(tmp_path, upstream) as mirror:
        data = upstream.model.add_flist("r", "good.flist", small(3), OLD)
        light = {
            "type": "regular",
            "size": len(data),
            "md5": md5(data).hexdigest(),
            "updated": OLD,
        }
        size = f"{len(data) / 1024:.2f} KB"
        good = {"name": "good.flist", "type": "regular", "size": size, "updated": OLD}
        bad = [with_field("regular", field, value) for value in WRONG]
        with ScriptedServer() as server:
            server.pages["/api/fileslist"] = Answer(page([*bad, json.dumps(good)]))
            server.put_json("/api/flist/r/good.flist/light", light)
            server.pages["/r/good.flist"] = Answer(data)
            mirror.settings["sources"] = [server.url]
            mirror.settings["flists"] = {"include": ["r/good.flist"]}
            record = mirror.one_pass()
        assert mirror.served() == {"r/good.flist": ("file", data)}
        assert record.refused.count > len(WRONG) // 2


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("1.00 KB", 1024.0),
        ("26.65 KB", 27289.6),
        ("9" * 400 + " KB", None),
        ("1" * 6000 + " KB", None),
        ("1e400 KB", None),
        ("nan KB", None),
        ("-1 KB", None),
        ("1.2.3 KB", None),
        ("\u0661 KB", None),
        (". KB", None),
        ("1.00 MB", None),
    ],
)
def test_printed_size_is_one_that_can_be_counted_or_none(
    text: str, size_bytes: float | None
) -> None:
    assert printed_bytes(text) == size_bytes
