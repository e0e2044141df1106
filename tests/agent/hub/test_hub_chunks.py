"""A flist is published with its chunks, from where they may come, and names this mirror."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sync.agent import durable
from sync.agent.flist import read_flist
from sync.agent.flist.database import ACCEPTED, Backend
from sync.agent.hub import publisher
from sync.agent.job import JobPaused
from sync.agent.zdb.namespace_info import NamespaceInfo
from sync.agent.zdb.protocol import Reply
from sync.contract.spec import ZdbEndpoint
from tests.agent.hub.flists_of import keys_in, small
from tests.agent.hub.small_hub import DAY, OLD
from tests.agent.mirrors import MIRROR, UsersMirror, model_tree
from tests.sandbox.flist import Backend as PackedBackend
from tests.sandbox.flist import Flist
from tests.sandbox.services.zdb import Settings, Store, ZdbServer
from tests.sandbox.services.zdb.rights import Session


def test_flist_whose_chunks_the_master_lacks_is_withheld_named_and_published_later(
    mirror: UsersMirror,
) -> None:
    model = mirror.upstream.model
    key = min(small(20).chunks)
    model.drop_chunk(key)
    record = mirror.one_pass()
    assert record.broken.names == [
        "alice/blog.flist: 1 of its chunks are on no 0-db that may be asked"
    ]
    expected = model_tree(model)
    del expected["alice/blog.flist"]
    assert mirror.served() == expected
    assert mirror.one_pass().details["master_requests"] == 1
    model.add_chunks({key: small(20).chunks[key]})
    assert mirror.one_pass().broken.count == 0
    assert mirror.served() == model_tree(model)


def test_new_version_without_its_chunks_leaves_the_old_one_served(mirror: UsersMirror) -> None:
    mirror.one_pass()
    before = mirror.served()
    model = mirror.upstream.model
    model.change_flist("alice", "blog.flist", small(70), modified=OLD + 70 * DAY)
    for key in small(70).chunks:
        model.drop_chunk(key)
    assert mirror.one_pass().broken.count == 1
    assert mirror.served() == before


def test_corrupt_chunk_of_the_master_is_never_stored(mirror: UsersMirror) -> None:
    model = mirror.upstream.model
    key = min(small(20).chunks)
    model.corrupt_chunk(key)
    assert mirror.one_pass().broken.count == 1
    assert key not in mirror.local_keys()
    assert "alice/blog.flist" not in mirror.served()


def test_broken_flist_is_published_where_the_operator_wants_it(mirror: UsersMirror) -> None:
    mirror.settings["broken_flists"] = "publish"
    model = mirror.upstream.model
    key = min(small(20).chunks)
    model.drop_chunk(key)
    record = mirror.one_pass()
    assert record.broken.names == ["alice/blog.flist: published without all of its chunks"]
    assert mirror.served() == model_tree(model)
    model.add_chunks({key: small(20).chunks[key]})
    assert mirror.one_pass().broken.count == 0
    assert key in mirror.local_keys()


def test_link_to_a_withheld_flist_waits_for_it(mirror: UsersMirror) -> None:
    model = mirror.upstream.model
    key = min(small(1).chunks)
    model.drop_chunk(key)
    mirror.one_pass()
    served = mirror.served()
    assert "tf-zos/zos-1.flist" not in served
    assert "tf-zos/zos.flist" not in served
    model.add_chunks({key: small(1).chunks[key]})
    mirror.one_pass()
    assert mirror.served() == model_tree(model)


def test_flist_stays_while_a_served_link_leads_to_it(mirror: UsersMirror) -> None:
    """The link's new target is withheld, so the link keeps its old one, which therefore stays."""
    mirror.one_pass()
    model = mirror.upstream.model
    model.add_flist("tf-zos", "zos-9.flist", small(90), OLD)
    for key in small(90).chunks:
        model.drop_chunk(key)
    model.set_link("tf-zos", "zos.flist", "zos-9.flist")
    model.set_tag("tf-zos", "3.1", {"zos.flist": "tf-zos/zos-2.flist"})
    model.delete_flist("tf-zos", "zos-1.flist")
    assert mirror.one_pass().details["held_for_links"] == 1
    assert mirror.served()["tf-zos/zos.flist"] == ("link", "zos-1.flist")
    assert "tf-zos/zos-1.flist" in mirror.served()
    model.add_chunks(small(90).chunks)
    mirror.one_pass()
    assert mirror.served() == model_tree(model)


def test_what_is_no_flist_is_withheld_and_named(mirror: UsersMirror) -> None:
    mirror.upstream.model.add_flist("alice", "page.flist", b"<html>404</html>", OLD)
    record = mirror.one_pass()
    assert record.broken.count == 1
    assert record.broken.names[0].startswith("alice/page.flist: gzip")
    assert "alice/page.flist" not in mirror.served()


def test_what_is_no_flist_is_fetched_again_once_more_is_accepted(
    mirror: UsersMirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an earlier release refused does not stay away for ever."""
    mirror.upstream.model.add_flist("alice", "page.flist", b"<html>404</html>", OLD)
    assert mirror.one_pass().details["received_bytes"]
    assert mirror.one_pass().details["received_bytes"] == 0
    monkeypatch.setattr(publisher, "ACCEPTED", ACCEPTED + 1)
    assert mirror.one_pass().details["received_bytes"] == len(b"<html>404</html>")
    assert mirror.one_pass().details["received_bytes"] == 0


def test_flist_without_a_table_for_metadata_is_published_and_gets_one(
    mirror: UsersMirror, tmp_path: Path
) -> None:
    model = mirror.upstream.model
    data = model.add_flist("alice", "of-2018.flist", small(45).flist.encode_of_2018(), OLD)
    model.add_chunks(small(45).chunks)
    mirror.settings["publish_backend"] = None
    assert mirror.one_pass().broken.count == 0
    assert mirror.served()["alice/of-2018.flist"] == ("file", data)
    mirror.settings["publish_backend"] = MIRROR
    assert mirror.one_pass().broken.count == 0
    assert small(45).chunks.keys() <= mirror.local_keys()
    flist = mirror.directories.public / "users" / "alice" / "of-2018.flist"
    contents = read_flist(flist, tmp_path / "scratch")
    assert contents.backend == Backend(MIRROR.host, MIRROR.port, "default")
    assert keys_in(contents) == small(45).chunks.keys()
    assert Flist.decode(flist.read_bytes()).rows == small(45).flist.rows


def test_flist_over_the_limit_is_named_and_not_fetched_until_the_limit_is_raised(
    mirror: UsersMirror,
) -> None:
    model = mirror.upstream.model
    big = model.add_flist("alice", "big.flist", small(44).archive(model.backend) + bytes(9000), OLD)
    model.add_chunks(small(44).chunks)
    mirror.settings["max_flist_bytes"] = len(big) - 1
    for _ in range(2):
        record = mirror.one_pass()
        assert record.broken.names == [
            f"alice/big.flist: its {len(big)} bytes are more than maxFlistBytes"
        ]
        assert "alice/big.flist" not in mirror.served()
    assert record.details["received_bytes"] == 0
    mirror.settings["max_flist_bytes"] = len(big)
    assert mirror.one_pass().broken.count == 0
    assert mirror.served() == model_tree(model)


@pytest.fixture
def other_zdb() -> Iterator[ZdbServer]:
    server = ZdbServer(Store(Settings()))
    server.start()
    yield server
    server.stop()


def foreign_flist(mirror: UsersMirror, other: ZdbServer) -> ZdbEndpoint:
    """Publish a flist whose chunks are only on another 0-db."""
    now = int(time.time())
    chunks = small(80).chunks
    other.store.default.set_many([(key, payload, now) for key, payload in chunks.items()])
    backend = PackedBackend(other.address, other.port)
    mirror.upstream.model.add_flist("alice", "foreign.flist", small(80).archive(backend), OLD)
    return ZdbEndpoint(host=other.address, port=other.port)


def test_flist_never_makes_the_agent_connect_to_an_address_of_its_choosing(
    mirror: UsersMirror, other_zdb: ZdbServer
) -> None:
    foreign_flist(mirror, other_zdb)
    assert mirror.one_pass().broken.count == 1
    assert sum(other_zdb.requests.values()) == 0


def test_chunks_of_an_allowed_backend_go_to_a_namespace_of_their_own(
    mirror: UsersMirror, other_zdb: ZdbServer, tmp_path: Path
) -> None:
    endpoint = foreign_flist(mirror, other_zdb)
    mirror.settings |= {"allowed_backends": [endpoint], "publish_backend": MIRROR}
    assert mirror.one_pass().broken.count == 0
    foreign = mirror.zdb.store.namespaces["foreign"]
    assert set(foreign.keys()) == small(80).chunks.keys()
    assert not small(80).chunks.keys() & mirror.local_keys()
    flist = mirror.directories.public / "users" / "alice" / "foreign.flist"
    contents = read_flist(flist, tmp_path / "scratch")
    assert contents.backend == Backend(MIRROR.host, MIRROR.port, "foreign")


def test_published_flists_name_the_mirror_s_own_backend(
    mirror: UsersMirror, tmp_path: Path
) -> None:
    mirror.settings["publish_backend"] = MIRROR
    mirror.one_pass()
    first = mirror.served()
    for number in range(3):
        flist = mirror.directories.public / "users" / "tf-zos" / f"zos-{number}.flist"
        contents = read_flist(flist, tmp_path / "scratch")
        assert contents.backend == Backend(MIRROR.host, MIRROR.port, "default")
        assert keys_in(contents) == small(number).chunks.keys()
    mirror.settings["publish_backend"] = None
    mirror.one_pass()
    assert mirror.served() == model_tree(mirror.upstream.model)
    mirror.settings["publish_backend"] = MIRROR
    mirror.one_pass()
    assert mirror.served() == first, "the same input gives the same bytes"


@pytest.mark.parametrize("spare", [-1, 0])
def test_chunks_do_not_take_the_disk_of_the_local_zdb_below_its_floor(
    spare: int, mirror: UsersMirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The users job pauses where the flists job does: both fill the same 0-db."""
    floor, free = 1 << 30, NamespaceInfo.of

    def info(reply: Reply) -> NamespaceInfo:
        return replace(free(reply), free_bytes=floor + spare)

    monkeypatch.setattr(NamespaceInfo, "of", info)
    monkeypatch.setattr(durable, "require_free_space", lambda *_: None)
    mirror.settings["free_space_floor_bytes"] = floor
    if spare < 0:
        with pytest.raises(JobPaused, match="freeSpaceFloorBytes"):
            mirror.one_pass()
        assert mirror.local_keys() == set()
    else:
        mirror.one_pass()
        assert mirror.served() == model_tree(mirror.upstream.model)


BAD = min(small(20).chunks)
# What the master's 0-db answers for ever to a command that names one key, among others or alone.
ODD_ANSWERS: dict[str, tuple[str, bytes]] = {
    "length of more than any chunk": ("LENGTH", b":99999999\r\n"),
    "length below nothing": ("LENGTH", b":-7\r\n"),
    "length refused": ("LENGTH", b"-Internal Error\r\n"),
    "payload longer than was said": ("MGET", b"*1\r\n$3000000\r\n%b\r\n" % bytes(3_000_000)),
    "payload longer than any": ("MGET", b"*1\r\n$99999999\r\n"),
    "payload of no length": ("MGET", b"*1\r\n$x\r\n"),
    "payload refused": ("MGET", b"-Internal Error\r\n"),
    "more payloads than were asked for": ("MGET", b"*70\r\n" + b"$-1\r\n" * 70),
    "no payloads at all": ("MGET", b"+OK\r\n"),
    "time that is none": ("KEYTIME", b"-Internal Error\r\n"),
}


@pytest.mark.parametrize("kind", ODD_ANSWERS)
def test_one_chunk_that_the_master_answers_oddly_for_costs_its_own_flist_alone(
    kind: str, mirror: UsersMirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    command, reply = ODD_ANSWERS[kind]
    commands = mirror.upstream.zdb.commands
    run, fetch = commands.run, commands.fetch

    def odd_run(client: Session, arguments: list[bytes]) -> bytes:
        odd = BAD in arguments[1:] and commands.resolve(arguments[0]) == command
        return reply if odd else run(client, arguments)

    def odd_fetch(client: Session, keys: tuple[bytes, ...]) -> bytes:
        return reply if BAD in keys and command == "MGET" else fetch(client, keys)

    monkeypatch.setattr(commands, "run", odd_run)
    monkeypatch.setattr(commands, "fetch", odd_fetch)
    record = mirror.one_pass()
    expected = model_tree(mirror.upstream.model)
    if command != "KEYTIME":
        assert record.broken.names == [
            "alice/blog.flist: 1 of its chunks are on no 0-db that may be asked"
        ]
        del expected["alice/blog.flist"]
    assert mirror.served() == expected
    assert record.lag.items == 0
