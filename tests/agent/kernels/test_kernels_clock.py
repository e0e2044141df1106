"""A wrong clock, here or on the master, removes no kernel, and says so; a right one does."""

import pytest

from sync.agent.job import Directories, JobPaused
from sync.agent.kernels.state_db import KernelStateDb
from tests.agent.hub.small_hub import corrupt
from tests.agent.kernels.kernels_mirror import DAY, OLD, kernels, one_pass, served
from tests.agent.mirrors import kernels_spec
from tests.agent.two_clocks import JUMPS, YEAR, TwoClocks, two_clocks
from tests.sandbox.upstream import Upstream

NOW = OLD + 30 * DAY


@pytest.fixture
def clocks(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> TwoClocks:
    return two_clocks(upstream.bootstrap, monkeypatch, NOW)


@pytest.mark.parametrize("wrong", JUMPS.values(), ids=JUMPS)
@pytest.mark.parametrize("dropped", [0, 2], ids=["all listed", "two dropped"])
def test_no_clock_that_jumps_removes_a_kernel_that_is_too_old_by_it_alone(
    wrong: tuple[float, float],
    dropped: int,
    upstream: Upstream,
    directories: Directories,
    clocks: TwoClocks,
) -> None:
    spec = kernels_spec(upstream, max_age_days=400, run_modes=["prod"], retention_days=30)
    one_pass(spec, directories)
    before = served(directories)
    assert len(before) == 6
    for number in range(dropped):
        upstream.model.delete_kernel(f"zos-{number + 2}.efi")
    one_pass(spec, directories)
    clocks.set(NOW + DAY, wrong)
    record = one_pass(spec, directories)
    assert served(directories) == before
    assert [name for name in record.broken.names if "removals are paused" in name]
    clocks.set(NOW + 2 * DAY)
    record = one_pass(spec, directories)
    assert served(directories) == before
    assert record.broken.names == []
    assert record.details["retained"] == dropped


def test_kernels_age_by_the_masters_clock_and_go_one_by_one(
    upstream: Upstream, directories: Directories, clocks: TwoClocks
) -> None:
    spec = kernels_spec(upstream, max_age_days=400, run_modes=["prod"])
    one_pass(spec, directories)
    for day, left in ((399, 6), (401, 5), (402, 5), (403, 4)):
        clocks.set(OLD + day * DAY, (0, DAY * 0.9))
        one_pass(spec, directories)
        assert len(served(directories)) == left, day  # zos-1 stays, as prod names it


@pytest.mark.parametrize("cause", ["age", "retention"])
def test_guard_covers_what_age_and_retention_remove(
    cause: str, upstream: Upstream, directories: Directories, clocks: TwoClocks
) -> None:
    """Both clocks wrong alike, or a master that was off for years: no more than may vanish."""
    settings: dict[str, object] = {"run_modes": ["prod"], "removal_floor_items": 2}
    settings |= {"max_age_days": 400} if cause == "age" else {"retention_days": 30}
    spec = kernels_spec(upstream, **settings)
    one_pass(spec, directories)
    before = served(directories)
    if cause == "retention":
        for number in (0, 2, 3):
            upstream.model.delete_kernel(f"zos-{number}.efi")
            one_pass(spec, directories)
    clocks.set(NOW + 15 * YEAR)
    with pytest.raises(JobPaused, match="outlived their age or retention"):
        one_pass(spec, directories)
    assert served(directories) == before
    confirmed = spec.model_copy(update={"removal_confirmation": 1})
    one_pass(confirmed, directories)
    assert len(served(directories)) == (1 if cause == "age" else 3)


def test_master_that_says_no_time_lets_nothing_outlive(
    upstream: Upstream, directories: Directories, clocks: TwoClocks
) -> None:
    spec = kernels_spec(upstream, max_age_days=400, run_modes=["prod"], retention_days=1)
    one_pass(spec, directories)
    before = served(directories)
    upstream.model.delete_kernel("zos-5.efi")
    one_pass(spec, directories)
    clocks.master, clocks.here = None, NOW + 15 * YEAR
    one_pass(spec, directories)
    assert served(directories) == before


@pytest.mark.parametrize("noted", [NOW + 15 * YEAR, 0.0, 300.0, 10 * YEAR])
def test_retention_noted_by_a_clock_that_was_wrong_counts_from_now(
    noted: float, upstream: Upstream, directories: Directories, clocks: TwoClocks
) -> None:
    """As an earlier release noted it, which counted by this host's clock."""
    spec = kernels_spec(upstream, run_modes=["prod"], retention_days=30)
    one_pass(spec, directories)
    upstream.model.delete_kernel("zos-5.efi")
    one_pass(spec, directories)
    with KernelStateDb(directories.state) as state_db:
        state_db._db.execute("UPDATE kernel SET missing_since=? WHERE name='zos-5.efi'", (noted,))
    one_pass(spec, directories)
    clocks.set(NOW + 29 * DAY)
    one_pass(spec, directories)
    assert "zos-5.efi" in served(directories)
    clocks.set(NOW + 31 * DAY)
    one_pass(spec, directories)
    assert "zos-5.efi" not in served(directories)


def test_kernel_that_came_back_is_retained_anew_when_it_goes_again(
    upstream: Upstream, directories: Directories, clocks: TwoClocks
) -> None:
    spec = kernels_spec(upstream, run_modes=["prod"], retention_days=30)
    one_pass(spec, directories)
    kernel = upstream.model.kernels["zos-5.efi"]
    for day in (1, 40):
        clocks.set(NOW + day * DAY)
        upstream.model.delete_kernel("zos-5.efi")
        one_pass(spec, directories)
        assert "zos-5.efi" in served(directories), day
        upstream.model.add_kernel("zos-5.efi", kernel.data, kernel.modified)
        assert one_pass(spec, directories).details["retained"] == 0


@pytest.mark.parametrize("date", [b"1000000000", b"0", b"1e9", b"1e999", b"-1700259200"])
def test_kernel_that_only_the_list_calls_old_stays(
    date: bytes, upstream: Upstream, directories: Directories, clocks: TwoClocks
) -> None:
    """A byte turned over in the page makes a kernel 22 years older."""
    spec = kernels_spec(upstream, max_age_days=400, run_modes=["prod"])
    one_pass(spec, directories)
    listed = b"%d" % (OLD + 3 * DAY)
    corrupt(upstream.bootstrap, "/api/images", listed, date)
    record = one_pass(spec, directories)
    assert served(directories) == kernels(upstream)
    assert clocks.master == NOW
    assert any("zos-3.efi" in name for name in record.broken.names)
