"""The users job: one listing, exact decisions, content before what leads to it."""

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sync.agent.flist_archive import Backend, read_flist
from sync.agent.http import HttpError
from sync.agent.passes import PassIncompleteError
from sync.agent.runtime import JobPaused
from sync.contract.spec import ZdbEndpoint
from tests.agent.flists_of import small
from tests.agent.mirrors import MIRROR, UsersMirror, model_tree, served_tree, users_mirror
from tests.agent.small_hub import DAY, OLD, small_model
from tests.sandbox.flist import Backend as PackedBackend
from tests.sandbox.services.zdb import Settings, Store, ZdbServer
from tests.sandbox.upstream import Fault, Upstream


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream(small_model()) as running:
        yield running


@pytest.fixture
def mirror(upstream: Upstream, tmp_path: Path) -> Iterator[UsersMirror]:
    with users_mirror(tmp_path, upstream) as made:
        yield made


def test_first_pass_mirrors_flists_links_tags_and_taglinks(mirror: UsersMirror) -> None:
    record = mirror.one_pass()
    model = mirror.upstream.model
    assert mirror.served() == model_tree(model)
    assert mirror.local_keys() == set(model.store.default.keys())
    assert (record.done, record.lag.items) == (record.total, 0)
    assert record.bootable_at is not None
    assert record.broken.count == record.refused.count == 0
    file = mirror.directories.public / "users" / "tf-zos" / "zos-2.flist"
    assert (file.stat().st_mode & 0o777, file.stat().st_mtime) == (0o644, OLD + 2 * DAY)


def test_unchanged_pass_is_one_request(mirror: UsersMirror) -> None:
    with mirror.engine() as (engine, _):
        engine.one_pass()
        before = engine._master.requests_sent
        engine.one_pass()
        assert engine._master.requests_sent - before == 1


def test_unchanged_pass_after_a_restart_is_one_request(mirror: UsersMirror) -> None:
    mirror.one_pass()
    record = mirror.one_pass()
    assert record.details["master_requests"] == 1
    assert mirror.served() == model_tree(mirror.upstream.model)


@pytest.mark.parametrize("modified", [OLD + 50 * DAY, OLD - 50 * DAY], ids=["newer", "older"])
@pytest.mark.parametrize("in_place", [True, False], ids=["in place", "by rename"])
def test_changed_flist_is_noticed_whatever_its_age(
    in_place: bool, modified: float, mirror: UsersMirror
) -> None:
    mirror.one_pass()
    model = mirror.upstream.model
    model.change_flist("alice", "blog.flist", small(99), in_place=in_place, modified=modified)
    mirror.one_pass()
    assert mirror.served() == model_tree(model)


def test_change_within_the_second_of_the_fetch_is_read_again(mirror: UsersMirror) -> None:
    model = mirror.upstream.model
    moment = float(int(time.time()))
    first = model.add_flist("alice", "fresh.flist", small(30), moment)
    mirror.one_pass()
    second = small(31).archive(model.backend)
    second += bytes(max(0, len(first) - len(second)))  # gzip readers ignore trailing zeros
    model.add_chunks(small(31).chunks)
    model.change_flist("alice", "fresh.flist", second, modified=moment)
    mirror.one_pass()
    assert mirror.served()["alice/fresh.flist"] == ("file", second)


def test_renamed_flist_and_repository_are_followed(mirror: UsersMirror) -> None:
    mirror.settings["removal_floor_items"] = 100
    mirror.one_pass()
    model = mirror.upstream.model
    model.rename_flist("alice", "blog.flist", "shop.flist")
    mirror.one_pass()
    assert mirror.served() == model_tree(model)
    model.rename_repository("alice", "alice-2")
    mirror.one_pass()
    assert mirror.served() == model_tree(model)
    assert not (mirror.directories.public / "users" / "alice").exists()


def test_retargeted_links_and_tags_are_followed(mirror: UsersMirror) -> None:
    mirror.one_pass()
    model = mirror.upstream.model
    model.set_link("tf-zos", "zos.flist", "zos-2.flist")
    model.retarget_tag("tf-zos", "3.1", "zos.flist", "tf-zos/zos-2.flist")
    model.set_tag("tf-zos", "3.2", {"zos.flist": "tf-zos/zos-0.flist"})
    model.set_taglink("tf-zos", "production", "tf-zos", "3.2")
    mirror.one_pass()
    assert mirror.served() == model_tree(model)


def test_names_that_change_their_kind_are_followed(mirror: UsersMirror) -> None:
    mirror.one_pass()
    model = mirror.upstream.model
    model.set_link("alice", "blog.flist", "shop.flist")
    model.add_flist("alice", "base.flist", small(40), OLD)
    mirror.one_pass()
    assert mirror.served() == model_tree(model)
    mirror.one_pass()
    assert mirror.served() == model_tree(model)


def test_deleted_flists_links_tags_and_repositories_go(mirror: UsersMirror) -> None:
    mirror.settings["removal_floor_items"] = 100
    mirror.one_pass()
    model = mirror.upstream.model
    model.delete_flist("alice", "zos")
    model.delete_flist("alice", "blog.flist")
    mirror.one_pass()
    assert mirror.served() == model_tree(model)
    model.delete_repository("alice")
    mirror.one_pass()
    assert mirror.served() == model_tree(model)


def test_flist_that_a_link_still_needs_is_not_removed(mirror: UsersMirror) -> None:
    """The master's link dangles, twice; then ours goes, before what it leads to."""
    mirror.one_pass()
    model = mirror.upstream.model
    model.delete_flist("tf-zos", "zos-1.flist")
    assert mirror.one_pass().details["held_for_links"] == 1
    assert "tf-zos/zos.flist" in mirror.served()
    record = mirror.one_pass()
    assert record.broken.names == [
        "tf-zos/tags/3.1/zos.flist -> tf-zos/zos-1.flist: no such flist",
        "tf-zos/zos.flist -> tf-zos/zos-1.flist: no such flist",
    ]
    served = mirror.served()
    assert "tf-zos/zos.flist" not in served
    assert "tf-zos/zos-1.flist" not in served
    assert served["tf-zos/production"] == ("link", "../tf-zos/.tag-3.1")


def test_removed_flists_are_retained_with_their_chunks(mirror: UsersMirror) -> None:
    mirror.settings |= {"retention_days": 7, "removal_floor_items": 100}
    mirror.one_pass()
    model = mirror.upstream.model
    model.delete_flist("alice", "shop.flist")
    record = mirror.one_pass()
    assert record.details["retained"] == 1
    assert "alice/shop.flist" in mirror.served()
    assert small(21).chunks.keys() <= published_keys(mirror)
    model.add_flist("alice", "shop.flist", small(21), OLD)
    assert mirror.one_pass().details["retained"] == 0
    model.delete_flist("alice", "shop.flist")
    mirror.settings["retention_days"] = 0
    mirror.one_pass()
    assert "alice/shop.flist" not in mirror.served()
    assert not small(21).chunks.keys() & published_keys(mirror)


def published_keys(mirror: UsersMirror) -> set[bytes]:
    import sqlite3

    path = mirror.directories.state / "published.sqlite"
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
        keys = {row[0] for row in database.execute("SELECT key FROM chunk")}
    database.close()
    return keys


def test_published_keys_are_those_of_what_is_served(mirror: UsersMirror) -> None:
    import sqlite3

    started = time.time()
    mirror.one_pass()
    model = mirror.upstream.model
    assert published_keys(mirror) == set(model.store.default.keys())
    model.change_flist("alice", "blog.flist", small(50), modified=OLD + 60 * DAY)
    mirror.one_pass()
    keys = published_keys(mirror)
    assert small(50).chunks.keys() <= keys
    assert not small(20).chunks.keys() & keys
    with sqlite3.connect(mirror.directories.state / "published.sqlite") as database:
        meta = dict(database.execute("SELECT name, value FROM meta"))
    database.close()
    assert started <= meta["pass_started_at"] <= meta["pass_completed_at"] <= time.time()


# Implausible listings


@pytest.mark.parametrize("confirmed", [False, True])
def test_master_that_lists_nothing_pauses_until_it_is_confirmed(
    confirmed: bool, mirror: UsersMirror
) -> None:
    mirror.one_pass()
    before = mirror.served()
    mirror.upstream.model.clear_repositories()
    if not confirmed:
        with pytest.raises(JobPaused, match="removalConfirmation"):
            mirror.one_pass()
        assert mirror.served() == before
        return
    mirror.settings["removal_confirmation"] = 1
    mirror.one_pass()
    assert mirror.served() == {}


def test_too_many_vanished_names_pause_and_content_still_follows(mirror: UsersMirror) -> None:
    mirror.settings["removal_floor_items"] = 1
    mirror.one_pass()
    model = mirror.upstream.model
    model.delete_repository("alice")
    model.add_flist("tf-zos", "zos-9.flist", small(60), OLD)
    with pytest.raises(JobPaused, match="4 of 12"):
        mirror.one_pass()
    served = mirror.served()
    assert "alice/blog.flist" in served
    assert "tf-zos/zos-9.flist" in served


@pytest.mark.parametrize("kind", ["status", "html", "truncate", "reset", "redirect-loop"])
def test_listing_that_can_not_be_had_changes_nothing(kind: str, mirror: UsersMirror) -> None:
    mirror.one_pass()
    before = mirror.served()
    mirror.upstream.model.delete_repository("alice")
    mirror.upstream.hub_faults.add(Fault(kind, r"/api/fileslist"))  # type: ignore[arg-type]
    with pytest.raises(HttpError):
        mirror.one_pass()
    assert mirror.served() == before


def test_older_hub_without_fileslist_is_asked_repository_by_repository(
    mirror: UsersMirror,
) -> None:
    mirror.upstream.hub_faults.add(Fault("html", r"/api/fileslist", status=404))
    mirror.one_pass()
    assert mirror.served() == model_tree(mirror.upstream.model)


def test_hub_without_light_is_verified_by_its_md5(mirror: UsersMirror) -> None:
    mirror.upstream.hub_faults.add(Fault("html", r".*/light", status=404))
    mirror.one_pass()
    assert mirror.served() == model_tree(mirror.upstream.model)


# Completeness


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
        assert contents.keys == small(number).chunks.keys()
    mirror.settings["publish_backend"] = None
    mirror.one_pass()
    assert mirror.served() == model_tree(mirror.upstream.model)
    mirror.settings["publish_backend"] = MIRROR
    mirror.one_pass()
    assert mirror.served() == first, "the same input gives the same bytes"


# Subsets and order


def test_official_repositories_alone_need_only_their_own_chunks(mirror: UsersMirror) -> None:
    mirror.settings["repositories"] = {"include": ["tf-*"]}
    mirror.one_pass()
    expected = {
        name: node
        for name, node in model_tree(mirror.upstream.model).items()
        if name.startswith("tf-")
    }
    assert mirror.served() == expected
    wanted = [small(0), small(1), small(2), small(10)]
    assert mirror.local_keys() == {key for one in wanted for key in one.chunks}


def test_deselected_names_go_without_asking(mirror: UsersMirror) -> None:
    mirror.settings["removal_floor_items"] = 0
    mirror.one_pass()
    mirror.settings |= {"flists": {"include": ["tf-zos/*"]}, "removal_limit": 0}
    mirror.one_pass()
    assert {name.split("/")[0] for name in mirror.served()} == {"tf-zos"}


def test_flists_and_chunks_share_one_bandwidth_limit(mirror: UsersMirror) -> None:
    mirror.settings["bandwidth_bytes_per_second"] = 1 << 30
    with mirror.engine() as (engine, _):
        shared = engine._master._wire_limits.bandwidth
        assert shared is not None
        assert engine._chunks._bandwidth is shared


def test_official_and_newest_flists_are_fetched_first(mirror: UsersMirror) -> None:
    order: list[str] = []
    inner = mirror.upstream.hub_faults.deliver

    def note(connection: object, request: object, response: object) -> bool:
        path = str(getattr(request, "path", ""))
        if re.fullmatch(r"/[^/]+/[^/]+\.flist", path) and getattr(request, "method", "") == "GET":
            order.append(path)
        return bool(inner(connection, request, response))  # type: ignore[arg-type]

    mirror.upstream.hub.deliver = note
    mirror.settings["http"] = {"connections": 1}
    mirror.one_pass()
    assert order == [
        "/tf-zos/zos-2.flist",
        "/tf-zos/zos-1.flist",
        "/tf-zos/zos-0.flist",
        "/tf-bootable/debian.flist",
        "/alice/blog.flist",
        "/alice/shop.flist",
    ]


# Faults of single flists


@pytest.mark.parametrize(
    "kind", ["status", "truncate", "flip", "reset", "hang", "html", "redirect-loop", "endless"]
)
def test_one_bad_flist_never_blocks_the_others_and_is_never_half_there(
    kind: str, mirror: UsersMirror
) -> None:
    model = mirror.upstream.model
    mirror.settings |= {
        "http": {"connections": 4, "read_timeout_seconds": 0.3, "connect_timeout_seconds": 2},
        "max_flist_bytes": 1 << 20,
    }
    mirror.upstream.hub_faults.add(Fault(kind, r"/tf-zos/zos-1\.flist"))  # type: ignore[arg-type]
    with pytest.raises(PassIncompleteError, match=r"tf-zos/zos-1\.flist"):
        mirror.one_pass()
    expected = model_tree(model)
    for name in ("zos-1.flist", "zos.flist", ".tag-3.1/zos.flist"):
        del expected[f"tf-zos/{name}"]
    assert mirror.served() == expected
    mirror.upstream.hub_faults.clear()
    mirror.one_pass()
    assert mirror.served() == model_tree(model)


def test_leftovers_of_an_upstream_sync_are_taken_over_mended_or_removed(
    mirror: UsersMirror,
) -> None:
    """What upstream's script leaves: 404 pages, half files, links to anywhere, old names."""
    users = mirror.directories.public / "users"
    (users / "tf-zos" / ".tag-old").mkdir(parents=True)
    (users / "alice").mkdir()
    (users / "tf-zos" / "zos-0.flist").write_bytes(b"<html>404")
    (users / "tf-zos" / "gone.flist").write_bytes(b"old")
    (users / "alice" / "blog.flist").symlink_to("/etc/passwd")
    (users / "alice" / "passwd.flist").symlink_to("../../../etc/passwd")
    (users / "alice" / "zos").symlink_to("../tf-zos/.tag-old")
    mirror.one_pass()
    assert mirror.served() == model_tree(mirror.upstream.model)
    assert served_tree(mirror.directories.public) == mirror.served()


def test_repository_folder_that_is_a_link_is_not_followed(
    mirror: UsersMirror, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (mirror.directories.public / "users").mkdir()
    (mirror.directories.public / "users" / "alice").symlink_to(outside)
    mirror.one_pass()
    assert list(outside.iterdir()) == []
    assert mirror.served() == model_tree(mirror.upstream.model)
