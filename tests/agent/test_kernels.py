"""Kernels and net links: never half, never stale, and a net link always leads somewhere."""

import json
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sync.agent.http import HttpError, Master
from sync.agent.kernels import repair, verify, verifying
from sync.agent.kernels.engine import KernelsEngine
from sync.agent.kernels.record import opened
from sync.agent.passes import PassIncompleteError, one_at_a_time
from sync.agent.runtime import Directories, JobPaused, RunControl, VerifyOptions
from sync.contract import spec as contract
from sync.contract.spec import KernelsSpec
from sync.contract.status import StatusRecord
from tests.agent.mirrors import QUICK, kernels_spec, make_directories, make_reporter
from tests.agent.scripted import Answer, ScriptedServer
from tests.sandbox.upstream import Fault, Upstream, UpstreamModel
from tests.sandbox.upstream.nodes import File

OLD = 1_700_000_000.0
DAY = 86_400.0


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    model = UpstreamModel()
    chance = random.Random(1)
    for number in range(6):
        model.add_kernel(f"zos-{number}.efi", chance.randbytes(40_000 + number), OLD + number * DAY)
    for mode, number in (("prod", 1), ("test", 2), ("dev", 4), ("qa", 5)):
        model.set_net_link(mode, f"zos-{number}.efi")
    with Upstream(model) as running:
        yield running


@pytest.fixture
def directories(tmp_path: Path) -> Directories:
    return make_directories(tmp_path)


@contextmanager
def engine_of(spec: KernelsSpec, directories: Directories) -> Iterator[KernelsEngine]:
    control = RunControl()
    reporter = make_reporter("kernels", directories, spec.source)
    master = Master(spec.source, spec.http, control, backoff=spec.backoff)
    try:
        with opened(directories.state) as record:
            yield KernelsEngine(spec, directories, reporter, control, record, master)
    finally:
        master.close()
        reporter.close()


def one_pass(spec: KernelsSpec, directories: Directories) -> StatusRecord:
    with engine_of(spec, directories) as engine:
        engine.one_pass()
        return engine._reporter.record


def served(directories: Directories) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes() for path in directories.kernels.iterdir() if path.is_file()
    }


def links(directories: Directories) -> dict[str, str]:
    net = directories.kernels / "net"
    return {path.stem: str(path.readlink()) for path in net.iterdir()}


def kernels(upstream: Upstream) -> dict[str, bytes]:
    return {name: kernel.data for name, kernel in upstream.model.kernels.items()}


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
    upstream.model.add_kernel("zos-3.efi", b"newer", OLD + 9 * DAY)
    upstream.model.add_kernel("zos-2.efi", b"older file put over it", OLD - DAY)
    one_pass(spec, directories)
    assert served(directories) == kernels(upstream)


def test_kernel_that_changed_within_the_second_of_its_listing_is_read_again(
    upstream: Upstream, directories: Directories
) -> None:
    spec = kernels_spec(upstream)
    moment = float(int(time.time()))
    upstream.model.add_kernel("fresh.efi", b"first", moment)
    one_pass(spec, directories)
    upstream.model.add_kernel("fresh.efi", b"second", moment)
    one_pass(spec, directories)
    assert served(directories)["fresh.efi"] == b"second"


def test_moved_net_link_follows_and_old_one_serves_until_then(
    upstream: Upstream, directories: Directories
) -> None:
    spec = kernels_spec(upstream)
    one_pass(spec, directories)
    upstream.model.add_kernel("zos-9.efi", b"brand new", OLD + 20 * DAY)
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
        upstream.model.add_kernel(f"twin-{letter.decode()}.efi", letter * 5000, OLD + 30 * DAY)
    upstream.model.set_net_link("dev", "twin-b.efi")
    one_pass(kernels_spec(upstream), directories)
    assert links(directories)["dev"] == "../twin-b.efi"


def test_net_file_of_its_own_is_served_as_a_file(
    upstream: Upstream, directories: Directories
) -> None:
    upstream.model.set_net_link("qa", File(b"no listed kernel", OLD))
    spec = kernels_spec(upstream)
    one_pass(spec, directories)
    one_pass(spec, directories)
    own = directories.kernels / "net" / "qa.efi"
    assert not own.is_symlink()
    assert own.read_bytes() == b"no listed kernel"


def test_net_file_of_its_own_comes_back_when_it_is_lost(
    upstream: Upstream, directories: Directories
) -> None:
    upstream.model.set_net_link("qa", File(b"no listed kernel", OLD))
    spec = kernels_spec(upstream)
    one_pass(spec, directories)
    own = directories.kernels / "net" / "qa.efi"
    own.unlink()
    one_pass(spec, directories)
    assert own.read_bytes() == b"no listed kernel"


def test_damaged_net_file_of_its_own_is_found_and_mended(
    upstream: Upstream, directories: Directories
) -> None:
    upstream.model.set_net_link("qa", File(b"no listed kernel", OLD))
    spec = kernels_spec(upstream)
    one_pass(spec, directories)
    own = directories.kernels / "net" / "qa.efi"
    own.write_bytes(b"no listed kernex")
    report = repair(spec, directories, VerifyOptions())
    assert [problem.name for problem in report.problems] == ["net/qa.efi"]
    assert report.repaired == 1
    assert own.read_bytes() == b"no listed kernel"


def test_net_link_that_can_not_be_asked_for_blocks_nothing_else(
    upstream: Upstream, directories: Directories
) -> None:
    spec = kernels_spec(upstream)
    upstream.bootstrap_faults.add(Fault("status", r"/kernel/net/test\.efi"))
    with pytest.raises(PassIncompleteError, match="net link test"):
        one_pass(spec, directories)
    assert served(directories) == kernels(upstream)
    assert links(directories).keys() == {"prod", "dev", "qa"}


def test_kernel_of_unknown_length_that_may_be_half_is_not_published(
    directories: Directories,
) -> None:
    with ScriptedServer() as server:
        server.put_json("/api/images", [{"name": "zos.efi", "timestamp": OLD}])
        server.pages["/kernel/zos.efi"] = Answer(b"half of a ker", fault="no-length")
        spec = KernelsSpec(
            stack="t", source=server.url, run_modes=[], backoff=QUICK, free_space_floor_bytes=0
        )
        with pytest.raises(PassIncompleteError, match="does not say how long it is"):
            one_pass(spec, directories)
        assert served(directories) == {}
        server.pages["/kernel/zos.efi"] = Answer(b"a whole kernel")
        one_pass(spec, directories)
    assert served(directories) == {"zos.efi": b"a whole kernel"}


def test_page_of_kernels_that_may_be_half_removes_nothing(
    upstream: Upstream, directories: Directories
) -> None:
    one_pass(kernels_spec(upstream), directories)
    page = b'<a href="/kernel/zos-0.efi">kernel</a><td>2023-11-14, 22:13:20 (UTC)</td>'
    with ScriptedServer() as server:
        server.pages["/images"] = Answer(page, fault="no-length")
        with pytest.raises(HttpError, match="does not say how long it is"):
            one_pass(kernels_spec(upstream, source=server.url), directories)
    assert served(directories) == kernels(upstream)


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


def test_master_that_suddenly_lists_nothing_pauses_the_job(
    upstream: Upstream, directories: Directories
) -> None:
    spec = kernels_spec(upstream)
    one_pass(spec, directories)
    before = served(directories)
    upstream.model.kernels.clear()
    upstream.model.net_links.clear()
    with pytest.raises(JobPaused, match="removalConfirmation"):
        one_pass(spec, directories)
    assert served(directories) == before
    confirmed = kernels_spec(upstream, removal_confirmation=1, run_modes=[])
    one_pass(confirmed, directories)
    one_pass(confirmed, directories)
    assert served(directories) == {}


def test_too_many_vanished_at_once_pauses_before_anything_is_removed(
    upstream: Upstream, directories: Directories
) -> None:
    spec = kernels_spec(upstream, removal_floor_items=1)
    one_pass(spec, directories)
    for number in (0, 3):
        upstream.model.delete_kernel(f"zos-{number}.efi")
    with pytest.raises(JobPaused, match="2 of 6"):
        one_pass(spec, directories)
    assert len(served(directories)) == 6


@pytest.mark.parametrize("kind", ["truncate", "reset", "status", "hang", "endless", "html"])
def test_one_bad_kernel_never_blocks_the_others_and_is_never_half_there(
    kind: str, upstream: Upstream, directories: Directories
) -> None:
    upstream.bootstrap_faults.add(Fault(kind, r"/kernel/zos-3\.efi"))  # type: ignore[arg-type]
    limits = {"connections": 4, "read_timeout_seconds": 0.3, "connect_timeout_seconds": 2}
    spec = kernels_spec(upstream, http=limits, max_kernel_bytes=1 << 20)
    with pytest.raises(PassIncompleteError, match=r"zos-3\.efi"):
        one_pass(spec, directories)
    expected = kernels(upstream)
    del expected["zos-3.efi"]
    assert served(directories) == expected
    upstream.bootstrap_faults.clear()
    one_pass(spec, directories)
    assert served(directories) == kernels(upstream)


def test_kernel_that_is_being_written_on_the_master_is_not_published_half(
    directories: Directories,
) -> None:
    """0-bootstrap writes an upload in place: its mtime is now, and its size still grows."""
    now = time.time()
    with ScriptedServer() as server:
        server.put_json("/api/images", [{"name": "growing.efi", "timestamp": int(now)}])
        sizes = iter([1000, *range(2000, 90000, 1000)])
        server.script = lambda asked: (
            Answer(bytes(next(sizes)), mtime=time.time()) if "growing" in asked.path else None
        )
        spec = KernelsSpec(
            stack="t",
            source=server.url,
            run_modes=[],
            free_space_floor_bytes=0,
        )
        with pytest.raises(PassIncompleteError, match="changed while it was fetched"):
            one_pass(spec, directories)
    assert served(directories) == {}


def test_kills_in_mid_transfer_leave_no_half_kernel_and_it_converges(
    upstream: Upstream, directories: Directories
) -> None:
    one_pass(kernels_spec(upstream), directories)
    allowed = {name: {data} for name, data in kernels(upstream).items()}
    spec = kernels_spec(upstream, schedule={"interval_seconds": 0.05})
    (directories.spec / "spec.json").write_bytes(contract.canonical(spec))
    command = [sys.executable, "-m", "sync.agent", "run", "kernels"]
    for name in ("spec", "state", "kernels"):
        command += [f"--{name}-dir", str(getattr(directories, name))]
    chance = random.Random(3)
    for number in range(6):
        name = f"zos-{number}.efi"
        data = chance.randbytes(60_000)
        upstream.model.add_kernel(name, data, OLD + 100 * DAY + number)
        allowed[name].add(data)
        upstream.bootstrap_faults.clear()
        slow = Fault("slow", rf"/kernel/{re.escape(name)}", bytes_per_second=60_000)
        upstream.bootstrap_faults.add(slow)
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            time.sleep(chance.uniform(0.3, 1.2))
            process.kill()
        for served_name, served_data in served(directories).items():
            assert served_data in allowed[served_name]
        assert links(directories).keys() == {"prod", "test", "dev", "qa"}
    upstream.bootstrap_faults.clear()
    one_pass(spec, directories)
    assert served(directories) == kernels(upstream)
    assert list((directories.kernels / ".gridhub").iterdir()) == []


HOSTILE = (
    *("../../etc/cron.d/x", "/etc/passwd", "net/prod.efi", "..", ".", "", ".hidden", "a\0b"),
    *(
        "%2e%2e%2fx.efi",
        "a/b.efi",
        "a\\b",
        "-rf",
        "x" * 300,
        "\u202egnp.efi",
        "z\u043es.efi",
        "a b",
    ),
    *("net", "\n", "a\nb", "~root", "\uff1c.efi", 7, None, ["x"], {"y": 1}, True),
)


def test_hostile_names_are_listed_and_nothing_is_written_outside(
    directories: Directories, tmp_path: Path
) -> None:
    with ScriptedServer() as server:
        rows: list[object] = [{"name": name, "timestamp": OLD} for name in HOSTILE]
        rows += ["not an object", None, {"name": "good.efi", "timestamp": OLD}]
        server.put_json("/api/images", rows)
        server.script = lambda asked: (
            Answer(b"kernel", mtime=OLD) if asked.path.startswith("/kernel/") else None
        )
        spec = KernelsSpec(
            stack="t", source=server.url, run_modes=["../x", "prod"], free_space_floor_bytes=0
        )
        before = {path for path in tmp_path.rglob("*") if directories.kernels not in path.parents}
        record = one_pass(spec, directories)
        after = {path for path in tmp_path.rglob("*") if directories.kernels not in path.parents}
    assert served(directories) == {"good.efi": b"kernel"}
    assert record.refused.count == len(HOSTILE) + 2
    assert {path.parent for path in after - before} <= {directories.state}
    assert links(directories) == {"prod": "../good.efi"}


@pytest.mark.parametrize("page", [b"", b"null", b"{}", b"[[", b"<html>oops</html>", b"[" * 100_000])
def test_listing_that_is_none_stops_the_pass_and_changes_nothing(
    page: bytes, upstream: Upstream, directories: Directories
) -> None:
    one_pass(kernels_spec(upstream), directories)
    before = served(directories)
    with ScriptedServer() as server:
        server.pages["/api/images"] = Answer(page)
        spec = kernels_spec(upstream, source=server.url)
        with pytest.raises(HttpError):
            one_pass(spec, directories)
    assert served(directories) == before


def test_leftovers_of_an_upstream_sync_are_taken_over_or_removed(
    upstream: Upstream, directories: Directories
) -> None:
    half = next(iter(kernels(upstream)))
    (directories.kernels / half).write_bytes(b"half of a kernel")
    (directories.kernels / "gone-from-master.efi").write_bytes(b"old")
    (directories.kernels / ".keep").write_bytes(b"")
    one_pass(kernels_spec(upstream), directories)
    assert served(directories) == kernels(upstream) | {".keep": b""}


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
    upstream.model.add_kernel("zos-9.efi", b"new", OLD + 9 * DAY)
    upstream.model.add_kernel("zos-9.old", b"not wanted", OLD + 9 * DAY)
    report = repair(spec, directories, VerifyOptions())
    assert [problem.name for problem in report.problems] == ["zos-9.efi"]
    assert report.repaired == 1


def test_repair_leaves_what_a_running_pass_has_in_staging(
    upstream: Upstream, directories: Directories
) -> None:
    spec = kernels_spec(upstream)
    one_pass(spec, directories)
    staged = directories.kernels / ".gridhub" / "on its way"
    thread = threading.Thread(target=verifying._one_pass, args=(spec, directories))
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
    with pytest.raises(HttpError):
        verify(spec, directories, VerifyOptions())


def test_status_record_is_json_with_the_job_s_counters(
    upstream: Upstream, directories: Directories
) -> None:
    one_pass(kernels_spec(upstream), directories)
    record = json.loads((directories.state / "status.json").read_text())
    assert record["details"]["net_links"] == 4
    assert record["master"]["seen_at"] is not None
