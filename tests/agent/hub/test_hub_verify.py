"""verify names what is wrong with a mirror, down to every chunk; repair mends just that."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sync.agent.hub import repair, verify
from sync.agent.job import Control, VerifyOptions, VerifyReport, one_at_a_time
from sync.agent.master.client import EndpointLostError
from sync.agent.supervisor import repair_pass
from tests.agent.hub.flists_of import small
from tests.agent.mirrors import MIRROR, UsersMirror, model_tree, users_mirror
from tests.sandbox.upstream import Upstream, UpstreamModel

OLD = 1_700_000_000.0
ALL = VerifyOptions(chunks=True)


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[UsersMirror]:
    model = UpstreamModel()
    model.now = lambda: OLD
    for number in range(4):
        model.add_flist("tf-zos", f"zos-{number}.flist", small(number))
    model.set_link("tf-zos", "zos.flist", "zos-1.flist")
    model.set_tag("tf-zos", "3", {"zos.flist": "tf-zos/zos-2.flist"})
    model.set_taglink("tf-zos", "production", "tf-zos", "3")
    with Upstream(model) as upstream, users_mirror(tmp_path, upstream) as made:
        made.settings["publish_backend"] = MIRROR
        made.one_pass()
        yield made


def verified(mirror: UsersMirror, options: VerifyOptions = ALL) -> VerifyReport:
    return verify(mirror.spec(), mirror.directories, options)


def repaired(mirror: UsersMirror, options: VerifyOptions = ALL) -> VerifyReport:
    return repair(mirror.spec(), mirror.directories, options)


def users(mirror: UsersMirror) -> Path:
    return mirror.directories.public / "users" / "tf-zos"


def local_key(mirror: UsersMirror) -> bytes:
    return min(small(0).chunks)


def corrupt(mirror: UsersMirror) -> None:
    mirror.zdb.store.default.replace_payload(local_key(mirror), b"not its payload")


def delete_chunk(mirror: UsersMirror) -> None:
    mirror.zdb.store.delete(local_key(mirror))


def flip(mirror: UsersMirror) -> None:
    path = users(mirror) / "zos-1.flist"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def delete_file(mirror: UsersMirror) -> None:
    (users(mirror) / "zos-1.flist").unlink()


def retarget(mirror: UsersMirror) -> None:
    (users(mirror) / "zos.flist").unlink()
    (users(mirror) / "zos.flist").symlink_to("zos-3.flist")


def retarget_in_tag(mirror: UsersMirror) -> None:
    (users(mirror) / ".tag-3" / "zos.flist").unlink()


def stray(mirror: UsersMirror) -> None:
    (users(mirror) / "stray.flist").write_bytes(b"x")


def stray_link(mirror: UsersMirror) -> None:
    (users(mirror) / "passwd.flist").symlink_to("/etc/passwd")


DAMAGE = {
    corrupt: f"chunk {min(small(0).chunks).hex()}",
    delete_chunk: f"chunk {min(small(0).chunks).hex()}",
    flip: "tf-zos/zos-1.flist",
    delete_file: "tf-zos/zos-1.flist",
    retarget: "tf-zos/zos.flist",
    retarget_in_tag: "tf-zos/tags/3/zos.flist",
    stray: "tf-zos/stray.flist",
    stray_link: "tf-zos/passwd.flist",
}


def test_sound_mirror_has_no_problems_and_every_chunk_was_read(mirror: UsersMirror) -> None:
    report = verified(mirror)
    assert report.problems == ()
    chunks = {key for number in range(4) for key in small(number).chunks}
    assert report.checked >= len(chunks) + 4 + 3


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_each_damage_is_named_and_mended_and_nothing_else_touched(
    damage: object, mirror: UsersMirror
) -> None:
    assert callable(damage)
    sound = mirror.served()
    untouched = (users(mirror) / "zos-3.flist").stat().st_ino
    damage(mirror)
    names = {problem.name for problem in verified(mirror).problems}
    assert DAMAGE[damage] in names
    report = repaired(mirror)
    assert report.repaired == len(report.problems) == len(names)
    assert verified(mirror).problems == ()
    assert mirror.served() == sound
    assert (users(mirror) / "zos-3.flist").stat().st_ino == untouched


def test_corrupt_chunks_are_found_only_where_they_are_read(mirror: UsersMirror) -> None:
    corrupt(mirror)
    assert verified(mirror, VerifyOptions(chunks=False)).problems == ()
    assert len(verified(mirror, ALL).problems) == 1


def test_difference_from_the_master_is_named_unless_offline(mirror: UsersMirror) -> None:
    model = mirror.upstream.model
    model.change_flist("tf-zos", "zos-0.flist", small(50))
    model.add_flist("tf-zos", "new.flist", small(51))
    names = {problem.name for problem in verified(mirror).problems}
    assert names == {"tf-zos/zos-0.flist", "tf-zos/new.flist"}
    assert verified(mirror, VerifyOptions(offline=True)).problems == ()
    mirror.upstream.stop()
    with pytest.raises(EndpointLostError):
        verified(mirror)
    assert verified(mirror, VerifyOptions(offline=True)).problems == ()


def test_parts_cover_everything_once(mirror: UsersMirror) -> None:
    flip(mirror)
    retarget(mirror)
    parts = [verified(mirror, VerifyOptions(part, 4, offline=True)) for part in range(1, 5)]
    found = [problem for part in parts for problem in part.problems]
    assert sorted(problem.name for problem in found) == ["tf-zos/zos-1.flist", "tf-zos/zos.flist"]


def test_running_job_sees_what_repair_changed(mirror: UsersMirror) -> None:
    with mirror.engine() as (engine, _):
        engine.one_pass()
        delete_file(mirror)
        assert repaired(mirror).repaired >= 1
        sound = mirror.served()
        engine.one_pass()
        assert mirror.served() == sound
    assert verified(mirror).problems == ()


def test_running_job_sees_what_the_pass_of_repair_removed(
    mirror: UsersMirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = mirror.upstream.model
    repairing = repair_pass
    with mirror.engine() as (engine, _):

        def after_a_turn_of_the_job(*arguments: Any) -> None:
            engine.one_pass()
            model.delete_flist("tf-zos", "zos.flist")
            model.delete_flist("tf-zos", "zos-0.flist")
            repairing(*arguments)

        engine.one_pass()
        delete_file(mirror)
        monkeypatch.setattr("sync.agent.hub.verification.repair_pass", after_a_turn_of_the_job)
        repaired(mirror)
        model.add_flist("tf-zos", "zos-0.flist", small(0), OLD)
        model.set_link("tf-zos", "zos.flist", "zos-1.flist")
        engine.one_pass()
    assert mirror.served().keys() == model_tree(model).keys()
    assert verified(mirror).problems == ()


def test_repair_leaves_what_a_running_pass_has_in_staging(mirror: UsersMirror) -> None:
    spec, directories = mirror.spec(), mirror.directories
    staged = directories.public / ".gridhub" / "on its way"
    arguments = (spec, directories, Control())
    thread = threading.Thread(target=repair_pass, args=arguments)
    with one_at_a_time(directories.state):
        staged.write_bytes(b"x")
        thread.start()
        thread.join(0.5)
        assert staged.exists()
    thread.join()


def test_repair_offline_changes_nothing(mirror: UsersMirror) -> None:
    delete_file(mirror)
    report = repaired(mirror, VerifyOptions(offline=True))
    assert report.repaired == 0
    assert not (users(mirror) / "zos-1.flist").exists()
    assert os.listdir(mirror.directories.public / ".gridhub") == []  # noqa: PTH208 - its names
