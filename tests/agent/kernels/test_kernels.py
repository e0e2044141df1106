"""Kernels and net links: never half, never stale, and a net link always leads somewhere."""

import contextlib
import json
import time

import pytest

from sync.agent.job import Directories, PassIncompleteError
from sync.agent.kernels import listing
from tests.agent.kernels.kernels_mirror import (
    DAY,
    OLD,
    kernels,
    links,
    one_pass,
    served,
)
from tests.agent.mirrors import kernels_spec
from tests.sandbox.upstream import Fault, Upstream
from tests.sandbox.upstream.nodes import File


def test_first_pass_serves_every_kernel_and_net_link(
    upstream: Upstream, directories: Directories
) -> None:
    record = one_pass(kernels_spec(upstream), directories)
    assert served(directories) == kernels(upstream)
    assert links(directories) == {
        "prod": "../zos-1.efi",
        "test": "../zos-2.efi",
        "dev": "../zos-4.efi",
        "qa": "../zos-5.efi",
    }
    assert (record.done, record.lag.items) == (record.total, 0)
    assert record.bootable_at is not None
    modified = (directories.kernels / "zos-3.efi").stat().st_mtime
    assert modified == OLD + 3 * DAY


def test_html_page_of_an_older_revision_is_read_too(
    upstream: Upstream, directories: Directories
) -> None:
    upstream.bootstrap_faults.add(Fault("html", r"/api/images", status=404))
    one_pass(kernels_spec(upstream), directories)
    assert served(directories) == kernels(upstream)


def test_republished_kernel_under_the_same_name_is_noticed(
    upstream: Upstream, directories: Directories
) -> None:
    spec = kernels_spec(upstream)
    one_pass(spec, directories)
    upstream.model.add_kernel("zos-3.efi", b"MZ newer", OLD + 9 * DAY)
    upstream.model.add_kernel("zos-2.efi", b"MZ older file put over it", OLD - DAY)
    one_pass(spec, directories)
    assert served(directories) == kernels(upstream)


def test_kernel_that_changed_within_the_second_of_its_listing_is_read_again(
    upstream: Upstream, directories: Directories
) -> None:
    spec = kernels_spec(upstream)
    moment = float(int(time.time()))
    upstream.model.add_kernel("fresh.efi", b"MZ first", moment)
    one_pass(spec, directories)
    upstream.model.add_kernel("fresh.efi", b"MZ second", moment)
    one_pass(spec, directories)
    assert served(directories)["fresh.efi"] == b"MZ second"


def test_moved_net_link_follows_and_old_one_serves_until_then(
    upstream: Upstream, directories: Directories
) -> None:
    spec = kernels_spec(upstream)
    one_pass(spec, directories)
    upstream.model.add_kernel("zos-9.efi", b"MZ brand new", OLD + 20 * DAY)
    upstream.model.set_net_link("prod", "zos-9.efi")
    upstream.bootstrap_faults.add(Fault("status", r"/kernel/zos-9.efi"))
    with pytest.raises(PassIncompleteError):
        one_pass(spec, directories)
    assert links(directories)["prod"] == "../zos-1.efi"
    upstream.bootstrap_faults.clear()
    one_pass(spec, directories)
    assert links(directories)["prod"] == "../zos-9.efi"


def test_kernels_alike_in_size_and_date_are_told_apart_by_content(
    upstream: Upstream, directories: Directories
) -> None:
    for letter in (b"a", b"b", b"c"):
        upstream.model.add_kernel(
            f"twin-{letter.decode()}.efi", b"MZ" + letter * 5000, OLD + 30 * DAY
        )
    upstream.model.set_net_link("dev", "twin-b.efi")
    one_pass(kernels_spec(upstream), directories)
    assert links(directories)["dev"] == "../twin-b.efi"


def test_net_file_of_its_own_is_served_as_a_file(
    upstream: Upstream, directories: Directories
) -> None:
    upstream.model.set_net_link("qa", File(b"MZ no listed kernel", OLD))
    spec = kernels_spec(upstream)
    one_pass(spec, directories)
    one_pass(spec, directories)
    own = directories.kernels / "net" / "qa.efi"
    assert not own.is_symlink()
    assert own.read_bytes() == b"MZ no listed kernel"


def test_net_file_of_its_own_comes_back_when_it_is_lost(
    upstream: Upstream, directories: Directories
) -> None:
    upstream.model.set_net_link("qa", File(b"MZ no listed kernel", OLD))
    spec = kernels_spec(upstream)
    one_pass(spec, directories)
    own = directories.kernels / "net" / "qa.efi"
    own.unlink()
    one_pass(spec, directories)
    assert own.read_bytes() == b"MZ no listed kernel"


def test_net_link_that_can_not_be_asked_for_blocks_nothing_else(
    upstream: Upstream, directories: Directories
) -> None:
    spec = kernels_spec(upstream)
    upstream.bootstrap_faults.add(Fault("status", r"/kernel/net/test\.efi"))
    with pytest.raises(PassIncompleteError, match="net link test"):
        one_pass(spec, directories)
    assert served(directories) == kernels(upstream)
    assert links(directories).keys() == {"prod", "dev", "qa"}


def test_net_link_of_the_config_wins(upstream: Upstream, directories: Directories) -> None:
    spec = kernels_spec(upstream, net_links={"prod": "zos-0.efi", "dev": "none.efi"})
    record = one_pass(spec, directories)
    assert links(directories)["prod"] == "../zos-0.efi"
    assert record.broken.names == ["net link dev: the master has no kernel none.efi"]


def test_net_link_that_the_master_lost_is_kept_and_named(
    upstream: Upstream, directories: Directories
) -> None:
    spec = kernels_spec(upstream)
    one_pass(spec, directories)
    del upstream.model.net_links["qa"]
    for _ in range(3):
        record = one_pass(spec, directories)
    assert links(directories)["qa"] == "../zos-5.efi"
    assert record.broken.names == ["net link qa: the master has none, the mirror keeps its own"]
    one_pass(kernels_spec(upstream, run_modes=["prod"]), directories)
    assert links(directories) == {"prod": "../zos-1.efi"}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"newest": 1}, {1, 2, 4, 5}),
        ({"kernels": {"include": ["zos-0*"]}}, {0, 1, 2, 4, 5}),
        ({"kernels": {"exclude": ["*"]}}, {1, 2, 4, 5}),
        ({"max_age_days": 1}, {1, 2, 4, 5}),
        ({"run_modes": ["prod"], "newest": 2}, {1, 4, 5}),
    ],
)
def test_filters_leave_out_what_no_net_link_names(
    settings: dict[str, object], expected: set[int], upstream: Upstream, directories: Directories
) -> None:
    one_pass(kernels_spec(upstream), directories)
    one_pass(kernels_spec(upstream, **settings), directories)
    assert served(directories).keys() == {f"zos-{number}.efi" for number in expected}


def test_removed_kernel_goes_or_is_retained_and_one_in_use_stays(
    upstream: Upstream, directories: Directories
) -> None:
    keep = kernels_spec(upstream, retention_days=7)
    one_pass(keep, directories)
    upstream.model.delete_kernel("zos-0.efi")
    upstream.model.delete_kernel("zos-5.efi")
    one_pass(keep, directories)
    assert "zos-0.efi" in served(directories)
    one_pass(kernels_spec(upstream), directories)
    assert "zos-0.efi" not in served(directories)
    assert "zos-5.efi" in served(directories), "the qa net link still names it"


def test_status_record_is_json_with_the_job_s_counters(
    upstream: Upstream, directories: Directories
) -> None:
    one_pass(kernels_spec(upstream), directories)
    record = json.loads((directories.state / "status.json").read_text())
    assert record["details"]["net_links"] == 4
    assert record["master"]["seen_at"] is not None


@pytest.mark.parametrize("odd", ["Infinity", "NaN", "1e999", "-1e999", "1" + "0" * 400])
def test_listed_time_that_is_none_is_not_known(odd: str) -> None:
    assert listing._seconds({"timestamp": json.loads(odd)}) is None


def test_file_taken_over_from_an_earlier_mirror_goes_after_its_retention_over_restarts(
    upstream: Upstream, directories: Directories
) -> None:
    (directories.kernels / "dropped.efi").write_bytes(b"of an earlier mirror")
    kept = kernels_spec(upstream, retention_days=1)
    for _ in range(3):
        assert one_pass(kept, directories).details["retained"] == 1
    one_pass(kernels_spec(upstream, retention_days=0), directories)
    assert served(directories) == kernels(upstream)


@pytest.mark.parametrize("mode", [0o000, 0o400, 0o600, 0o640])
def test_kernel_taken_over_is_open_to_the_bootstrap_server(
    mode: int, upstream: Upstream, directories: Directories
) -> None:
    """Also one that the master does not deliver, so that it is not written anew."""
    spec = kernels_spec(upstream, retention_days=30)
    left = [directories.kernels / name for name in ("dropped.efi", "zos-3.efi")]
    for path in left:
        path.write_bytes(b"MZ of an earlier mirror")
        path.chmod(mode)
    upstream.bootstrap_faults.add(Fault("status", r"/kernel/zos-3\.efi"))
    with contextlib.suppress(PassIncompleteError):
        one_pass(spec, directories)
    for path in left:
        assert path.read_bytes() == b"MZ of an earlier mirror"
        assert path.stat().st_mode & 0o777 == 0o644
