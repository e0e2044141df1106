"""What a master, or the settings, may get wrong: a clear state, and nothing written."""

import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sync.agent.chunks import repair, verify
from sync.agent.job import VerifyOptions
from tests.agent.chunks.chunks_mirror import FlistsMirror, chunks, following, key_of
from tests.agent.chunks.scripted_zdb import ScriptedZdb, bulk, page

FIRST = b"\x10" + bytes(4) + (5).to_bytes(4, "little") + (29).to_bytes(4, "little") + bytes(4)
LATER = b"\x10" + bytes(4) + (5).to_bytes(4, "little") + (79).to_bytes(4, "little") + bytes(4)
PAYLOAD = b"hello"
KEY = key_of(PAYLOAD)

Answer = Callable[[list[bytes]], bytes | None]


def listing(answer: bytes) -> Answer:
    """Answer the first SCAN of a listing with this."""

    def script(request: list[bytes]) -> bytes | None:
        return answer if request == [b"SCAN"] or request[0] == b"RSCAN" else None

    return script


def serving(payload_reply: bytes) -> Answer:
    """List one key and answer its MGET with this."""

    def script(request: list[bytes]) -> bytes | None:
        if request in ([b"SCAN"], [b"RSCAN"]):
            return page(FIRST, (KEY, len(PAYLOAD), 1))
        return payload_reply if request[0] == b"MGET" else None

    return script


def assert_nothing_was_written(mirror: FlistsMirror) -> None:
    with mirror.slave.connect() as slave:
        assert slave.nsinfo().entries == 0


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (page(b"short", (KEY, 5, 1)), "cursor"),
        (page(FIRST, (b"k" * 256, 5, 1)), "key of 256 bytes"),
        (page(FIRST, (KEY, (8 << 20) + 1, 1)), "payload of 8388609 bytes"),
        (page(FIRST, (KEY, -5, 1)), "payload of -5 bytes"),
        (page(FIRST, (KEY, 1 << 70, 1)), "limit"),
        (b"*2\r\n$17\r\n" + FIRST + b"\r\n*99999999\r\n", "limit"),
        (b"*2\r\n$17\r\n" + FIRST + b"\r\n*-3\r\n", "negative"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "not a 0-db"),
        (b"*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n:1\r\n", "nested"),
    ],
    ids=lambda value: value if isinstance(value, str) else "listing",
)
def test_a_listing_that_no_0_db_gives_stops_the_job(
    mirror: FlistsMirror, answer: bytes, says: str
) -> None:
    with ScriptedZdb(listing(answer)) as master:
        mirror.source = master.endpoint
        with mirror.job() as job:
            assert says in str(job.failure())
    assert_nothing_was_written(mirror)


def test_a_forged_cursor_that_does_not_advance_stops_the_job(mirror: FlistsMirror) -> None:
    def script(request: list[bytes]) -> bytes | None:
        if request[0] == b"MGET":
            return b"*1\r\n$-1\r\n"
        return page(FIRST, (KEY, 5, 1)) if request[0] in (b"SCAN", b"RSCAN") else None

    with ScriptedZdb(script) as master:
        mirror.source = master.endpoint
        with mirror.job() as job:
            failure = str(job.failure())
    assert "cursor" in failure
    assert "restart" in failure
    assert_nothing_was_written(mirror)


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (b"*2\r\n" + bulk(PAYLOAD) * 2, "MGET"),
        (b"*1\r\n$-9\r\n", "MGET element"),
        (b"*1\r\n$99999999\r\n", "MGET element"),
        (b"*1\r\n$8388608x\r\n", "MGET element"),
        (b"*1\r\n:5\r\n", "MGET element"),
        (b"HTTP/1.1 200 OK\r\n\r\n", "MGET"),
        (b"*1\r\n$" + b"5" * 400, "does not end"),
        (b"*1\r\n" + bulk(PAYLOAD) + b"more", "nobody asked for"),
    ],
    ids=lambda value: value if isinstance(value, str) else "reply",
)
def test_payloads_that_no_0_db_gives_stop_the_job(
    mirror: FlistsMirror, reply: bytes, says: str
) -> None:
    with ScriptedZdb(serving(reply)) as master:
        mirror.source = master.endpoint
        with mirror.job() as job:
            assert says in str(job.failure())
    if says != "nobody asked for":  # what came before the surplus was right
        assert_nothing_was_written(mirror)


@pytest.mark.parametrize("payload", [b"", b"other", b"a payload of another length"])
def test_a_payload_that_is_not_its_keys_is_refused_and_named(
    mirror: FlistsMirror, payload: bytes
) -> None:
    with ScriptedZdb(serving(b"*1\r\n" + bulk(payload))) as master:
        mirror.source = master.endpoint
        with mirror.job() as job:
            record = job.wait(lambda record: record.refused.count == 1, "refused")
            assert record.refused.names == [KEY.hex()]
            record = job.wait(lambda record: record.lag.items == 0, "in sync but for that")
    assert (record.total.items, record.done.items) == (1, 0)
    assert_nothing_was_written(mirror)


def test_a_page_that_never_ends_is_given_up_and_tried_again(mirror: FlistsMirror) -> None:
    endless = b"*2\r\n$17\r\n" + FIRST + b"\r\n*9\r\n"
    with ScriptedZdb(listing(endless)) as master:
        mirror.source = master.endpoint
        with mirror.job(io_timeout_seconds=0.3) as job:
            record = job.wait(lambda record: record.retries >= 2, "tried again")
    assert "no complete reply" in record.errors[-1].message
    assert_nothing_was_written(mirror)


def test_a_page_without_end_is_not_kept(mirror: FlistsMirror) -> None:
    def script(request: list[bytes]) -> bytes | None:
        return b"*2\r\n" + b"A" * (40 << 20) if request == [b"SCAN"] else None

    with ScriptedZdb(script) as master:
        mirror.source = master.endpoint
        with mirror.job() as job:
            assert "limit" in str(job.failure())
    assert_nothing_was_written(mirror)


def test_a_namespace_that_the_master_has_not_stops_the_job(mirror: FlistsMirror) -> None:
    mirror.source = mirror.master.endpoint.model_copy(update={"namespace": "nowhere"})
    with mirror.job() as job:
        failure = str(job.failure())
    assert "'nowhere'" in failure
    assert "source.zdb.namespace" in failure


def test_a_wrong_local_password_stops_the_job(mirror: FlistsMirror) -> None:
    (mirror.directories.secrets / "zdb-admin").write_text("wrong")
    with mirror.job() as job:
        failure = str(job.failure())
    assert "password" in failure
    assert "/secrets/zdb-admin" in failure
    assert "wrong" not in failure.replace("password", "")
    assert_nothing_was_written(mirror)


def test_a_missing_local_password_stops_the_job(mirror: FlistsMirror) -> None:
    with mirror.master.connect() as master:
        master.set_many(chunks(10, 1))
    (mirror.directories.secrets / "zdb-admin").unlink()
    with mirror.job() as job:
        assert "zdb-admin" in str(job.failure())
    assert_nothing_was_written(mirror)


def followed(mirror: FlistsMirror, count: int = 500) -> list[bytes]:
    made = chunks(count, 1)
    with mirror.master.connect() as master:
        master.set_many(made)
    with mirror.job() as job:
        job.wait(following)
    return [key for key, _, _ in made]


def replace_master(mirror: FlistsMirror, count: int, seed: int) -> None:
    mirror.master.stop()
    mirror.master.wipe()
    mirror.master.start()
    with mirror.master.connect() as master:
        master.set_many(chunks(count, seed))


def test_another_master_stops_the_job_until_the_operator_accepts_it(
    mirror: FlistsMirror,
) -> None:
    keys = followed(mirror)
    replace_master(mirror, 500, seed=2)
    with mirror.job() as job:
        failure = str(job.failure())
    assert "another one" in failure
    assert "removalConfirmation" in failure
    with mirror.slave.connect() as slave:
        assert all(slave.exists(keys))
        assert slave.nsinfo().entries == len(keys)
    with mirror.job(removal_confirmation=1) as job:
        job.wait(following)
    with mirror.slave.connect() as slave:
        assert slave.nsinfo().entries == 1000


def test_a_master_that_lost_everything_stops_the_job(mirror: FlistsMirror) -> None:
    keys = followed(mirror)
    replace_master(mirror, 0, seed=2)
    with mirror.job() as job:
        assert "lists nothing" in str(job.failure())
    with mirror.slave.connect() as slave:
        assert slave.nsinfo().entries == len(keys)


def test_a_master_that_deletes_everything_while_it_is_followed_stops_the_job(
    mirror: FlistsMirror,
) -> None:
    keys = followed(mirror)
    with mirror.job(deletes_without_users=True) as job:
        job.wait(following)
        with mirror.master.connect() as master:
            master.delete_many(keys)
        job.wait_for_end()
        assert job.record.phase == "paused" or "lists nothing" in str(job.ended)
    with mirror.slave.connect() as slave:
        assert slave.nsinfo().entries == len(keys)


def test_a_master_that_went_backwards_stops_the_job(mirror: FlistsMirror, tmp_path: Path) -> None:
    made = chunks(3000, 1)
    with mirror.master.connect() as master:
        master.set_many(made[:1500])
    with mirror.job() as job:
        job.wait(following)
    mirror.master.stop()
    for name in ("data", "index"):
        shutil.copytree(mirror.master.directory / name, tmp_path / "older" / name)
    mirror.master.start()
    with mirror.master.connect() as master:
        master.set_many(made[1500:])
    with mirror.job() as job:
        job.wait(following)
    mirror.master.stop()
    mirror.master.wipe()
    for name in ("data", "index"):
        shutil.copytree(tmp_path / "older" / name, mirror.master.directory / name)
    mirror.master.start()
    with mirror.job() as job:
        assert "gone backwards" in str(job.failure())
    with mirror.slave.connect() as slave:
        assert slave.nsinfo().entries == 3000


def test_verify_names_what_is_bad_or_missing_and_repair_fetches_just_that(
    mirror: FlistsMirror,
) -> None:
    keys = followed(mirror)
    with mirror.slave.connect() as slave:
        slave.set_many([(keys[3], b"not what it was", None)])
        slave.delete_many([keys[7]])
    spec = mirror.spec()
    report = verify(spec, mirror.directories, VerifyOptions())
    assert {problem.name for problem in report.problems} == {keys[3].hex(), keys[7].hex()}
    assert report.checked == len(keys) - 1
    offline = verify(spec, mirror.directories, VerifyOptions(offline=True))
    assert [problem.name for problem in offline.problems] == [keys[3].hex()]
    repaired = repair(spec, mirror.directories, VerifyOptions())
    assert repaired.repaired == 2
    assert verify(spec, mirror.directories, VerifyOptions()).problems == ()
    assert mirror.same()


def test_the_parts_of_verify_are_the_whole(mirror: FlistsMirror) -> None:
    keys = followed(mirror)
    parts = [
        verify(mirror.spec(), mirror.directories, VerifyOptions(part=part, parts=3)).checked
        for part in (1, 2, 3)
    ]
    assert sum(parts) == len(keys)
    assert min(parts) > 0


def test_a_foreign_write_on_the_slave_breaks_nothing(mirror: FlistsMirror) -> None:
    keys = followed(mirror)
    with mirror.slave.connect() as slave:
        slave.set_many([(b"foreign", os.urandom(10), None)])
        slave.set_many([(keys[0], b"overwritten by somebody", None)])
    with mirror.job() as job, mirror.master.connect() as master:
        job.wait(following)
        added = chunks(1, seed=7)[0]
        master.set_many([added])
        job.wait(lambda record: record.details.get("copied_items") == 1, "followed")
    with mirror.slave.connect() as slave:
        assert slave.call(b"GET", added[0]) == added[1]
        assert slave.exists([b"foreign"]) == [True]


@pytest.mark.parametrize("element", [b"-Internal Error\r\n", b"$-1\r\n", bulk(b"other")])
def test_a_payload_that_the_master_cannot_read_is_named_and_not_looked_for_again_and_again(
    mirror: FlistsMirror, element: bytes
) -> None:
    """It is listed and has a length for ever."""

    def script(request: list[bytes]) -> bytes | None:
        if request[0] in (b"LENGTH", b"KEYTIME"):
            return b":%d\r\n" % len(PAYLOAD)
        return serving(b"*1\r\n" + element)(request)

    with ScriptedZdb(script) as master:
        mirror.source = master.endpoint
        with mirror.job() as job:
            job.wait(lambda record: record.refused.names == [KEY.hex()], "named")
            compared = job.wait(lambda record: record.lag.items == 0).details.get("compared", 0)
            time.sleep(2)
            assert job.record.details.get("compared", 0) == compared
    assert_nothing_was_written(mirror)


@pytest.mark.parametrize("element", [b"-Internal Error\r\n", bulk(b"other"), bulk(b"hellO")])
def test_a_payload_that_was_damaged_on_its_way_comes_when_it_is_asked_for_again(
    mirror: FlistsMirror, element: bytes
) -> None:
    damaged = threading.Event()
    damaged.set()

    def script(request: list[bytes]) -> bytes | None:
        if request[0] in (b"LENGTH", b"KEYTIME"):
            return b":%d\r\n" % len(PAYLOAD)
        answer = element if damaged.is_set() else bulk(PAYLOAD)
        return serving(b"*1\r\n" + answer)(request)

    with ScriptedZdb(script) as master:
        mirror.source = master.endpoint
        with mirror.job() as job:
            job.wait(lambda record: record.refused.names == [KEY.hex()], "named")
            time.sleep(1)
            assert job.record.refused.names == [KEY.hex()], "asked for again in vain"
            damaged.clear()
            record = job.wait(lambda record: record.refused.count == 0, "mended")
            job.wait(lambda record: record.done.items == 1, "counted")
    assert record.details["mended_items"] == 1
    with mirror.slave.connect() as slave:
        assert slave.mget([KEY]) == [PAYLOAD]
