"""A hub of any size costs no more memory than the job has: it fits, or is refused with a reason."""

import gzip
import json
import shutil
import tracemalloc
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from sync.agent.budget import Budget
from sync.agent.hub.listing import Name
from sync.agent.hub.source import Source
from sync.agent.job import JobPaused
from sync.agent.master.client import HttpError
from sync.agent.name_room import FLIST_BYTES, NameRoom
from sync.contract.job_memory import OWN_BYTES
from tests.agent.mirrors import UsersMirror, model_tree
from tests.sandbox.services.http import Connection, HttpServer, Request, Response

MIB = 1 << 20
# As little as a job takes by itself, and a few MiB.
SMALL_MB = (OWN_BYTES >> 20) + 10
LISTING = "/api/fileslist"
TAG_PAGE = "/api/flist/tf-zos/tags/3.1"


def flist(number: int) -> dict[str, object]:
    return {"name": f"f{number:07}.flist", "type": "regular", "size": "1.00 KB", "updated": 1}


def link(number: int) -> dict[str, object]:
    target = "tf-zos/zos-1.flist"
    return {"name": f"f{number:07}.flist", "type": "symlink", "linktime": 1, "target": target}


def rows(row: str, count: int) -> str:
    return f"[{','.join([row] * count)}]"


# What one user's repository holds: each of a few KiB as gzip, or soon so.
REPOSITORIES = {
    "rows without anything": rows("{}", 30_000),
    "rows that are no rows": rows("1", 30_000),
    "flists": json.dumps([flist(number) for number in range(12_000)]),
    "links": json.dumps([link(number) for number in range(8_000)]),
    "tags": json.dumps([{"name": f"t{n}", "type": "tag", "updated": 1} for n in range(8_000)]),
}
LISTINGS = {
    "repositories": json.dumps({f"repository-{number}": [] for number in range(30_000)}),
    "refused repositories": json.dumps({f"../{number}": [] for number in range(30_000)}),
    "brackets": "[" * 2 * MIB,
}
# What is left out alone, and costs nothing.
LEFT_OUT = {
    "one row of many objects": f'{{"alice":[{rows("{}", 300_000)}]}}',
    "a key of megabytes": f'{{"{"x" * 4 * MIB}":[]}}',
    "a repository that is a number": f'{{"alice":{"1" * MIB}}}',
}
TAG_PAGES = {
    "links": json.dumps([link(number) for number in range(8_000)]),
    "rows without anything": rows("{}", 30_000),
}


def send(server: HttpServer, path: str, body: str) -> None:
    """Let the master send `body` for a page, as gzip."""
    inner, packed = server.deliver, gzip.compress(body.encode())

    def deliver(connection: Connection, request: Request, response: Response) -> bool:
        if request.path == path:
            content = replace(response.content, data=packed, path=None)
            headers = {**response.headers, "Content-Encoding": "gzip"}
            response = replace(response, headers=headers, content=content, start=0, length=None)
        return bool(inner(connection, request, response))

    server.deliver = deliver


@contextmanager
def memory_at_most(size_bytes: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < size_bytes
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("what", LISTINGS)
def test_listing_that_costs_more_than_the_job_has_is_refused_with_a_reason(
    what: str, mirror: UsersMirror
) -> None:
    mirror.settings["memory_limit_mb"] = SMALL_MB
    mirror.one_pass()
    hub = mirror.upstream.hub
    usual = hub.deliver
    with mirror.engine() as (engine, _):
        send(hub, LISTING, LISTINGS[what])
        refused = pytest.raises(
            HttpError, match=r"limits\.users\.memoryMb|not JSON|not an? (list|object)"
        )
        with memory_at_most(12 * MIB), refused:
            engine.one_pass()
        assert mirror.served() == model_tree(mirror.upstream.model)
        hub.deliver = usual
        engine.one_pass()


@pytest.mark.parametrize("place", ["before all", "after all", "among them", "in an official one"])
@pytest.mark.parametrize("what", REPOSITORIES)
def test_repository_that_costs_more_than_the_job_has_is_left_out_alone(
    what: str, place: str, mirror: UsersMirror
) -> None:
    mirror.settings["memory_limit_mb"] = SMALL_MB
    if place == "in an official one":
        mirror.settings["official"] = ["bob", "tf-zos", "tf-bootable"]
    real = json.loads(urllib.request.urlopen(f"{mirror.spec().source}{LISTING}").read())
    others = [f'"{name}":{json.dumps(entries)}' for name, entries in real.items()]
    at = {"before all": 0, "after all": len(others)}.get(place, 1)
    others.insert(at, f'"bob":{REPOSITORIES[what]}')
    send(mirror.upstream.hub, LISTING, f"{{{','.join(others)}}}")
    with mirror.engine() as (engine, status), memory_at_most(12 * MIB):
        engine.one_pass()
        record = status.record
    assert mirror.served() == model_tree(mirror.upstream.model)
    assert record.lag.items == 0
    assert record.broken.count == 1
    assert record.broken.names[0].startswith("bob: left out, lists more names")
    assert "limits.users.memoryMb" in record.broken.names[0]


@pytest.mark.parametrize("what", LEFT_OUT)
def test_one_value_that_no_master_has_is_left_out_alone(what: str, mirror: UsersMirror) -> None:
    mirror.settings |= {"memory_limit_mb": SMALL_MB, "removal_floor_items": 0}
    mirror.one_pass()
    with mirror.engine() as (engine, status):
        send(mirror.upstream.hub, LISTING, LEFT_OUT[what])
        with memory_at_most(12 * MIB), pytest.raises(JobPaused, match="no longer lists"):
            engine.one_pass()
        assert status.record.refused.count == 1
    assert mirror.served() == model_tree(mirror.upstream.model)


@pytest.mark.parametrize("what", TAG_PAGES)
def test_tag_that_costs_more_than_the_job_has_fails_alone(what: str, mirror: UsersMirror) -> None:
    mirror.settings["memory_limit_mb"] = SMALL_MB
    send(mirror.upstream.hub, TAG_PAGE, TAG_PAGES[what])
    with mirror.engine() as (engine, _), memory_at_most(12 * MIB):
        room = NameRoom.of(Budget.of(mirror.spec()))
        listing = engine._source.listing(room, {})
        before = room.taken_bytes
        failed = engine._tags.read(listing, room)
    assert [*failed] == [*listing.tags]
    assert room.taken_bytes == before


def test_the_largest_hub_that_fits_is_taken_and_a_flist_more_is_refused(
    mirror: UsersMirror,
) -> None:
    budget = Budget.of(mirror.spec())
    with mirror.engine() as (engine, _):
        wanted = NameRoom.of(budget)
        listing = engine._source.listing(wanted, {})

        def read(limit_bytes: int, served: set[Name]) -> NameRoom:
            room = NameRoom(limit_bytes, budget.setting)
            rows = {name: row for name, row in engine._publisher.flists.items() if name in served}
            Source(engine._master, mirror.spec()).listing(room, rows)
            return room

        assert read(wanted.taken_bytes, set()).taken_bytes == wanted.taken_bytes
        assert read(wanted.taken_bytes - 1, set()).taken_bytes < wanted.taken_bytes
        engine.one_pass()
        # What is here already has its room.
        served = {*listing.regulars}
        rest = read(wanted.taken_bytes, served).taken_bytes
        assert rest <= wanted.taken_bytes - FLIST_BYTES * len(served)


def test_a_page_that_cannot_be_read_gives_its_room_back() -> None:
    room = NameRoom(1000, "limits.users.memoryMb")

    def read_page() -> None:
        with room.page() as page:
            page.take(900, ["x"])
            page.take(900, ["x"])

    with pytest.raises(HttpError, match="memoryMb"):
        read_page()
    assert room.taken_bytes == 0


def test_three_hundred_thousand_flists_have_room_in_the_default_memory(mirror: UsersMirror) -> None:
    room = NameRoom.of(Budget.of(mirror.spec()))
    with room.page() as page:
        for number in range(300_000):
            page.take(FLIST_BYTES, [f"an-application-of-somebody-{number}-v1.2.3.flist"])


@pytest.mark.parametrize("kind", ["flists", "links", "links in a tag", "flists in a tag"])
def test_more_than_the_job_has_room_for_on_the_disk_is_refused_with_a_reason(
    kind: str, mirror: UsersMirror
) -> None:
    """Left by strangers while the hub took uploads, or by a larger mirror: no kill for memory."""
    mirror.settings["memory_limit_mb"] = SMALL_MB
    mirror.one_pass()
    before = mirror.served()
    folder = mirror.directories.public / "users" / "carol" / (".tag-1" if "tag" in kind else "")
    folder.mkdir(parents=True)
    for number in range(12_000):
        path = folder / f"f{number:07}.flist"
        if kind.startswith("flists"):
            path.touch()
        else:
            path.symlink_to("../../alice/blog.flist" if "tag" in kind else "../alice/blog.flist")
    tracemalloc.start()
    try:
        with pytest.raises(JobPaused, match=r"hub's folder holds \d+ .*limits\.users\.memoryMb"):
            mirror.one_pass()
        assert tracemalloc.get_traced_memory()[1] < 6 * MIB
    finally:
        tracemalloc.stop()
    assert before.items() <= mirror.served().items()
    shutil.rmtree(mirror.directories.public / "users" / "carol")
    mirror.one_pass()
    assert mirror.served() == before
