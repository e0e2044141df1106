"""A name of the master that sends what no 0-db sends is left for the next, with its reason."""

import socket

import pytest

from sync.agent.zdb.protocol import NeedMoreBytes, encode, parse_reply
from sync.contract.spec import Backoff, ZdbEndpoint
from tests.agent.chunks.chunks_mirror import FlistsMirror, following
from tests.agent.chunks.scripted_zdb import ScriptedZdb, bulk
from tests.agent.master.sources_of import in_use, skipped

STAND_IN = True
PATIENT = Backoff(first_seconds=0.05, longest_seconds=60)


def flood(element: bytes, wire_bytes: int = 6_000_000) -> bytes:
    """Return so many bytes of such elements, as arrays of arrays."""
    row = b"*65536\r\n" + 65_536 * element
    rows = wire_bytes // len(row)
    return b"*%d\r\n" % rows + rows * row


FLOODS = {
    "pages of empty arrays": (b"SCAN", flood(b"*0\r\n", 29_000_000)),
    "pages of errors": (b"SCAN", flood(b"-\r\n")),
    "last page of empty payloads": (b"RSCAN", flood(b"$0\r\n\r\n")),
    "facts of words": (b"NSINFO", flood(b"+\r\n")),
    "facts of many lines": (b"NSINFO", bulk(b"a: b\n" * 400_000)),
    "payloads of arrays": (b"MGET", b"*1\r\n" + flood(b"*0\r\n")),
}


class Forwarding:
    """Answers as the master does, but for one command."""

    def __init__(self, master: ZdbEndpoint, command: bytes, answer: bytes) -> None:
        self._master = (master.host, master.port)
        self._command = command
        self._answer = answer

    def __call__(self, request: list[bytes]) -> bytes | None:
        if request[0] == self._command:
            return self._answer
        if request[0] in (b"WAIT", b"SELECT", b"AUTH"):
            return None
        with socket.create_connection(self._master) as master:
            master.sendall(encode(*request))
            received = b""
            while True:
                received += master.recv(1 << 16)
                try:
                    return received[: parse_reply(received)[1]]
                except NeedMoreBytes:
                    continue


@pytest.mark.parametrize("what", FLOODS)
def test_the_next_name_is_used_and_the_first_one_is_named_with_its_reason(
    mirror: FlistsMirror, what: str
) -> None:
    mirror.fill(400)
    own = mirror.master.endpoint
    with ScriptedZdb(Forwarding(own, *FLOODS[what])) as rude:
        mirror.sources = [rude.endpoint, own]
        with mirror.job(backoff=PATIENT) as job:
            record = job.wait(following, "following")
            mirror.fill(20, seed=2)
            mirror.await_same(job)
    reason = skipped(record)[str(rude.endpoint)]
    assert rude.endpoint.address in reason
    assert any(words in reason for words in ("limit", "MGET answered", "MGET element"))
    assert in_use(record) == [str(own)]


@pytest.mark.parametrize("what", FLOODS)
def test_a_master_of_one_name_is_reported_and_nothing_wrong_is_written(
    mirror: FlistsMirror, what: str
) -> None:
    mirror.fill(40)
    with ScriptedZdb(Forwarding(mirror.master.endpoint, *FLOODS[what])) as rude:
        mirror.source = rude.endpoint
        with mirror.job() as job:
            failure = str(job.failure())
    assert rude.endpoint.address in failure
    assert "restart this container" in failure
    there, here = mirror.contents()
    assert here.items() <= there.items()


def test_a_name_that_is_merely_away_is_waited_for_although_the_other_is_no_0_db(
    mirror: FlistsMirror,
) -> None:
    mirror.fill(400)
    own = mirror.master.endpoint
    with ScriptedZdb(lambda _: b"HTTP/1.1 400 Bad Request\r\n") as stranger:
        mirror.sources = [stranger.endpoint, own]
        mirror.master.kill()
        with mirror.job() as job:
            record = job.wait(lambda record: record.retries >= 2, "tried again")
            assert all(str(name) in record.reason for name in mirror.sources)
            mirror.master.start()
            job.wait(following, "following")
            mirror.await_same(job)


def test_every_name_leads_to_something_else_and_each_is_named(mirror: FlistsMirror) -> None:
    nothing = ScriptedZdb(lambda _: b"HTTP/1.1 400 Bad Request\r\n")
    other = ScriptedZdb(lambda _: b"SSH-2.0-OpenSSH_9.2\r\n")
    with nothing, other, mirror.job(sources=[nothing.endpoint, other.endpoint]) as job:
        failure = str(job.failure())
    assert all(str(name) in failure for name in (nothing.endpoint, other.endpoint))


def test_our_own_0_db_is_not_taken_for_the_masters(mirror: FlistsMirror) -> None:
    mirror.fill(40)
    with ScriptedZdb(lambda _: b"HTTP/1.1 400 Bad Request\r\n") as broken:
        mirror.sources = [mirror.master.endpoint, mirror.master.endpoint.model_copy()]
        names = [mirror.master.endpoint, mirror.master.endpoint.model_copy(update={"port": 1})]
        with mirror.job(sources=names, local_zdb=broken.endpoint) as job:
            failure = str(job.failure())
    assert broken.endpoint.address in failure
    assert str(names[0]) not in failure
