"""One name that the master lists and never delivers: everything else is complete all the same."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Final

import pytest

from sync.agent.job import PassIncompleteError
from sync.agent.master.client import ATTEMPTS
from sync.contract.pinned_chunks import PinnedChunksReader
from sync.contract.status import StatusRecord
from tests.agent.hub.flists_of import small
from tests.agent.hub.small_hub import DAY, OLD, corrupt
from tests.agent.mirrors import UsersMirror, model_tree
from tests.sandbox.services.http import Connection, HttpServer, Request, Response
from tests.sandbox.upstream import Fault, FaultKind

QUICK: Final = {"connections": 4, "read_timeout_seconds": 0.5, "connect_timeout_seconds": 2}
BLOG: Final = "alice/blog.flist"
LIGHT: Final = f"/api/flist/{BLOG}/light"
TAG: Final = "/api/flist/tf-zos/tags/3.1"


def sends(server: HttpServer, path: str, body: bytes) -> None:
    """Let the master send another body for one page."""
    inner = server.deliver

    def deliver(connection: Connection, request: Request, response: Response) -> bool:
        if request.path == path:
            content = replace(response.content, data=body, path=None)
            response = replace(response, content=content, start=0, length=None)
        return bool(inner(connection, request, response))

    server.deliver = deliver


Damage = Callable[[UsersMirror], None]


def fault(kind: FaultKind, path: str, status: int = 500) -> Damage:
    return lambda mirror: mirror.upstream.hub_faults.add(Fault(kind, path, status=status))


def page(path: str, body: bytes) -> Damage:
    return lambda mirror: sends(mirror.upstream.hub, path, body)


def light(old: bytes, new: bytes) -> Damage:
    return lambda mirror: corrupt(mirror.upstream.hub, LIGHT, old, new)


# What is wrong, and the name that is reported for it. All of it lasts for ever.
NEVER_DELIVERED: Final[dict[str, tuple[Damage, str]]] = {
    "flist 500": (fault("status", f"/{BLOG}"), BLOG),
    "flist 403": (fault("status", f"/{BLOG}", 403), BLOG),
    "flist 404": (fault("html", rf"(/api/flist)?/{BLOG}(/light|\.md5)?", 404), BLOG),
    "flist 410": (fault("status", rf"(/api/flist)?/{BLOG}(/light|\.md5)?", 410), BLOG),
    "flist of another MD5": (fault("flip", f"/{BLOG}"), BLOG),
    "flist cut off": (fault("truncate", f"/{BLOG}"), BLOG),
    "flist hangs": (fault("hang", f"/{BLOG}"), BLOG),
    "flist without end": (fault("endless", f"/{BLOG}"), BLOG),
    "flist redirected for ever": (fault("redirect-loop", f"/{BLOG}"), BLOG),
    "flist of no bytes": (page(f"/{BLOG}", b""), BLOG),
    "flist is a page": (fault("html", f"/{BLOG}", 200), BLOG),
    "description no JSON": (page(LIGHT, b"<html>"), BLOG),
    "description of a link": (light(b'"regular"', b'"symlink"'), BLOG),
    "description 403": (fault("status", LIGHT, 403), BLOG),
    "description without MD5": (light(b'"md5"', b'"md4"'), BLOG),
    "description of bad MD5": (light(b'"md5": "', b'"md5": "\\ud800\\u001b'), BLOG),
    "size true": (light(b'"size": ', b'"size": true, "was": '), BLOG),
    "size negative": (light(b'"size": ', b'"size": -'), BLOG),
    "size of 400 digits": (light(b'"size": ', b'"size": 1' + b"0" * 400), BLOG),
    "size of 5000 digits": (light(b'"size": ', b'"size": 1' + b"0" * 5000), BLOG),
    "time null": (light(b'"updated": ', b'"updated": null, "was": '), BLOG),
    "time NaN": (light(b'"updated": ', b'"updated": NaN, "was": '), BLOG),
    "time 1e999": (light(b'"updated": ', b'"updated": 1e999, "was": '), BLOG),
    "time nested": (light(b'"updated": ', b'"updated": [[1]], "was": '), BLOG),
    "time of year 100,000,000,000": (light(b'"updated": ', b'"updated": 9' + b"0" * 18), BLOG),
    "tag 500": (fault("status", TAG), "tf-zos/tags/3.1"),
    "tag 403": (fault("status", TAG, 403), "tf-zos/tags/3.1"),
    "tag 404": (fault("html", TAG, 404), "tf-zos/tags/3.1"),
    "tag hangs": (fault("hang", TAG), "tf-zos/tags/3.1"),
    "tag no list": (page(TAG, b'{"a": 1}'), "tf-zos/tags/3.1"),
    "link 500": (fault("status", r"/alice/base\.flist"), "alice/base.flist"),
    "link 403": (fault("status", r"/alice/base\.flist", 403), "alice/base.flist"),
    "taglink 500": (fault("status", "/api/flist/alice/zos/taglink"), "alice/zos"),
    "taglink no JSON": (page("/api/flist/alice/zos/taglink", b"<html>"), "alice/zos"),
    "entry of a tag 500": (fault("status", r"/tf-zos/tags/3\.1/zos\.flist"), "tf-zos/tags/3.1"),
}
# Of them, what else cannot be served then.
WITH_IT: Final = {
    "tf-zos/tags/3.1": ["tf-zos/.tag-3.1/zos.flist", "tf-zos/production", "alice/zos"]
}


def passes(mirror: UsersMirror, number: int = 2) -> StatusRecord:
    """Make passes, of which the first may be incomplete; returns the last record."""
    with mirror.engine() as (engine, status):
        with suppress(PassIncompleteError):
            engine.one_pass()
        for _ in range(number - 1):
            engine.one_pass()
        return status.record


def deletes_may_come(mirror: UsersMirror) -> bool:
    """Return whether the flists job sees that a pass was complete."""
    return PinnedChunksReader(mirror.directories.state).pass_started_at() is not None


@pytest.mark.parametrize("kind", NEVER_DELIVERED)
def test_what_is_never_delivered_is_named_and_the_pass_is_complete(
    kind: str, mirror: UsersMirror
) -> None:
    damage, name = NEVER_DELIVERED[kind]
    mirror.settings |= {"http": QUICK, "max_flist_bytes": 1 << 20}
    damage(mirror)
    record = passes(mirror)
    assert deletes_may_come(mirror)
    assert record.lag.items == 0
    assert [line for line in record.broken.names if line.startswith(f"{name}: ")]
    expected = model_tree(mirror.upstream.model)
    for gone in WITH_IT.get(name, [name]):
        del expected[gone]
    assert mirror.served() == expected


@pytest.mark.parametrize("name", ["flist 500", "flist 404", "size negative", "flist cut off"])
def test_an_older_flist_stays_served_and_pinned_meanwhile(name: str, mirror: UsersMirror) -> None:
    mirror.one_pass()
    before, keys = mirror.served()[BLOG], mirror.upstream.model.chunk_keys("alice", "blog.flist")
    mirror.upstream.model.change_flist("alice", "blog.flist", small(77), modified=OLD + 70 * DAY)
    NEVER_DELIVERED[name][0](mirror)
    record = passes(mirror, 3)
    assert mirror.served()[BLOG] == before
    assert record.lag.items == 0
    assert PinnedChunksReader(mirror.directories.state).pinned([*keys]) == keys


def test_what_is_delivered_again_is_served_when_its_time_has_come(mirror: UsersMirror) -> None:
    for kind in ("flist 500", "tag 500", "link 500"):
        NEVER_DELIVERED[kind][0](mirror)
    passes(mirror, 4)
    mirror.upstream.hub_faults.clear()
    mends_itself(mirror)


def mends_itself(mirror: UsersMirror) -> None:
    """Make passes until all is served: the intervals of tests begin at a hundredth of a second."""
    for _ in range(200):
        record = mirror.one_pass()
        if not record.broken.count:
            break
        time.sleep(0.02)
    assert mirror.served() == model_tree(mirror.upstream.model)
    assert (record.broken.count, record.details["quarantined"]) == (0, 0)


def test_what_the_master_changed_is_tried_at_once(mirror: UsersMirror) -> None:
    mirror.settings["backoff"] = {"first_seconds": 3600.0, "longest_seconds": 3600.0}
    NEVER_DELIVERED["size negative"][0](mirror)
    passes(mirror, 4)
    mirror.upstream.hub.deliver = mirror.upstream.hub_faults.deliver
    mirror.one_pass()
    assert BLOG not in mirror.served(), "its time has not come"
    mirror.upstream.model.change_flist("alice", "blog.flist", small(77), modified=OLD + 70 * DAY)
    mirror.one_pass()
    assert mirror.served() == model_tree(mirror.upstream.model)


@pytest.mark.parametrize("kind", ["flist 403", "tag 403", "link 403", "taglink no JSON"])
def test_a_quarantined_name_is_asked_for_once_and_only_when_due_also_after_a_restart(
    kind: str, mirror: UsersMirror
) -> None:
    mirror.settings["backoff"] = {"first_seconds": 3600.0, "longest_seconds": 3600.0}
    damage, name = NEVER_DELIVERED[kind]
    damage(mirror)
    passes(mirror)
    asked: list[str] = []
    inner = mirror.upstream.hub.deliver

    def counted(connection: Connection, request: Request, response: Response) -> bool:
        asked.append(request.path)
        return bool(inner(connection, request, response))

    mirror.upstream.hub.deliver = counted
    for _ in range(3):
        record = mirror.one_pass()  # each in a process of its own, as it were
    assert asked == ["/api/fileslist"] * 3
    assert [line for line in record.broken.names if line.startswith(f"{name}: ")]
    asked.clear()
    mirror.settings["removal_limit"] = 0.2  # the operator may have changed just what it takes
    mirror.one_pass()
    assert ATTEMPTS > 1
    assert 1 < len(asked) <= 3, asked
    assert len({*asked}) == len(asked)


def test_a_flist_that_hangs_again_keeps_no_other_waiting(mirror: UsersMirror) -> None:
    mirror.settings["http"] = QUICK | {"read_timeout_seconds": 8.0}
    NEVER_DELIVERED["flist 500"][0](mirror)
    passes(mirror)
    model = mirror.upstream.model
    model.change_flist("alice", "blog.flist", small(78), modified=OLD + 78 * DAY)
    model.add_flist("alice", "new.flist", small(79), OLD)
    path = mirror.directories.public / "users" / "alice" / "new.flist"
    inner, served = mirror.upstream.hub.deliver, list[bool]()

    def hangs(connection: Connection, request: Request, response: Response) -> bool:
        if request.path == f"/{BLOG}":
            for _ in range(200):
                if path.exists():
                    break
                time.sleep(0.02)
            served.append(path.exists())
        return bool(inner(connection, request, response))

    mirror.upstream.hub.deliver = hangs
    mirror.one_pass()
    assert served == [True]


# The master itself


def trouble_with_all(mirror: UsersMirror) -> None:
    mirror.upstream.hub_faults.add(Fault("status", r"/[^/]*/[^/]*\.flist"))


def trouble_with_most(mirror: UsersMirror) -> None:
    mirror.upstream.hub_faults.add(Fault("status", r"/(tf-.*|alice/b.*)"))


@pytest.mark.parametrize("trouble", [trouble_with_all, trouble_with_most])
def test_a_master_in_trouble_makes_no_pass_complete(trouble: Damage, mirror: UsersMirror) -> None:
    trouble(mirror)
    for _ in range(4):
        with pytest.raises(PassIncompleteError):
            mirror.one_pass()
    assert not deletes_may_come(mirror)
    mirror.upstream.hub_faults.clear()
    assert mirror.one_pass().broken.count == 0
    assert mirror.served() == model_tree(mirror.upstream.model)


def test_one_change_of_a_master_that_delivers_nothing_at_all_is_not_set_aside(
    mirror: UsersMirror,
) -> None:
    """Only that one is asked for, and it fails alone: so others are asked for as well."""
    mirror.one_pass()
    stamp = PinnedChunksReader(mirror.directories.state).pass_started_at()
    mirror.upstream.model.change_flist("alice", "blog.flist", small(77), modified=OLD + 70 * DAY)
    trouble_with_all(mirror)
    for _ in range(4):
        with pytest.raises(PassIncompleteError, match="1 failed"):
            mirror.one_pass()
    assert PinnedChunksReader(mirror.directories.state).pass_started_at() == stamp
    mirror.upstream.hub_faults.clear()
    mirror.one_pass()
    assert mirror.served() == model_tree(mirror.upstream.model)


def test_a_new_bad_name_in_each_pass_leaves_every_second_one_complete(
    mirror: UsersMirror,
) -> None:
    """A user who publishes a flist a minute that cannot be had."""
    mirror.upstream.hub_faults.add(Fault("status", r"/eve/.*\.flist"))
    complete = 0
    for number in range(6):
        mirror.upstream.model.add_flist("eve", f"{number}.flist", small(30 + number), OLD)
        with suppress(PassIncompleteError):
            mirror.one_pass()
            complete += 1
    assert complete == 3


def test_a_name_that_goes_from_the_master_is_named_no_more(mirror: UsersMirror) -> None:
    NEVER_DELIVERED["flist 500"][0](mirror)
    passes(mirror)
    mirror.upstream.model.delete_flist("alice", "blog.flist")
    assert mirror.one_pass().broken.count == 0


# What the master's listing, or its description of the flist, says for ever and the other does not.
DISAGREE: Final[dict[str, tuple[str, bytes, bytes]]] = {
    "an older time": ("/api/fileslist", b'"updated": 1700777600', b'"updated": 1600777600'),
    "a later time": ("/api/fileslist", b'"updated": 1700777600', b'"updated": 1800777600'),
    "a time before 1970": ("/api/fileslist", b'"updated": 1700777600', b'"updated": -7'),
    "a time with a fraction": ("/api/fileslist", b'"updated": 1700777600', b'"updated": 1.5e9'),
    "another description": (LIGHT, b'"updated": 17', b'"updated": 16'),
    "sizes in another unit": ("/api/fileslist", b" KB", b" KiB"),
    "sizes of other digits": ("/api/fileslist", b" KB", b"0 KB"),
    "sizes of nothing": ("/api/fileslist", b'"size": "', b'"size": "", "was": "'),
}


@pytest.mark.parametrize("kind", DISAGREE)
def test_flist_of_which_the_listing_says_something_else_is_here_all_the_same(
    kind: str, mirror: UsersMirror
) -> None:
    corrupt(mirror.upstream.hub, *DISAGREE[kind])
    passes(mirror, 3)
    record = mirror.one_pass()
    assert (record.lag.items, record.done.items) == (0, record.total.items)
    assert record.details["received_bytes"] == 0, "nothing is fetched again in each pass"
    served = mirror.served()
    for name in ("blog.flist", "shop.flist"):
        assert served[f"alice/{name}"] == model_tree(mirror.upstream.model)[f"alice/{name}"]
    mirror.upstream.model.change_flist("alice", "shop.flist", small(78), modified=OLD + 70 * DAY)
    passes(mirror, 3)
    assert (
        mirror.served()["alice/shop.flist"] == model_tree(mirror.upstream.model)["alice/shop.flist"]
    )
