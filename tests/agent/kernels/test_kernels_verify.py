"""verify names what is wrong with mirrored kernels; repair mends just that."""

import threading

import pytest

from sync.agent.job import Control, Directories, VerifyOptions, one_at_a_time
from sync.agent.kernels import repair, verify
from sync.agent.master.client import EndpointLostError
from sync.agent.supervisor import repair_pass
from tests.agent.kernels.kernels_mirror import (
    DAY,
    OLD,
    kernels,
    links,
    one_pass,
    served,
)
from tests.agent.mirrors import kernels_spec
from tests.sandbox.upstream import Upstream
from tests.sandbox.upstream.nodes import File


def test_damaged_net_file_of_its_own_is_found_and_mended(
    upstream: Upstream, directories: Directories
) -> None:
    upstream.model.set_net_link("qa", File(b"MZ no listed kernel", OLD))
    spec = kernels_spec(upstream)
    one_pass(spec, directories)
    own = directories.kernels / "net" / "qa.efi"
    own.write_bytes(b"MZ no listed kernex")
    report = repair(spec, directories, VerifyOptions())
    assert [problem.name for problem in report.problems] == ["net/qa.efi"]
    assert report.repaired == 1
    assert own.read_bytes() == b"MZ no listed kernel"


def test_verify_names_what_is_wrong_and_repair_mends_just_that(
    upstream: Upstream, directories: Directories
) -> None:
    spec = kernels_spec(upstream)
    one_pass(spec, directories)
    options = VerifyOptions()
    assert verify(spec, directories, options).problems == ()
    (directories.kernels / "zos-0.efi").write_bytes(bytes(40_000))
    (directories.kernels / "zos-3.efi").unlink()
    (directories.kernels / "stray.efi").write_bytes(b"x")
    (directories.kernels / "net" / "prod.efi").unlink()
    (directories.kernels / "net" / "prod.efi").symlink_to("../zos-2.efi")
    untouched = (directories.kernels / "zos-4.efi").stat().st_ino
    found = {problem.name for problem in verify(spec, directories, options).problems}
    assert found == {"zos-0.efi", "zos-3.efi", "stray.efi", "net/prod.efi"}
    report = repair(spec, directories, options)
    assert (len(report.problems), report.repaired) == (4, 4)
    assert served(directories) == kernels(upstream)
    assert links(directories)["prod"] == "../zos-1.efi"
    assert (directories.kernels / "zos-4.efi").stat().st_ino == untouched


def test_verify_names_what_the_master_has_more(
    upstream: Upstream, directories: Directories
) -> None:
    spec = kernels_spec(upstream, kernels={"exclude": ["*.old"]})
    one_pass(spec, directories)
    upstream.model.add_kernel("zos-9.efi", b"MZ new", OLD + 9 * DAY)
    upstream.model.add_kernel("zos-9.old", b"MZ not wanted", OLD + 9 * DAY)
    report = repair(spec, directories, VerifyOptions())
    assert [problem.name for problem in report.problems] == ["zos-9.efi"]
    assert report.repaired == 1


def test_repair_leaves_what_a_running_pass_has_in_staging(
    upstream: Upstream, directories: Directories
) -> None:
    spec = kernels_spec(upstream)
    one_pass(spec, directories)
    staged = directories.kernels / ".gridhub" / "on its way"
    thread = threading.Thread(target=repair_pass, args=(spec, directories, Control()))
    with one_at_a_time(directories.state):
        staged.write_bytes(b"x")
        thread.start()
        thread.join(0.5)
        assert staged.exists()
    thread.join()


def test_verify_in_parts_covers_everything_once(
    upstream: Upstream, directories: Directories
) -> None:
    spec = kernels_spec(upstream)
    one_pass(spec, directories)
    parts = [verify(spec, directories, VerifyOptions(part, 3, offline=True)) for part in (1, 2, 3)]
    whole = verify(spec, directories, VerifyOptions(offline=True))
    assert sum(part.checked for part in parts) == whole.checked == 10


def test_verify_offline_asks_the_master_nothing(
    upstream: Upstream, directories: Directories
) -> None:
    spec = kernels_spec(upstream)
    one_pass(spec, directories)
    upstream.stop()
    assert verify(spec, directories, VerifyOptions(offline=True)).problems == ()
    with pytest.raises(EndpointLostError):
        verify(spec, directories, VerifyOptions())
