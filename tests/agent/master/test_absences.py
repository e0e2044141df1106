"""What only seems to be gone: names that a page lost, links that seem to dangle."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sync.agent.job import PassIncompleteError
from tests.agent.hub.flists_of import small
from tests.agent.hub.small_hub import corrupt
from tests.agent.kernels.kernels_mirror import engine_of
from tests.agent.mirrors import (
    UsersMirror,
    kernels_spec,
    make_directories,
    model_tree,
    users_mirror,
)
from tests.sandbox.services.http import Connection, Request, Response
from tests.sandbox.upstream import Fault, Upstream, UpstreamModel

OLD = 1_700_000_000.0


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[UsersMirror]:
    model = UpstreamModel()
    model.now = lambda: OLD
    for number in range(3):
        model.add_flist("tf-zos", f"zos-{number}.flist", small(number), OLD)
    model.add_flist("alice", "blog.flist", small(20), OLD)
    model.add_flist("alice", "shop.flist", small(21), OLD)
    model.set_link("tf-zos", "zos.flist", "zos-1.flist")
    model.set_tag("tf-zos", "3.1", {"zos.flist": "tf-zos/zos-1.flist"})
    model.set_taglink("tf-zos", "production", "tf-zos", "3.1")
    model.now = time.time
    with Upstream(model) as upstream, users_mirror(tmp_path, upstream) as made:
        yield made


def test_tag_that_is_newer_than_the_listing_keeps_its_links(mirror: UsersMirror) -> None:
    """Between listing and contents the tag moved to a flist not listed yet, pass after pass."""
    mirror.one_pass()
    model = mirror.upstream.model
    model.set_tag("tf-zos", "3.1", {"zos.flist": "tf-zos/zos-2.flist"})
    inner = mirror.upstream.hub_faults.deliver
    moves = 0

    def move(connection: Connection, request: Request, response: Response) -> bool:
        nonlocal moves
        delivered = bool(inner(connection, request, response))
        if request.path == "/api/fileslist":
            moves += 1
            model.add_flist("tf-zos", f"newest-{moves}.flist", small(90 + moves), OLD)
            model.set_tag("tf-zos", "3.1", {"zos.flist": f"tf-zos/newest-{moves}.flist"})
        return delivered

    mirror.upstream.hub.deliver = move
    for _ in range(3):
        mirror.one_pass()
        assert mirror.served()["tf-zos/.tag-3.1/zos.flist"] == ("link", "../../tf-zos/zos-1.flist")
    mirror.upstream.hub.deliver = inner
    mirror.one_pass()
    assert mirror.served() == model_tree(model)


def test_tag_that_can_not_be_read_keeps_its_links_and_its_time(mirror: UsersMirror) -> None:
    """What is known of it is older than the listing, by which its links seem to dangle."""
    mirror.one_pass()
    model = mirror.upstream.model
    folder = mirror.directories.public / "users" / "tf-zos" / ".tag-3.1"
    changed_at = folder.stat().st_mtime
    model.delete_flist("tf-zos", "zos-1.flist")
    model.set_link("tf-zos", "zos.flist", "zos-2.flist")
    model.set_tag("tf-zos", "3.1", {"zos.flist": "tf-zos/zos-2.flist"})
    mirror.upstream.hub_faults.add(Fault("status", r".*/tags/.*", times=100))
    with pytest.raises(PassIncompleteError, match=r"tf-zos/tags/3\.1"):
        mirror.one_pass()
    for _ in range(3):
        record = mirror.one_pass()
        assert "could not be read" in record.broken.names[-1]
        served = mirror.served()
        assert served["tf-zos/.tag-3.1/zos.flist"] == ("link", "../../tf-zos/zos-1.flist")
        assert "tf-zos/zos-1.flist" in served
    assert folder.stat().st_mtime == changed_at
    mirror.upstream.hub_faults.clear()
    for _ in range(100):  # until it is tried again, and once more
        mirror.one_pass()
        if mirror.served() == model_tree(model):
            break
        time.sleep(0.02)
    assert mirror.served() == model_tree(model)


def test_name_that_only_the_listing_lost_stays_and_is_reported(mirror: UsersMirror) -> None:
    """A byte turned over in the listing renames a flist; its neighbours that went do go."""
    mirror.one_pass()
    model = mirror.upstream.model
    model.delete_flist("alice", "shop.flist")
    corrupt(mirror.upstream.hub, "/api/fileslist", b"blog.flist", b"bloh.flist")
    with pytest.raises(PassIncompleteError, match=r"bloh\.flist"):
        mirror.one_pass()
    for _ in range(2):
        names = "\n".join(mirror.one_pass().broken.names)
        assert "alice/blog.flist: not listed any more, but still served by the master" in names
        assert "alice/bloh.flist: /alice/bloh.flist.md5: 404" in names
        assert "alice/blog.flist" in mirror.served()
    mirror.upstream.hub.deliver = mirror.upstream.hub_faults.deliver
    mirror.one_pass()
    assert mirror.served() == model_tree(model)


def test_link_that_only_a_tag_s_page_lost_stays_and_is_reported(mirror: UsersMirror) -> None:
    mirror.one_pass()
    model = mirror.upstream.model
    model.retarget_tag("tf-zos", "3.1", "more.flist", "tf-zos/zos-2.flist")
    corrupt(mirror.upstream.hub, "/api/flist/tf-zos/tags/3.1", b'"zos.flist"', b'"zor.flisu"')
    record = mirror.one_pass()
    assert mirror.served()["tf-zos/.tag-3.1/zos.flist"] == ("link", "../../tf-zos/zos-1.flist")
    reason = (
        "refused flist name 'zor.flisu': does not end in .flist; "
        "zos.flist: not listed any more, but still served by the master"
    )
    assert record.broken.names == [f"tf-zos/tags/3.1: its old state stays, waits for {reason}"]


def test_names_that_went_are_asked_for_once(mirror: UsersMirror) -> None:
    mirror.settings["retention_days"] = 5
    mirror.one_pass()
    mirror.upstream.model.delete_flist("alice", "shop.flist")
    with mirror.engine() as (engine, _):
        engine.one_pass()
        before = engine._master.requests_sent
        engine.one_pass()
        assert engine._master.requests_sent - before == 1


def test_kernel_that_only_the_list_of_images_lost_stays_and_is_reported(tmp_path: Path) -> None:
    model = UpstreamModel()
    for number in range(3):
        model.add_kernel(f"zos-{number}.efi", b"MZ kernel %d" % number * 100, OLD)
    directories = make_directories(tmp_path)
    with (
        Upstream(model) as upstream,
        engine_of(kernels_spec(upstream, run_modes=[]), directories) as engine,
    ):
        engine.one_pass()
        corrupt(upstream.bootstrap, "/api/images", b"zos-1.efi", b"zos-q.efi")
        with pytest.raises(PassIncompleteError, match=r"zos-q\.efi"):
            engine.one_pass()
        assert (directories.kernels / "zos-1.efi").exists()
        broken = engine._status.record.broken.names
        assert "zos-1.efi: not listed any more, but still served by the master" in broken
