"""A 0-db of `allowedBackends` that does not do its part costs its own flists, and no others."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import pytest

from sync.contract.spec import ZdbEndpoint
from tests.agent.hub.flists_of import small
from tests.agent.hub.small_hub import OLD
from tests.agent.hub.test_hub_quarantine import deletes_may_come, mends_itself, passes
from tests.agent.mirrors import UsersMirror, model_tree
from tests.sandbox.flist import Backend
from tests.sandbox.services.zdb import Settings, Store, ZdbServer

NAME: Final = "alice/foreign.flist"
# What answers in place of a 0-db; None: nobody is there.
ANSWERS: Final[dict[str, bytes | None]] = {
    "nobody": None,
    "hangs up": b"",
    "a web server": b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
    "refuses the namespace": b"-Namespace not found\r\n",
    "answers nonsense to all but SELECT": b"+OK\r\n*3\r\n:1\r\n:2\r\n:3\r\n",
    "refuses all but SELECT": b"+OK\r\n-\x1b[2JInternal Error\r\n",
    "says that chunks are larger than any": b"+OK\r\n:99999999\r\n:99999999\r\n:99999999\r\n",
}


@contextmanager
def answering(said: bytes | None) -> Iterator[int]:
    """Yield the port of a service that says one thing to all who come."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        if said is None:
            server.close()
            yield port
            return

        def serve() -> None:
            while True:
                try:
                    client, _ = server.accept()
                except OSError:
                    return
                with client:
                    client.recv(1 << 16)
                    client.sendall(said)

        threading.Thread(target=serve, daemon=True).start()
        yield port
        server.shutdown(socket.SHUT_RDWR)


def names_foreign(mirror: UsersMirror, port: int) -> None:
    """Let the master list a flist first of all that names a 0-db at this port."""
    data = small(80).archive(Backend("127.0.0.1", port))
    mirror.upstream.model.add_flist("alice", "foreign.flist", data, OLD * 2)
    mirror.settings["allowed_backends"] = [ZdbEndpoint(host="127.0.0.1", port=port)]


@pytest.mark.parametrize("kind", ANSWERS)
def test_foreign_zdb_that_fails_costs_its_own_flists_alone(kind: str, mirror: UsersMirror) -> None:
    with answering(ANSWERS[kind]) as port:
        names_foreign(mirror, port)
        record = passes(mirror)
        assert passes(mirror, 1).broken.names == record.broken.names
    assert deletes_may_come(mirror)
    assert record.lag.items == 0
    assert [line.partition(": ")[0] for line in record.broken.names] == [NAME]
    expected = model_tree(mirror.upstream.model)
    del expected[NAME]
    assert mirror.served() == expected


def test_flist_comes_once_its_zdb_is_back(mirror: UsersMirror) -> None:
    with answering(None) as port:
        names_foreign(mirror, port)
        passes(mirror)
    assert NAME not in mirror.served()
    other = ZdbServer(Store(Settings()), port=port)
    other.store.default.set_many([(key, data, 1) for key, data in small(80).chunks.items()])
    other.start()
    try:
        mends_itself(mirror)
    finally:
        other.stop()


@pytest.mark.parametrize("policy", ["withhold", "publish"])
def test_flist_that_lacks_chunks_stays_as_it_is_while_its_zdb_is_dead(
    policy: str, mirror: UsersMirror
) -> None:
    other = ZdbServer(Store(Settings()))
    other.start()
    names_foreign(mirror, other.port)
    mirror.settings["broken_flists"] = policy
    before = mirror.one_pass()
    assert before.broken.count == 1
    other.stop()
    assert mirror.one_pass().broken == before.broken
