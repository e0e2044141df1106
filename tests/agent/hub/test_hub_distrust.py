"""Masters that list nonsense or send it, and folders that somebody else has written to."""

from pathlib import Path

import pytest

from sync.agent.hub import source
from sync.agent.job import JobPaused, PassIncompleteError
from sync.agent.master.client import HttpError
from tests.agent.hub.flists_of import small
from tests.agent.hub.small_hub import OLD
from tests.agent.mirrors import UsersMirror, model_tree, served_tree
from tests.sandbox.upstream import Fault, FaultKind


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
def test_listing_that_can_not_be_had_changes_nothing(kind: FaultKind, mirror: UsersMirror) -> None:
    mirror.one_pass()
    before = mirror.served()
    mirror.upstream.model.delete_repository("alice")
    mirror.upstream.hub_faults.add(Fault(kind, r"/api/fileslist"))
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


def test_listing_of_more_repositories_than_may_become_folders_changes_nothing(
    mirror: UsersMirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "MAX_REPOSITORIES", 3)
    mirror.one_pass()
    before = mirror.served()
    mirror.upstream.model.repository("one more")
    with pytest.raises(HttpError, match="more than 3 repositories"):
        mirror.one_pass()
    assert mirror.served() == before


# Faults of single flists


@pytest.mark.parametrize(
    "kind", ["status", "truncate", "flip", "reset", "hang", "html", "redirect-loop", "endless"]
)
def test_one_bad_flist_never_blocks_the_others_and_is_never_half_there(
    kind: FaultKind, mirror: UsersMirror
) -> None:
    model = mirror.upstream.model
    mirror.settings |= {
        "http": {"connections": 4, "read_timeout_seconds": 0.5, "connect_timeout_seconds": 2},
        "max_flist_bytes": 1 << 20,
    }
    mirror.upstream.hub_faults.add(Fault(kind, r"/tf-zos/zos-1\.flist"))
    with pytest.raises(PassIncompleteError, match=r"tf-zos/zos-1\.flist"):
        mirror.one_pass()
    expected = model_tree(model)
    for name in ("zos-1.flist", "zos.flist", ".tag-3.1/zos.flist", "production"):
        del expected[f"tf-zos/{name}"]
    del expected["alice/zos"]
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
